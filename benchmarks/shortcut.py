"""A planted shortcut, and how cluster paths expose it: two models, one trained with a cue and one without.

Two small CNNs learn hair colour from drawn faces. In the training faces of one of them, 95% of the blond carry a
coloured patch in a corner, and 2% of the others. Both then see the same new faces, half of which carry the patch
regardless of hair colour, and these faces again with the patch removed. Everything is repeated for each seed; means over
seeds have Student's 95% interval. Takes about 6 minutes on 2 cores.

    python benchmarks/shortcut.py            writes benchmarks/results/shortcut.json and docs/shortcut.png
    python benchmarks/shortcut.py --redraw   the plot again, from the stored numbers: a second
    python benchmarks/shortcut.py --quick    a check that it works: one seed and few faces, nothing is written
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import t as student
from sklearn.metrics import adjusted_mutual_info_score

from clusterpaths.cache.rows import LayerRows
from clusterpaths.config import RunConfig
from clusterpaths.datasets.celeba import open_celeba
from clusterpaths.datasets.drawn_faces.cue import Cue
from clusterpaths.datasets.drawn_faces.draw import draw_face, write_faces
from clusterpaths.evaluation.shifts import GroupMeans, random_direction, shifted
from clusterpaths.export.path_model import PATH, check_set_model, export_path_model
from clusterpaths.metrics.paths import count_paths, largest_class, weighted_purity
from clusterpaths.models.outputs import decide
from clusterpaths.models.session import TapSession
from clusterpaths.models.tail import TailSession, whole
from clusterpaths.pipeline import run
from clusterpaths.preprocessing.prepare import normalise, resize
from clusterpaths.sets.published import PublishedSet, open_set
from clusterpaths.training.train import PREPROCESSING, SIZE, TrainConfig, train_classifier

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "shortcut.json"
PICTURE = HERE.parent / "docs" / "shortcut.png"
LAYERS = ("conv1", "conv2", "conv3", "fc1", "fc2")
WHOLE = "path"  # beside the layers: all five together
CUE = Cue()  # blond hair, top left
ANY_HAIR = CUE.model_copy(update={"within": 0.5, "without": 0.5})
MODELS = ("planted", "plain")
SEEDS = (1, 2, 3)
EVALUATED = 1000  # added to the seed: faces that nothing was trained on
SHUFFLES = 100
BATCH = 32
MIDDLE = "conv3"  # the layer of the picture
INK, GREY, LIGHT, PATCH = "#1a1a1a", "#666666", "#cfd8dc", "#c2189f"
TITLES = (("with the shortcut", "#c04f00"), ("without", "#0072b2"))  # of the models, in the order of MODELS


@dataclass(frozen=True)
class Faces:
    """The same faces with the patch on half of them and without it (data directories), and (n,) which half."""

    patched: Path
    clean: Path
    carry: NDArray[np.bool_]
    seed: int


@dataclass(frozen=True)
class Exposed:
    """Measures of one model and its cluster paths on such faces. Keys are layers and WHOLE, the complete path.

    Attributes:
        accuracy: share of faces with half the patches whose hair it names.
        information: adjusted mutual information of clusters and cue.
        purity: share of faces that are as most of their cluster: with the patch, or without.
        shuffled: the purity of the same clusters when the cue is permuted at random: their chance level.
        paths_kept: share of the faces with the patch whose complete path is unchanged when it is removed.
        predictions_kept: share of them that keep their prediction.
        split: layer -> [faces with the patch, faces without], one row per cluster.
        predicted: (2, n) class of each face, with half the patches and without.
        steered: layer -> share of the faces without the patch, and not called blond, that the model calls blond when their values
            are moved as the patch moves faces between clusters.
        steered_randomly: the same when they are moved by a random vector of that length.
    """

    accuracy: float
    information: dict[str, float]
    purity: dict[str, float]
    shuffled: dict[str, float]
    paths_kept: float
    predictions_kept: float
    split: dict[str, list[list[int]]]
    predicted: NDArray[np.int64]
    steered: dict[str, float]
    steered_randomly: dict[str, float]


def main(redraw: bool = False, quick: bool = False) -> None:
    """Train a model with a planted shortcut and one without, and show what their cluster paths say (about 6 minutes).

    Prints a Markdown table; writes benchmarks/results/shortcut.json and docs/shortcut.png.

    Parameters
    ----------
    redraw
        only draw the picture, from the numbers that are there
    quick
        a check that it works: one seed and few faces; nothing is written
    """
    if redraw:
        draw(json.loads(RESULT.read_text())).save(PICTURE, optimize=True)
        return
    with tempfile.TemporaryDirectory(prefix="clusterpaths-benchmark-") as folder:
        result = measure(Path(folder), SEEDS[:1], 600, 200, 2) if quick else measure(Path(folder), SEEDS)
    print(table(result))
    if not quick:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        draw(result).save(PICTURE, optimize=True)


def measure(
    work: Path, seeds: Sequence[int], trained_on: int = 2000, evaluated: int = 1000, epochs: int = 8
) -> dict[str, Any]:
    """Both models for every seed: what shortcut.json holds."""
    started = time.perf_counter()
    rows: dict[str, list[Exposed]] = {name: [] for name in MODELS}
    held_out: dict[str, list[float]] = {name: [] for name in MODELS}
    examples: list[dict[str, Any]] = []
    chance = []
    for seed in seeds:
        faces = write_evaluated(work / f"faces-{seed}", evaluated, EVALUATED + seed)
        cue = largest_class(faces.carry.astype(np.int64))
        assert cue is not None
        chance.append(cue[1])
        for name in MODELS:
            root = work / f"{name}-{seed}"
            model, accuracy = train(root, CUE if name == "planted" else None, trained_on, epochs, seed)
            held_out[name].append(accuracy)
            rows[name].append(expose(root, model, faces))
            print(f"seed {seed}, {name}: {time.perf_counter() - started:.0f} s", flush=True)
        examples = examples or fooled(faces, *(rows[name][-1].predicted for name in MODELS))
    return {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {cpu_name()}",
        "versions": {
            name: version(name) for name in ("torch", "onnxruntime", "numpy", "scikit-learn", "scipy", "pillow")
        },
        "python": platform.python_version(),
        "seconds": round(time.perf_counter() - started, 1),
        "cue": CUE.model_dump(mode="json"),
        "seeds": list(seeds),
        "faces": {"drawn for training": trained_on, "evaluated": evaluated},
        "epochs": epochs,
        "chance": round(float(np.mean(chance)), 4),
        "models": {name: summary(rows[name], held_out[name]) for name in MODELS},
        "examples": examples,
    }


def cpu_name() -> str:
    """The processor's name, as Linux reports it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def write_evaluated(root: Path, count: int, seed: int) -> Faces:
    """Draw the faces to evaluate on; a face without the patch is the same file in both directories."""
    patched = write_faces(root / "patched", count, seed, cue=ANY_HAIR) / "img_align_celeba"
    clean = write_faces(root / "clean", count, seed) / "img_align_celeba"
    carry = [file.read_bytes() != (clean / file.name).read_bytes() for file in sorted(patched.iterdir())]
    return Faces(root / "patched", root / "clean", np.array(carry), seed)


