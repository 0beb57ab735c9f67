"""explanation_<image>.html and a readable text: an `Explanation` for people.

Belongs here: sentences, chips and the page of a record. `explain.py` computes the numbers, `explanation.html` and
`report.css` are the layout.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from clusterpaths.explanation.record import (
    DecisionChange,
    ExampleNote,
    Explanation,
    LayerExplanation,
    MajorityClass,
    PathNote,
)
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.routes import routes
from clusterpaths.metrics.paths import FEW_EXAMPLES
from clusterpaths.naming.record import MIXED
from clusterpaths.report.colours import NUMBERS, Colours
from clusterpaths.report.examples import tile
from clusterpaths.report.numbers import percent, portion, thousands, verdict
from clusterpaths.report.sankey import Route, draw_sankey
from clusterpaths.report.templates import render
from clusterpaths.report.thumbnails import make_thumbnails, median_ratio
from clusterpaths.storage.atomic import atomic_write

PICTURE = 320  # pixels of the image's longer side on the page
LISTED = 6  # classes
FILES = 3  # of examples, on a terminal
HOW_CHANGED = (
    "The model is cut at a layer, the image's values there are moved by the difference of two clusters' means, and the rest of "
    "the model decides again. Each row is the nearest other cluster of a layer that changes the prediction, with the path at the "
    "end of the way; unchanged layers are pale."
)


def write_explanation(
    explanation: Explanation,
    image: Image.Image,
    target: Path,
    read_image: Callable[[str], Image.Image],
    index: SetIndex | None = None,
) -> Path:
    """Write the page atomically.

    Args:
        explanation: what is shown.
        image: the image that is explained.
        target: the HTML file.
        read_image: called with names of the set's files; may raise OSError for a missing one, which is shown as a
            placeholder.
        index: of the set; with it, the image's path and what would change the prediction are drawn among all examples'.

    Raises:
        DiskError: no room or no permission.
    """
    page = explanation_page(explanation, image, read_image, index)
    atomic_write(target, page.encode("utf-8", errors="replace"))
    return target


def explanation_page(
    explanation: Explanation,
    image: Image.Image,
    read_image: Callable[[str], Image.Image],
    index: SetIndex | None = None,
) -> str:
    """The page as HTML; arguments as those of `write_explanation`."""
    thumbnails = make_thumbnails((example.file for example in _shown(explanation)), read_image)
    colours = None if index is None else Colours(routes(index))
    return render(
        "explanation.html",
        e=explanation,
        name=Path(explanation.image).name,  # a page may be shared: without the path of the file
        headline=headline(explanation),
        common=common(explanation),
        ood=ood_sentence(explanation),
        other=other(explanation),
        counterfactual=counterfactual(explanation),
        change=change,
        how_changed=HOW_CHANGED,
        both_routes=both_routes(explanation),
        unchanged=unchanged(explanation),
        most_similar=most_similar(explanation),
        sankey="" if index is None else two_routes(explanation, index),
        tile=lambda example: tile(example, thumbnails),
        decided=decided,
        key=[] if colours is None else colours.key,
        other_key=0 if colours is None else colours.others,
        colour=lambda layer, cluster: cluster % NUMBERS if colours is None else colours.of_cluster(layer, cluster),
        listed=LISTED,
        image=_encode(image),
        thumbnails=list(thumbnails.values()),
        ratio=f"{median_ratio(thumbnails.values()):.3f}",
        css=Markup(resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
    )


def headline(e: Explanation) -> str:
    """The prediction in one line."""
    name = Path(e.image).name
    if e.prediction is None and e.classes:
        return f"{name} · Labels: {labels(e)}"
    if e.prediction is None:
        return f"{name} takes the path {path_text(e.path)}"
    return f"{name} · Predicted: {e.prediction.name} ({percent(e.prediction.probability, 1)})"


def labels(e: Explanation) -> str:
    """The decision of a multi-label model."""
    return ", ".join(e.labels) or "none over 0.5"


def common(e: Explanation) -> str:
    """How common the path is, and its majority classes, in sentences."""
    if e.own is None:
        text = f"None of the {thousands(e.num_examples)} examples took this path."
        if e.suffix is not None:
            layers = ", ".join(layer.layer for layer in e.layers[-len(e.suffix.path) :])
            most = _majority(e.suffix.majority_predictions, "predictions")
            text += f" Its end, {path_text(e.suffix.path)} in {layers}, predicts the decision: {most} there."
        if e.similar is None:
            return text
        return (
            f"{text} The most similar one that was taken, {path_text(e.similar.path)}, differs in "
            f"{_layers(e.similar.hamming)}; {_examples(e.similar.count)} took it.{decided(e.similar)}"
        )
    return (
        f"{_examples(e.count)} of {thousands(e.num_examples)} ({percent(e.share, 1)}) took this path; rank {e.rank} "
        f"of {thousands(e.occupied)} by frequency.{decided(e.own)}"
    )


def decided(note: PathNote) -> str:
    """The majority classes of a path, with a leading space; empty if none is known."""
    parts = [
        _majority(note.majority_predictions, "predictions"),
        _majority(note.majority_labels, "labels"),
    ]
    majorities = " and ".join(part for part in parts if part)
    return f" Most frequent there: {majorities}." if majorities else ""


def _majority(majority: MajorityClass | None, source: str) -> str:
    if majority is None:
        return ""
    share = portion(round(majority.share * majority.of), majority.of, of=True)
    return f"{majority.name} among {source} ({share})"


def ood_sentence(e: Explanation) -> str:
    """The OOD score, its percentile and a verdict."""
    where = f"{e.ood_percentile:.0f}% of the set's examples, held out, have a lower one"
    return f"{e.ood_score:.2f}: {where}; {verdict(e.ood_percentile)} for this set."


def other(e: Explanation) -> str:
    """The most similar path with another prediction."""
    if e.other is None:
        return f"No path that at least {FEW_EXAMPLES} examples took has another majority prediction."
    changed = [
        f"{layer.layer} {layer.cluster} → {cluster}"
        for layer, cluster in zip(e.layers, e.other.path, strict=True)
        if layer.cluster != cluster
    ]
    if not changed:
        return f"The path's own {_examples(e.other.count)} have another prediction.{decided(e.other)}"
    return (
        f"{path_text(e.other.path)}, {_examples(e.other.count)}, differs in {_layers(e.other.hamming)}: "
        f"{', '.join(changed)}.{decided(e.other)}"
    )


def counterfactual(e: Explanation) -> str:
    """What would change the decision, found by intervention; empty where the model was not asked."""
    if e.counterfactual is None:
        return ""
    if e.counterfactual.nearest is None:
        return f"Moved to any other cluster in {_listed(e.counterfactual.asked)}, the image keeps its prediction."
    return f"{change(e.counterfactual.nearest)}."


def change(one: DecisionChange) -> str:
    """In fc1, 38% of the way from cluster 2 to cluster 4 makes it Blond."""
    named = f" ({one.target_name})" if one.target_name not in ("", MIXED) else ""
    way = f"{percent(one.amount)} of the way from cluster {one.source} to cluster {one.target}{named}"
    text = f"In {one.layer}, {way} makes it {one.prediction}"
    return text if one.at_target == one.prediction else f"{text}, all of the way {one.at_target}"


def unchanged(e: Explanation) -> str:
    """The layers where no other cluster changes the decision; empty if there are none."""
    if e.counterfactual is None:
        return ""
    changing = {one.layer for one in e.counterfactual.changes}
    others = [layer for layer in e.counterfactual.asked if layer not in changing]
    return f"No other cluster of {_listed(others)} changes the prediction." if others and changing else ""


def most_similar(e: Explanation) -> list[tuple[str, str, tuple[ExampleNote, ...]]]:
    """The examples nearest in the first and in the last layer: (words, layer, examples); none where the set has no maps."""
    both = (("Looks alike", e.layers[0], e.looks_alike), ("Decided alike", e.layers[-1], e.decided_alike))
    return [(words, layer.layer, notes) for words, layer, notes in both if notes]


def both_routes(e: Explanation) -> str:
    """What the two lines of `two_routes` are; empty where there is no change."""
    if e.counterfactual is None or (one := e.counterfactual.nearest) is None:
        return ""
    return f"Solid: the image's path among those of all examples. Dashed: all of the way to cluster {one.target} of {one.layer}."


def two_routes(e: Explanation, index: SetIndex) -> Markup:
    """The image's path among all examples', and that of the nearest change, as an SVG; empty where there is no change."""
    if e.counterfactual is None or e.counterfactual.nearest is None:
        return Markup()
    nearest = e.counterfactual.nearest
    other = Route(nearest.path, f"all of the way to cluster {nearest.target} of {nearest.layer}", dashed=True)
    return Markup(draw_sankey(index, [other, Route(e.path, "the image's path")]))  # noqa: S704 - rendered with escaping


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def path_text(path: tuple[int, ...]) -> str:
    """1-0-4."""
    return "-".join(map(str, path))


def print_explanation(e: Explanation, file: Any = None) -> None:
    """The same as readable text on a terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(file=file, highlight=False, soft_wrap=True)
    console.print(f"[bold]{escape(headline(e))}[/bold]")
    if e.classes:
        likely = [f"{score.name} {percent(score.probability, 1)}" for score in e.classes[:LISTED]]
        console.print(f"Classes      {escape(', '.join(likely))}")
    console.print(f"Path         {path_text(e.path)}, in {escape(e.set)} of {escape(e.model.file)}")
    if e.path_name:
        console.print(f"In words     {escape(e.path_name)}")
    console.print(f"How common   {escape(common(e))}")
    console.print(f"OOD score    {ood_sentence(e)}")
    console.print(f"Otherwise    {escape(other(e))}")
    if changes := counterfactual(e):
        console.print(f"To change it {escape(changes)}")
    for words, where, notes in most_similar(e):
        console.print(f"{words:12} {escape(f'{_files(notes)}, by {where}')}")
    table = Table("layer", "cluster", "name", "examples in it", "distance", "in spreads", "nearest exemplars", box=None)
    for layer in e.layers:
        table.add_row(*map(escape, _row(layer)))
    console.print(table)


def _row(layer: LayerExplanation) -> tuple[str, ...]:
    return (
        layer.layer,
        str(layer.cluster),
        layer.name or "none",
        thousands(layer.cluster_count),
        f"{layer.distance:.4g}",
        f"{layer.standardised:+.1f}",
        _files(layer.exemplars) or "none",
    )


def _files(notes: Sequence[ExampleNote]) -> str:
    """The first few files."""
    return ", ".join(one.file or f"example {one.id}" for one in notes[:FILES])


def _shown(e: Explanation) -> Iterator[ExampleNote]:
    for layer in e.layers:
        yield from layer.exemplars
    for note in (e.own, e.similar, e.other):
        yield from note.exemplars if note else ()
    for one in e.counterfactual.changes if e.counterfactual else ():
        yield from one.exemplars
    for _, _, notes in most_similar(e):
        yield from notes


def _examples(count: int) -> str:
    return f"{thousands(count)} example{'' if count == 1 else 's'}"


def _layers(count: int) -> str:
    return f"{count} layer{'' if count == 1 else 's'}"


def _encode(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((PICTURE, PICTURE), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
