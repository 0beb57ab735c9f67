"""The cost of larger models: ResNet-18 over 1,000 images, and graphs with added outputs compared with the original ones.

The models have torchvision's architectures and seeded random weights; they are created here, nothing is downloaded. A run
is a separate process. Graphs are compared alternately, in CPU time of one thread, which excludes other load on the
machine. Needs psutil. Real images are taken from CLUSTERPATHS_SHARED (a directory with celeba/ and models/); without it faces
are drawn, and CelebA_CNN is skipped.

    python benchmarks/models.py                 npy and zarr, then three models at batch 1 and 32
    python benchmarks/models.py --quick         a check that it works: 40 images, two rounds; nothing is written
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import onnx
import onnxruntime
from machine import cpu_name, environment_of, size_of, watch

from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.session import TapSession
from clusterpaths.sets.published import open_set

HERE = Path(__file__).resolve().parent
FLOW = HERE.parent / "flows" / "images.py"
FORMATS = ("npy", "zarr")
BATCHES = (1, 32)
MOST_MORE = 0.10  # what taps may cost beside the copy of their values, as a share of the plain graph


def main(images: int = 1000, repeats: int = 1, rounds: int = 15, quick: bool = False) -> None:
    """Measure, print Markdown tables, and write benchmarks/results/models.json.

    Parameters
    ----------
    images
        that ResNet-18 is run over
    repeats
        runs of each cache format, in turns; medians are reported
    rounds
        turns of each graph; medians are reported
    quick
        40 images once, and two turns; nothing is written
    """
    if quick:
        images, repeats, rounds = 40, 1, 2
    shared = Path(os.environ["CLUSTERPATHS_SHARED"]) if "CLUSTERPATHS_SHARED" in os.environ else None
    with tempfile.TemporaryDirectory(prefix="clusterpaths-benchmark-") as folder:
        work = Path(folder)
        models = {"ResNet-18": export(resnet18(), work / "resnet18.onnx"), "ViT": export(vit(), work / "vit.onnx")}
        if shared is not None:
            models = {"CelebA_CNN": shared / "models" / "CelebA_CNN.onnx", **models}
        result = {
            "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {cpu_name()}",
            "load_average": os.getloadavg()[0],
            "versions": {
                name: version(name)
                for name in ("prefect", "onnxruntime", "onnx", "numpy", "zarr", "torch", "torchvision")
            },
            "python": platform.python_version(),
            "images": images,
            "data": "CelebA, real" if shared else "drawn faces",
            "runs": measure_runs(models["ResNet-18"], prepare_images(shared, work, images), work, repeats),
            "graphs": [measure_graphs(name, path, batch, rounds) for name, path in models.items() for batch in BATCHES],
        }
    print(table(result))
    if not quick:
        target = HERE / "results" / "models.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(result, indent=2) + "\n")


def resnet18() -> Any:
    """As torchvision has it, with seeded random weights and 1,000 classes."""
    import torch
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None)


def vit() -> Any:
    """A ViT-Tiny: 12 blocks of width 192 over 197 tokens."""
    import torch
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    return VisionTransformer(
        image_size=224, patch_size=16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=1000
    )


def export(network: Any, path: Path) -> Path:
    """Write the network as ONNX, 224x224, any batch."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        torch.onnx.export(
            network.eval(),
            (torch.zeros(2, 3, 224, 224),),
            str(path),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return path


def prepare_images(shared: Path | None, work: Path, count: int) -> Path:
    """A directory of `count` distinct images."""
    if shared is None:
        write_faces(work / "photos", count)
        return work / "photos"
    target = work / "photos"
    target.mkdir()
    files = sorted((shared / "celeba" / "img_align_celeba").glob("*.jpg"))[:count]
    if len(files) < count:
        sys.exit(f"error: {shared} holds {len(files):,} images, {count:,} are needed. Lower --images.")
    for file in files:
        shutil.copyfile(file, target / file.name)
    return target