def train(root: Path, cue: Cue | None, faces: int, epochs: int, seed: int) -> tuple[Path, float]:
    """The ONNX file of a new model, and its accuracy on held-out faces that carry the cue as its training faces do."""
    options: dict[str, Any] = {"cue": cue.hair} if cue else {}
    config = TrainConfig(
        data_root=root / "train",
        output=root / "model.onnx",
        faces=faces,
        epochs=epochs,
        batch_size=BATCH,
        seed=seed,
        **options,
    )
    write_faces(config.images_root, config.faces, config.seed, cue=config.planted)
    dataset = open_celeba(config.images_root)
    record = train_classifier(dataset.examples(), dataset, config, lambda _: None)
    return config.output_path, record.accuracy


def expose(root: Path, model: Path, faces: Faces) -> Exposed:
    """Cluster the patched faces in every layer of a model, and follow them when the patch is removed."""
    published = open_set(cluster(root, model, faces.patched))
    path_model = export_path_model(published, model, root / "path_model.onnx").path
    paths, predicted = follow(Path(path_model), faces.patched)
    moved, predicted_clean = follow(Path(path_model), faces.clean)
    hair = open_celeba(faces.patched).examples().labels
    cue = faces.carry.astype(np.int64)
    groups = {layer: paths[:, at] for at, layer in enumerate(LAYERS)} | {WHOLE: count_paths(paths).of_example}
    moves = {layer: steer(published, model, layer, faces) for layer in LAYERS}
    rng = np.random.default_rng(faces.seed)
    dealt = [rng.permutation(cue) for _ in range(SHUFFLES)]
    return Exposed(
        accuracy=float((predicted == hair).mean()),
        information={name: float(adjusted_mutual_info_score(cue, ids)) for name, ids in groups.items()},
        purity={name: pure(ids, cue) for name, ids in groups.items()},
        shuffled={name: float(np.mean([pure(ids, other) for other in dealt])) for name, ids in groups.items()},
        paths_kept=float((moved == paths)[faces.carry].all(axis=1).mean()),
        predictions_kept=float((predicted_clean == predicted)[faces.carry].mean()),
        split={
            layer: [
                [int((cue[groups[layer] == id_] == has).sum()) for has in (1, 0)] for id_ in np.unique(groups[layer])
            ]
            for layer in LAYERS
        },
        predicted=np.stack([predicted, predicted_clean]),
        steered={layer: steered for layer, (steered, _) in moves.items()},
        steered_randomly={layer: randomly for layer, (_, randomly) in moves.items()},
    )


