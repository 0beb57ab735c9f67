"""Is the model's input correct? The configured preprocessing against the known presets, on labelled examples.

Belongs here: choosing examples, scoring presets, the verdict and its sentence, and storing it: a cache's directory holds
the last one with its fingerprint, a set's directory the one that it was made with.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from clusterpaths.datasets.base import Dataset, ExampleTable
from clusterpaths.metrics.intervals import wilson
from clusterpaths.models.outputs import decide
from clusterpaths.models.session import TapSession
from clusterpaths.preprocessing.class_order import ClassOrder, best_assignment, find_order
from clusterpaths.preprocessing.prepare import PRESETS, called, fit, normalise
from clusterpaths.records import Channels, InputType, ModelRecord, Preprocessing, Record, fingerprint
from clusterpaths.storage import Storage

CHECK = "preprocessing_check.json"
VERSION = 2  # raised when the verdict changes
MIN_LABELLED = 30  # below, labels are not used: an assignment of classes would overfit
MIN_EXAMPLES, MAX_EXAMPLES = 100, 300
_SHUFFLES = 100  # of the labels, for what the best assignment reaches by chance
_BATCH = 32
_MOST_PAIRS = 10_000_000  # of outputs and classes: the assignment takes memory for each
_COMPARED = ("size", "mean", "std", "scale", "resize", "channels")


class PresetScore(Record):
    """How one preprocessing does. With labels: `right`, accuracy and interval; without: the other two."""

    preprocessing: Preprocessing
    right: int | None = Field(default=None, description="examples with the class that their output is assigned to")
    accuracy: float | None = None
    interval: tuple[float, float] | None = Field(default=None, description="Wilson's, 95%")
    confidence: float | None = Field(default=None, description="mean of the largest probability")
    dead: float | None = Field(default=None, description="share of units with one value for all examples")


class PreprocessingCheck(Record):
    """What the check found."""

    verdict: Literal["fine", "another preset is clearly better", "no labels"]
    sentence: str
    best: Preprocessing = Field(description="the preset with the highest accuracy; the configured one on a tie")
    scores: tuple[PresetScore, ...] = Field(description="the configured one first")
    labelled: int = Field(description="examples compared by label; 0: too few have one")
    chance: float | None = Field(
        default=None, description="accuracy that the best one's outputs reach on shuffled labels"
    )
    order: tuple[str, ...] = Field(default=(), description="class of each output under the best; empty: none")
    identity: bool = Field(default=False, description="the outputs are in the order of the data set's classes")
    class_order: ClassOrder | None = Field(
        default=None, description="the order of the classes; None: the model names them, or has another number of them"
    )

    @property
    def alarming(self) -> bool:
        """Whether the configured preprocessing is most likely wrong."""
        return self.verdict == "another preset is clearly better"

    def speaks_against(self, used: Preprocessing) -> bool:
        """Whether the preprocessing of a set is most likely wrong; not where the better one was taken."""
        return self.alarming and used != self.best

    @property
    def table(self) -> str:
        """Markdown: a row for each preprocessing."""
        lines = [
            "| preprocessing | accuracy | 95% interval | mean confidence | dead units |",
            "|---|---:|---|---:|---:|",
        ]
        for score in self.scores:
            low_high = f"{score.interval[0]:.1%} to {score.interval[1]:.1%}" if score.interval else ""
            shares = [_percent(value) for value in (score.accuracy, score.confidence, score.dead)]
            lines.append(f"| {called(score.preprocessing)} | {shares[0]} | {low_high} | {shares[1]} | {shares[2]} |")
        return "\n".join(lines) + "\n"


class CachedCheck(Record):
    """preprocessing_check.json of a cache: a check, and the fingerprint of its inputs."""

    question: str
    check: PreprocessingCheck


def cached_check(
    directory: Storage,
    model: ModelRecord,
    dataset: Dataset,
    table: ExampleTable,
    configured: Preprocessing,
    *,
    seed: int = 0,
) -> CachedCheck | None:
    """The check of a run whose results go to `directory`: the stored one if its input is the same, else a new one.

    Nothing is written here: `write_check` does that once the run has prepared its directory.

    An eighth of the examples is tried, but 100 at least and 300 at most: with 800 examples or more, the eight presets
    cost no more model runs than the extraction itself. None for a table too small for a verdict.
    """
    if len(table) < MIN_LABELLED:
        return None
    examples = int(np.clip(len(table) // 8, MIN_EXAMPLES, MAX_EXAMPLES))
    question = fingerprint(
        {
            "version": VERSION, "model": model.sha256, "taps": model.layers, "dataset": dataset.name, "seed": seed,
            "configured": configured.model_dump(mode="json"), "class_names": table.class_names,
            "outputs": [model.outputs.name, model.outputs.kind, model.outputs.class_names],
            "table": [table.ids.tolist(), table.files, table.sizes.tolist(), table.labels.tolist()],
        }
    )  # fmt: skip
    try:
        found = CachedCheck.model_validate_json(directory.read(CHECK))
    except (FileNotFoundError, ValidationError):
        found = None
    if found and found.question == question:
        return found
    check = check_preprocessing(model, dataset, table, configured, examples=examples, seed=seed)
    return CachedCheck(question=question, check=check)


def write_check(directory: Storage, checked: CachedCheck) -> None:
    """Write the check beside a cache, for the next run.

    Raises:
        DiskError: no room or no permission.
    """
    directory.write_json(CHECK, checked.model_dump(mode="json"))


def parse_check(document: bytes | None) -> PreprocessingCheck | None:
    """The check that a set was made with, parsed from its document; None where it is missing or cannot be parsed."""
    try:
        return None if document is None else PreprocessingCheck.model_validate_json(document)
    except ValidationError:
        return None


def check_preprocessing(
    model: ModelRecord,
    dataset: Dataset,
    table: ExampleTable,
    configured: Preprocessing,
    *,
    examples: int = MAX_EXAMPLES,
    seed: int = 0,
) -> PreprocessingCheck:
    """Try each known preset, in RGB and BGR, on up to `examples` examples drawn by the seed.

    With labels: accuracy under the best one-to-one assignment of the model's outputs to classes (their order need not
    be the data set's; Kuhn, The Hungarian Method, 1955), since an unknown order must not look like a wrong
    preprocessing. The best assignment is fitted to the very examples it is measured on, and so is never at chance:
    another preset counts as clearly better only where its interval lies above the configured one's *and* above what
    its outputs reach on shuffled labels, at the 99th of 100. A model that is near chance with any input (other
    classes than the labels') thus raises no alarm. Without labels, or with a single class score, confidence and dead
    units are a hint, never a warning: a wrong input can make a model very confident.
    """
    positions = np.flatnonzero(table.labels >= 0)
    classes = len(np.unique(table.labels[positions]))
    judged = len(positions) >= MIN_LABELLED and classes > 1 and model.outputs.predicts and model.outputs.classes > 1
    judged = judged and model.outputs.classes * max(len(table.class_names), classes) <= _MOST_PAIRS
    if not judged:
        positions = np.arange(len(table))
    rng = np.random.default_rng(seed)
    if len(positions) > examples:
        positions = np.sort(rng.choice(positions, examples, replace=False))
    images, read = _decode(dataset, table, positions, configured)
    known = _presets(configured, model.input_type)
    candidates = [configured, *(preset for preset in known if not _same(preset, configured))]
    if not judged or len(read) < MIN_LABELLED:
        return _hint(model, images, candidates)
    return _judge(model, images, table.labels[read].astype(np.int64), table.class_names, candidates, rng)


def _presets(configured: Preprocessing, input_type: InputType) -> list[Preprocessing]:
    """The known ones, at the configured one's size and resizing; for a model with uint8 input, raw only."""
    return [
        configured.model_copy(update={"name": name, "channels": order, "scale": 1 / 255, **PRESETS[name]})
        for order in get_args(Channels)
        for name in (["raw"] if input_type == "uint8" else PRESETS)
    ]


def _same(a: Preprocessing, b: Preprocessing) -> bool:
    return all(getattr(a, field) == getattr(b, field) for field in _COMPARED)


def _decode(
    dataset: Dataset, table: ExampleTable, positions: NDArray[np.int64], configured: Preprocessing
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(m, height, width, 3), and the positions of the m examples that can be read; extraction reports the others."""
    images, read = [], []
    for position in positions.tolist():
        try:
            images.append(fit(dataset.read_image(table.files[position]), configured))
        except OSError:
            continue
        read.append(position)
    height, width = configured.size
    return np.array(images, np.uint8).reshape(-1, height, width, 3), np.array(read, np.int64)


def _judge(
    model: ModelRecord,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    candidates: list[Preprocessing],
    rng: np.random.Generator,
) -> PreprocessingCheck:
    session = TapSession(model.model_copy(update={"taps": ()}))  # class scores only
    shape = model.outputs.classes, max(len(class_names), int(labels.max()) + 1)
    predicted = [_predictions(session, images, candidate) for candidate in candidates]
    scores = []
    for candidate, outputs in zip(candidates, predicted, strict=True):
        right, _ = best_assignment(outputs, labels, shape)
        share, interval = right / len(labels), wilson(right, len(labels))
        scores.append(PresetScore(preprocessing=candidate, right=right, accuracy=share, interval=interval))
    at = int(np.argmax([score.right or 0 for score in scores]))  # the first of equals: the configured one
    shuffled = [best_assignment(predicted[at], rng.permutation(labels), shape)[0] for _ in range(_SHUFFLES)]
    chance = float(np.quantile(shuffled, 0.99)) / len(labels)
    _, assigned = best_assignment(predicted[at], labels, shape)
    identity = all(label in (output, -1) for output, label in enumerate(assigned))
    own, best = scores[0], scores[at]
    clear = clearly_better(best, own, chance)
    ordered = None
    if not model.outputs.class_names and shape[0] == shape[1] == len(class_names):
        ordered = find_order(predicted[at], labels, class_names, chance, rng)
    order = tuple("" if label < 0 else _class_name(class_names, label) for label in assigned)
    text = (
        f"Preprocessing {called(own.preprocessing)} classifies {_with_interval(own)} of {len(labels)} labelled "
        f"examples correctly (each preset under its best assignment of outputs to classes; that of the best one: "
        f"{_order_text(order, identity)})"
    )
    if clear:
        text += (
            f"; {called(best.preprocessing)} {_with_interval(best)}, which is clearly better. The model was most likely "
            f"trained with {called(best.preprocessing)}: use --preprocessing {best.preprocessing.name}"
            + (
                f" --channels {best.preprocessing.channels}"
                if best.preprocessing.channels != own.preprocessing.channels
                else ""
            )
            + ", or --preprocessing auto."
        )
    else:
        text += f"; no known preset is clearly better (chance reaches {chance:.1%})."
    return PreprocessingCheck(
        verdict="another preset is clearly better" if clear else "fine",
        sentence=text, best=best.preprocessing, scores=tuple(scores), labelled=len(labels), chance=chance,
        order=order, identity=identity, class_order=ordered,
    )  # fmt: skip


def clearly_better(best: PresetScore, own: PresetScore, chance: float) -> bool:
    """Whether the interval of `best` lies above that of the configured one, and above what shuffled labels reach."""
    return best.interval is not None and own.interval is not None and best.interval[0] > max(own.interval[1], chance)


def _hint(model: ModelRecord, images: NDArray[np.uint8], candidates: list[Preprocessing]) -> PreprocessingCheck:
    session = TapSession(model)
    scores = [_without_labels(session, images, candidate) for candidate in candidates]
    sure = "; ".join(
        f"{called(score.preprocessing)} {_percent(score.confidence) or 'no class scores'}, {_percent(score.dead)}"
        for score in scores
    )
    return PreprocessingCheck(
        verdict="no labels",
        sentence=f"Preprocessing {called(candidates[0])} is not checked: there are no labels to check it by. As a hint only, "
        f"mean confidence and share of dead units: {sure}.",
        best=candidates[0], scores=tuple(scores), labelled=0,
    )  # fmt: skip


def _without_labels(session: TapSession, images: NDArray[np.uint8], candidate: Preprocessing) -> PresetScore:
    lowest: dict[str, NDArray[np.float32]] = {}
    highest: dict[str, NDArray[np.float32]] = {}
    confidence: list[float] = []
    for start in range(0, len(images), _BATCH):
        outputs = session.run(normalise(images[start : start + _BATCH], candidate))
        for layer, values in outputs.layers.items():
            lowest[layer] = np.minimum(lowest.get(layer, values[0]), values.min(axis=0))
            highest[layer] = np.maximum(highest.get(layer, values[0]), values.max(axis=0))
        decisions = None if outputs.logits is None else decide(session.model.outputs, outputs.logits)
        if decisions is not None and decisions.probabilities is not None and session.model.outputs.predicts:
            confidence += decisions.probabilities.max(axis=1).tolist()
    dead = [(lowest[layer] == highest[layer]).ravel() for layer in lowest]
    return PresetScore(
        preprocessing=candidate,
        confidence=float(np.mean(confidence)) if confidence else None,
        dead=float(np.concatenate(dead).mean()) if dead else None,
    )


def _predictions(session: TapSession, images: NDArray[np.uint8], candidate: Preprocessing) -> NDArray[np.int64]:
    """(m,), -1 where the class scores are NaN."""
    pieces = []
    for start in range(0, len(images), _BATCH):
        logits = session.run(normalise(images[start : start + _BATCH], candidate)).logits
        if logits is not None:
            pieces.append(decide(session.model.outputs, logits).predictions)
    return np.concatenate(pieces)


def _class_name(names: tuple[str, ...], label: int) -> str:
    return names[label] if label < len(names) else f"class {label}"


def _order_text(order: tuple[str, ...], identity: bool) -> str:
    listed = ", ".join(name or "none" for name in order[:10]) + (" …" if len(order) > 10 else "")
    return ("the data set's own order, " if identity else "found order, ") + listed


def _with_interval(score: PresetScore) -> str:
    low, high = score.interval or (0.0, 1.0)
    return f"{_percent(score.accuracy)} (95% interval {low:.1%} to {high:.1%})"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