def measure_runs(model: Path, photos: Path, work: Path, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Each format's runs: seconds in all and by stage, peak memory (MB), bytes on disk by layer."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in FORMATS}
    for _ in range(repeats):
        for name in FORMATS:  # in turns: what else the machine does falls on all alike
            runs[name].append(measure_run(model, photos, work, name))
    return runs


def measure_run(model: Path, photos: Path, work: Path, cache_format: str) -> dict[str, Any]:
    """One run as a process of its own; its results are measured and removed."""
    out = work / "out"
    options = {"--model": model, "--data-root": photos, "--cache-root": out, "--name": "R", "--layers": "auto"}
    options |= {"--cache-format": cache_format, "--cache-dtype": "float16"}
    command = [sys.executable, str(FLOW), *(str(word) for pair in options.items() for word in pair)]
    command += ["--no-evaluate", "--no-check-preprocessing"]
    watched = watch(command, environment_of(work), work / "errors.txt")
    record = open_set(out / "R" / "set_01").record
    files = [file for file in (out / "R").rglob("*") if file.is_file()]
    sizes = {layer: size_of(out / "R" / layer) for layer in record.layers}
    result = {
        **watched,
        "stages": {stage.stage: stage.seconds for stage in record.stages},
        "bytes": sum(file.stat().st_size for file in files),
        "files": len(files),
        "layers": sizes,
    }
    shutil.rmtree(out)
    return result


def measure_graphs(name: str, path: Path, batch: int, rounds: int) -> dict[str, Any]:
    """Median ms a batch: the plain graph, the tapped one, a copy of the taps by numpy, and by Cast alone."""
    checked = check_model(path, ("auto",), default_size=(224, 224))
    record = instrument_model(checked, checked.size)
    tapped = TapSession(record, dict.fromkeys(record.layers, "float16"))
    plain = plain_session(path, record.external)
    height, width = record.size
    images = np.random.default_rng(0).standard_normal((batch, 3, height, width)).astype(np.float32)
    taps = list(tapped.run(images).layers.values())
    cast = cast_session([tap.shape for tap in taps])
    feed = {f"x{index}": tap.astype(np.float32) for index, tap in enumerate(taps)}
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: plain.run([record.logits], {record.input: images}),
        "tapped": lambda: tapped.run(images),
        "copy": lambda: [tap.copy() for tap in taps],
        "cast": lambda: cast.run(None, feed),
    }
    repeats = max(1, (512 if name == "CelebA_CNN" else 8) // batch)  # so that a turn takes a tenth of a second or more
    times = take_turns(ways, rounds, repeats)
    more = [(t - c) / p - 1 for p, t, c in zip(times["plain"], times["tapped"], times["copy"], strict=True)]
    more_cast = [(t - c) / p - 1 for p, t, c in zip(times["plain"], times["tapped"], times["cast"], strict=True)]
    return {
        "model": name,
        "batch": batch,
        "layers": list(record.layers),
        "tap_bytes": sum(tap.nbytes for tap in taps),
        "ms": {way: 1000 * statistics.median(values) for way, values in times.items()},
        "more_beside_copy": statistics.median(more),
        "more_beside_cast": statistics.median(more_cast),
    }


def take_turns(ways: dict[str, Callable[[], object]], rounds: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of a call of each way, one for each round, in processor time: all of them use one thread."""
    for call in ways.values():
        call()  # the first run allocates
    times: dict[str, list[float]] = {way: [] for way in ways}
    for index in range(rounds):
        for way in list(ways) if index % 2 else reversed(ways):
            started = time.process_time()
            for _ in range(repeats):
                ways[way]()
            times[way].append((time.process_time() - started) / repeats)
    return times


def session_options() -> onnxruntime.SessionOptions:
    """As `TapSession` sets them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def plain_session(path: Path, external: dict[str, str]) -> onnxruntime.InferenceSession:
    """The model as its file is, without taps that it may have of its own."""
    model = onnx.load(str(path), load_external_data=False)
    options = session_options()
    if external:
        content = [Path(file).read_bytes() for file in external.values()]
        options.add_external_initializers_from_files_in_memory(list(external), content, [len(c) for c in content])
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def cast_session(shapes: list[tuple[int, ...]]) -> onnxruntime.InferenceSession:
    """A graph that makes float16 of float32 arrays of these shapes, and does nothing else."""
    helper, types = onnx.helper, onnx.TensorProto
    nodes = [helper.make_node("Cast", [f"x{i}"], [f"y{i}"], to=types.FLOAT16) for i in range(len(shapes))]
    inputs = [helper.make_tensor_value_info(f"x{i}", types.FLOAT, shape) for i, shape in enumerate(shapes)]
    outputs = [helper.make_tensor_value_info(f"y{i}", types.FLOAT16, shape) for i, shape in enumerate(shapes)]
    graph = helper.make_graph(nodes, "casts", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
    )


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    count = result["images"]
    lines = [
        f"{result['machine']}; Python {result['python']}; ResNet-18 at 224x224, {count:,} images ({result['data']}), float16",
        "",
        "| cache | s in all | ms an image | extract and assign, ms an image | fit, ms an image | peak MB | with children "
        "| cache, MB | all on disk, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in result["runs"].items():
        seconds = statistics.median(run["seconds"] for run in runs)
        extract, fit = (
            1000 * statistics.median(sum(run["stages"][stage] for stage in stages) for run in runs) / count
            for stages in (("extract", "assign"), ("fit",))
        )
        peak, tree = (max(run[key] for run in runs) for key in ("peak_mb", "peak_tree_mb"))
        lines.append(
            f"| {name} | {seconds:.1f} | {1000 * seconds / count:.1f} | {extract:.1f} | {fit:.1f} | {peak:.0f} | {tree:.0f} "
            f"| {sum(runs[0]['layers'].values()) / 1e6:.0f} | {runs[0]['bytes'] / 1e6:.0f} |"
        )
    lines += [
        "",
        "| model | batch | added outputs, KB per image | original model, ms per batch "
        "| with added outputs | copying them | Cast of them | overhead without copying | without the Cast | at most 10% |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in result["graphs"]:
        ms = each["ms"]
        lines.append(
            f"| {each['model']} | {each['batch']} | {each['tap_bytes'] / each['batch'] / 1000:.0f} | {ms['plain']:.2f} "
            f"| {ms['tapped']:.2f} | {ms['copy']:.3f} | {ms['cast']:.3f} | {each['more_beside_copy']:+.1%} "
            f"| {each['more_beside_cast']:+.1%} | {'met' if each['more_beside_copy'] <= MOST_MORE else 'missed'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    cyclopts.run(main)