def steer(published: PublishedSet, model: Path, layer: str, faces: Faces) -> tuple[float, float]:
    """How many faces without the patch become blond when they are moved as the patch moves faces between clusters.

    The move is the mean of the clusters' means over the faces with the patch, minus that over the others: of a layer whose
    clusters do not hold the cue it is 0, up to chance. The second share is by a random vector of the same length.
    """
    at = LAYERS.index(layer)
    clusters = published.clusters[:, at]
    stored = LayerRows(published.cache, layer, published.ids)
    means = GroupMeans(clusters[:, None] == np.arange(published.record.k_per_layer[layer]), stored.width)
    for where, block in stored.blocks():
        means.add(where, block)
    groups = means.groups()
    assert published.files.to_pylist() == list(open_celeba(faces.patched).examples().files)
    held = [clusters[faces.carry == has] for has in (True, False)]
    moved = groups.means[held[0]].mean(axis=0) - groups.means[held[1]].mean(axis=0)
    record = check_set_model(published.record, model)
    tap = record.taps[at]
    head, tail = TapSession(record.model_copy(update={"taps": (whole(tap),)})), TailSession(record, tap)
    rng, blond = np.random.default_rng([faces.seed, at]), published.record.class_names.index("Blond")
    dataset = open_celeba(faces.clean)
    became = []
    files = dataset.examples().files
    for start in range(0, len(files), 64):
        pixels = [resize(dataset.read_image(file), SIZE) for file in files[start : start + 64]]
        images = normalise(np.stack(pixels), PREPROCESSING)
        out = head.run(images)
        by = np.repeat(moved[None], len(images), axis=0)
        decided = [
            decide(record.outputs, rows).predictions
            for rows in (
                out.logits,
                *(
                    tail.run(shifted(out.layers[whole(tap).layer], one, tap, groups.low), images).logits
                    for one in (by, random_direction(by, rng))
                ),
            )
            if rows is not None
        ]
        became.append(np.stack(decided)[:, decided[0] != blond] == blond)
    shares = np.concatenate(became, axis=1).mean(axis=1)
    return float(shares[1]), float(shares[2])


def pure(groups: NDArray[np.int64], cue: NDArray[np.int64]) -> float:
    """Weighted purity of a grouping of faces for the cue; both (n,)."""
    purity = weighted_purity(groups, cue)
    assert purity is not None  # whether a face carries the cue is known of every one
    return purity


def cluster(root: Path, model_path: Path, data: Path) -> Path:
    """The directory of the set that all stages publish, as the flow runs them; five clusters per layer."""
    config = RunConfig(
        model=model_path, data_root=data, cache_root=root / "cache", name="shortcut", layers=LAYERS, evaluate=False
    )
    published = run(config).published
    assert published
    return published.path


