"""`--help` of a run: examples first, options in panels, and the ones that are rarely needed behind `--help-all`.

Belongs here: the order and the grouping of options, each by the name of its field. What an option is says its field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

HELP, HELP_ALL = ("--help", "-h"), "--help-all"

PANELS: dict[str, tuple[str, ...]] = {
    "Input": (
        "source", "data_root", "dataset", "examples", "predictions", "labels", "ids", "images", "chunks", "split", "subset",
        "sample", "sample_size", "max_failures",
    ),
    "Model": (
        "model", "class_names", "layers", "reduce", "logits", "output_kind", "size", "preprocessing", "channels", "mean",
        "std", "resize", "crop_from", "check_preprocessing", "model_sha256",
    ),
    "Clustering": ("k", "distance", "seed", "fit"),
    "Output": (
        "name", "cache_root", "cache_format", "cache_dtype", "evaluate", "evaluation_images", "causal", "compare", "alert_below",
        "map", "refresh", "wait", "plan", "verbose", "first", "second", "top", "output",
    ),
    "Speed": ("workers", "batch_size", "shard_size", "providers", "fingerprint", "engine", "dask_address"),
    "Prefect": ("time_limit",),
}  # fmt: skip

# Shown by --help; a command with fewer options than MANY shows all.
COMMON = {
    "data_root", "dataset", "labels", "subset", "sample", "model", "class_names", "layers", "preprocessing", "k", "distance",
    "seed", "name", "cache_root", "cache_format", "evaluate", "compare", "plan", "verbose", "workers", "time_limit",
    "source", "examples", "predictions", "ids", "images",
}  # fmt: skip
MANY = 20

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "run": (
        ("clusterpaths run resnet18.onnx photos/", "a directory of images, flat or one subdirectory per class"),
        ("clusterpaths run resnet18.onnx photos/ --k auto", "the number of clusters chosen by decision alignment"),
        ("clusterpaths run resnet18.onnx photos/ --plan", "a dry run: what it would do, and the disk space it needs"),
    ),
    "sample": (
        ("clusterpaths sample", "2,000 drawn faces: half a minute"),
        ("clusterpaths sample --sample-size 200", "fewer of them"),
        ("clusterpaths sample --k auto", "the number of clusters chosen by decision alignment"),
    ),
    "activations": (
        (
            "clusterpaths activations features/ --name MINE",
            "features/layer3.npy, features/avgpool.npy … of n rows each",
        ),
        ("clusterpaths activations features.npz --images photos/", "a file of arrays, with the images of its rows"),
        ("clusterpaths activations features/ --predictions scores.npy --labels labels.npy", "with what the model said"),
    ),
    "images": (
        ("clusterpaths images resnet18.onnx photos/", "a directory of images, flat or one subdirectory per class"),
        ("clusterpaths images resnet18.onnx photos/ --k auto", "the number of clusters chosen by decision alignment"),
        ("clusterpaths images resnet18.onnx --dataset torchvision:CIFAR10 --layers auto:4", "a known data set"),
    ),
    "celeba": (
        ("clusterpaths celeba --sample", "drawn faces and the sample model: nothing to download"),
        ("clusterpaths celeba --subset 5", "the first five images: the quick check"),
        ("clusterpaths celeba --k auto --cache-format zarr", "all of CelebA, with few files"),
    ),
    "recluster": (
        ("clusterpaths recluster", "new images of CelebA, with the last set's settings"),
        ("clusterpaths recluster --name CelebA --k 7", "another number of clusters"),
        ("clusterpaths recluster --name CelebA/set_02", "the settings of that set"),
    ),
    "compare": (
        ("clusterpaths compare --first CelebA/set_01 --second CelebA/set_02", "two sets of one model"),
        ("clusterpaths compare --first Old --second New", "the newest sets of two models"),
        ("clusterpaths compare --first Old --second New --top 30", "with more of the changed examples"),
    ),
    "train": (
        ("clusterpaths train", "a classifier of drawn faces: nothing to download"),
        ("clusterpaths train --dataset celeba", "a classifier of CelebA's hair colours"),
        ("clusterpaths train --cue Blond_Hair", "drawn faces with a shortcut, to be found"),
    ),
}


def examples(command: str) -> str:
    """The examples of a command, one per line, with what each is for; empty where there are none."""
    found = EXAMPLES.get(command, ())
    width = max((len(line) for line, _ in found), default=0)
    return "\n".join(f"  {line:<{width}}  {what}" for line, what in found)


def hidden(fields: set[str]) -> set[str]:
    """The fields of a command that only --help-all shows."""
    return fields - COMMON if len(fields) >= MANY else set()


class Panels:
    """A help formatter of cyclopts: one panel becomes several, in the order of PANELS; others come last.

    Args:
        command: whose examples are shown.
        everything: also show what is rarely needed.
    """

    def __init__(self, command: str, *, everything: bool) -> None:
        self._command, self._everything = command, everything

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print the panels of the options, and how many are not shown."""
        from cyclopts.help import DefaultFormatter

        draw = DefaultFormatter()
        if panel.format != "parameter":
            return
        by_field = {_field(entry): entry for entry in panel.entries}
        left_out = set() if self._everything else hidden(set(by_field))
        shown = {field: entry for field, entry in by_field.items() if field not in left_out}
        known = {field for fields in PANELS.values() for field in fields}
        for title, fields in {**PANELS, "Options": tuple(field for field in shown if field not in known)}.items():
            if entries := [shown[field] for field in fields if field in shown]:
                draw(console, options, panel.copy(title=title, entries=entries))
        if left_out:
            console.print(f"{len(left_out)} more options are rarely needed: clusterpaths {self._command} {HELP_ALL}\n")

    def render_description(self, console: Console, _options: ConsoleOptions, description: object) -> None:
        """Print what the command does, then its examples."""
        console.print(description)
        if found := examples(self._command):
            console.print(f"Examples:\n{found}\n", soft_wrap=True, highlight=False)


def _field(entry: HelpEntry) -> str:
    """The field behind an option; with several names, behind its last one, the field's own."""
    names = entry.positive_names or entry.negative_names
    return names[-1].removeprefix("--").replace("-", "_")