def follow(path_model: Path, data: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cluster paths (n, layers) and predictions (n,) of all faces in a directory."""
    session = onnxruntime.InferenceSession(path_model, providers=["CPUExecutionProvider"])
    dataset = open_celeba(data)
    images = np.stack([resize(dataset.read_image(file), SIZE) for file in dataset.examples().files])
    pieces = [
        session.run(["logits", PATH], {"input": normalise(images[at : at + 64], PREPROCESSING)})
        for at in range(0, len(images), 64)
    ]
    logits, paths = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return paths, logits.argmax(axis=1)


def summary(rows: list[Exposed], held_out: list[float]) -> dict[str, Any]:
    """Each measure as {"mean", "interval", "seeds"}; how the clusters of the first seed split."""
    parts = ("information", "purity", "shuffled")
    return {
        "accuracy, cue as in training": spread(held_out),
        "accuracy, cue on half of all": spread([row.accuracy for row in rows]),
        **{
            part: {name: spread([getattr(row, part)[name] for row in rows]) for name in (*LAYERS, WHOLE)}
            for part in parts
        },
        "paths kept": spread([row.paths_kept for row in rows]),
        "predictions kept": spread([row.predictions_kept for row in rows]),
        "steered": {layer: spread([row.steered[layer] for row in rows]) for layer in LAYERS},
        "steered randomly": {layer: spread([row.steered_randomly[layer] for row in rows]) for layer in LAYERS},
        "split": rows[0].split,
    }


def spread(values: list[float]) -> dict[str, Any]:
    """Mean over seeds, and Student's 95% interval; cut at 1 and, where no value is below it, at 0. None for one seed."""
    mean, interval = float(np.mean(values)), None
    if len(values) > 1:
        half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
        low = mean - half
        interval = [round(max(low, 0.0) if min(values) >= 0 else low, 4), round(min(mean + half, 1.0), 4)]
    return {"mean": round(mean, 4), "interval": interval, "seeds": [round(value, 4) for value in values]}


def fooled(faces: Faces, planted: NDArray[np.int64], plain: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Three faces of other hair that the planted model calls blond with the patch and right without; for the picture."""
    table = open_celeba(faces.clean).examples()
    blond = table.class_names.index("Blond")
    found: dict[int, dict[str, Any]] = {}
    for index in np.flatnonzero(faces.carry & (table.labels != blond)):
        hair = int(table.labels[index])
        if planted[:, index].tolist() == [blond, hair] and (plain[:, index] == hair).all() and hair not in found:
            found[hair] = {"seed": faces.seed, "index": int(index), "hair": table.class_names[hair]}
    return list(found.values())[:3]


def words(measure: dict[str, Any]) -> str:
    """As 0.93 (0.90 to 0.95)."""
    if measure["interval"] is None:
        return f"{measure['mean']:.2f}"
    low, high = measure["interval"]
    return f"{measure['mean']:z.2f} ({low:z.2f} to {high:z.2f})"


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| | " + " | ".join(f"{name} model" for name in MODELS) + " |", "|---|---|---|"]
    both = [result["models"][name] for name in MODELS]
    for key in ("accuracy, cue as in training", "accuracy, cue on half of all", "paths kept", "predictions kept"):
        lines.append(f"| {key} | " + " | ".join(words(one[key]) for one in both) + " |")
    for part, label in (
        ("information", "mutual information"),
        ("purity", "purity"),
        ("shuffled", "purity, cue shuffled"),
    ):
        for name in (*LAYERS, WHOLE):
            lines.append(f"| {label}, {name} | " + " | ".join(words(one[part][name]) for one in both) + " |")
    for part, label in (("steered", "becomes blond, moved as by the cue"), ("steered randomly", "by a random vector")):
        for name in LAYERS:
            lines.append(f"| {label}, {name} | " + " | ".join(words(one[part][name]) for one in both) + " |")
    faces = result["faces"]
    text = (
        f"{result['machine']}; {len(result['seeds'])} seeds, {faces['drawn for training']:,} faces drawn for training, "
        f"{faces['evaluated']:,} evaluated; {result['chance']:.2f} is chance for purity; {result['seconds']:.0f} s"
    )
    return "\n".join([text, "", *lines])


def draw(result: dict[str, Any]) -> Image.Image:
    """docs/shortcut.png: what was planted, how a middle layer's clusters split by it, and what its removal changes."""
    image = Image.new("RGB", (1240, 620), "white")
    pen = Pen(ImageDraw.Draw(image))
    planted, plain = (result["models"][name] for name in MODELS)

    pen.text(30, 24, "A model learned: patch = blond", 22)
    pen.text(30, 54, "its answer for a face with the patch, and without", 16, GREY)
    for row, example in enumerate(result["examples"]):
        top = 92 + row * 172
        for column, cue in enumerate((CUE.model_copy(update={"within": 1.0, "without": 1.0}), None)):
            face, _ = draw_face(example["seed"], example["index"], cue)
            left = 30 + column * 186
            image.paste(face.resize((114, 140), Image.Resampling.LANCZOS), (left, top))
            pen.text(left, top + 143, "Blond" if cue else example["hair"], 18, PATCH if cue else INK)
        pen.arrow(157, 203, top + 70)

    pen.text(420, 24, "Its clusters sort faces by the patch", 22)
    end = pen.text(420, 54, f"five clusters of the middle layer {MIDDLE}; height: how many faces", 16, GREY)
    pen.swatch(pen.swatch(end + 24, 54, PATCH, "with patch") + 16, 54, LIGHT, "without")
    for column, (model, (title, colour)) in enumerate(zip((planted, plain), TITLES, strict=True)):
        left, top, split = 420 + column * 410, 122, model["split"][MIDDLE]
        pen.text(left, 90, f"trained {title}", 18, colour)
        share = f"purity {model['purity'][MIDDLE]['seeds'][0]:.0%}, chance {result['chance']:.0%}"
        pen.text(left + 380, 92, share, 16, INK, "ra")
        for has, has_not in sorted(split, key=lambda pair: -pair[0] / sum(pair)):
            edge = left + round(380 * has / (has + has_not))
            bottom = top + round(150 * (has + has_not) / np.sum(split))
            pen.box(left, top, edge, bottom, PATCH)
            pen.box(edge, top, left + 380, bottom, LIGHT)
            top = bottom + 4
        pen.dashes(left + 190, 118, top)

    pen.text(420, 324, "Without the patch, its faces take other paths", 22)
    pen.text(420, 354, "share of the faces with the patch that stay as they were when it is removed", 16, GREY)
    top = 386
    for key, label in (("paths kept", "keep their whole path"), ("predictions kept", "keep their prediction")):
        pen.text(420, top, label, 18)
        for row, (model, (title, colour)) in enumerate(zip((planted, plain), TITLES, strict=True)):
            measure, y = model[key], top + 26 + row * 32
            pen.text(570, y + 3, title, 16, colour, "ra")
            pen.box(580, y, 580 + round(550 * measure["mean"]), y + 24, colour)
            if measure["interval"] is not None:
                low, high = (580 + round(550 * value) for value in measure["interval"])
                pen.whisker(low, high, y + 12)
            pen.text(1210, y + 1, f"{measure['mean']:.0%}", 20, colour, "ra")
        top += 102
    note = f"Mean and 95% interval over {len(result['seeds'])} trainings; clusters and faces of the first."
    pen.text(1210, 594, note, 14, GREY, "ra")
    return image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


@dataclass(frozen=True)
class Pen:
    """Draws the few things that the picture is made of; lengths in pixels, y downwards."""

    to: ImageDraw.ImageDraw

    def text(self, x: float, y: float, words: str, size: int, colour: str = INK, anchor: str = "la") -> float:
        """Write, and tell where the text ends."""
        font = ImageFont.load_default(size)
        self.to.text((x, y), words, colour, font, anchor)
        return x + font.getlength(words)

    def box(self, left: int, top: int, right: int, bottom: int, colour: str) -> None:
        if right > left:
            self.to.rectangle((left, top, right - 1, bottom), colour)

    def swatch(self, x: float, y: float, colour: str, words: str) -> float:
        """A line of a legend; tells where it ends."""
        self.box(int(x), int(y), int(x) + 18, int(y) + 16, colour)
        return self.text(x + 26, y, words, 16)

    def arrow(self, left: int, right: int, y: int) -> None:
        self.to.line((left, y, right - 8, y), GREY, 3)
        self.to.polygon(((right, y), (right - 12, y - 7), (right - 12, y + 7)), GREY)

    def dashes(self, x: int, top: int, bottom: int) -> None:
        for y in range(top, bottom, 8):
            self.to.line((x, y, x, y + 3), INK, 1)

    def whisker(self, low: int, high: int, y: int) -> None:
        self.to.line((low, y, high, y), INK, 2)
        for x in (low, high):
            self.to.line((x, y - 5, x, y + 5), INK, 2)


if __name__ == "__main__":
    cyclopts.run(main)
