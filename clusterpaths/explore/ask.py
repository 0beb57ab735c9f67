"""Selections of examples: the available filter values, a page of a selection, a selection as CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from clusterpaths.errors import NotFoundError
from clusterpaths.explore import as_csv
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.paths import parse_cluster
from clusterpaths.explore.ranges import Range, Region, parse_layer_range, parse_range, parse_region, within
from clusterpaths.explore.records import Choices, ExamplePage, Order, Question

NONE = "none"  # in place of a class: those without

Rows = NDArray[np.integer]
Mask = NDArray[np.bool_]


def choices(index: SetIndex) -> Choices:
    """The names that occur in the set."""
    return index.once("choices", lambda: _choices(index))


def ask(index: SetIndex, question: Question, *, limit: int = 50, offset: int = 0) -> ExamplePage:
    """A page of the selection, in the requested order.

    Raises:
        NotFoundError: a name in the question that the set does not have; lists the valid ones.
    """
    limit, offset = max(limit, 0), max(offset, 0)
    rows = select(index, question)
    shown = rows[offset : offset + limit]
    return ExamplePage(
        total=len(rows),
        limit=limit,
        offset=offset,
        examples=index.examples(shown, _distances(index, question, shown)),
    )


def ask_csv(index: SetIndex, question: Question, path_names: Sequence[str] = ()) -> Iterator[str]:
    """The full selection as CSV, in chunks of some thousand lines; its columns are those of `as_csv.lines`.

    `path_names`: one per occupied path, for the column path_name.

    Raises:
        NotFoundError: before the first chunk is taken; as `ask`.
    """
    return as_csv.lines(index, select(index, question), path_names)


def prepare(index: SetIndex, question: Question) -> None:
    """Read from disk, and compute of regions, what the selection and `choices` need, so that neither waits for it.

    Raises:
        NotFoundError: a layer that the set does not have, or the set has no maps, or others than a region was drawn on.
        CacheError: a file of the set or its cache cannot be read.
    """
    index.confidence  # noqa: B018 - cached from now on
    for region in question.within:
        _inside(index, region)


def select(index: SetIndex, question: Question) -> Rows:
    """Rows of the selection, in its order.

    Raises:
        NotFoundError: a name in the question that the set does not have.
    """
    mask = _mask(index, question)
    order = _ordered(index, question)
    if order is None:
        return np.arange(len(index)) if mask is None else np.flatnonzero(mask)
    return order if mask is None else order.compress(mask.take(order))  # a third of the time of order[mask[order]]


def comparable(index: SetIndex, question: Question) -> Rows | None:
    """Rows of the examples that a selection is compared with, and of itself; None: all of the set.

    Of those that are wrong, the others are those that are right: what has no label may be either, and would only show which
    examples are labelled.
    """
    if question.right:
        return _unless_all(index.right >= 0)
    if question.label and NONE not in question.label:
        return _unless_all(index.labels >= 0)
    return None


def _unless_all(known: Mask) -> Rows | None:
    return None if known.all() else np.flatnonzero(known)


def asked_layers(index: SetIndex, question: Question) -> frozenset[int]:
    """Layers in which the question selects clusters, distances or a region of the map.

    Raises:
        NotFoundError: as `select`.
    """
    prefix = _prefix(index, question.path) if question.path else []
    layers = [layer for layer, _ in [*prefix, *_clusters(index, question)]]
    others = [parse_layer_range(one)[0] for one in question.distance] + [
        parse_region(one).layer for one in question.within
    ]
    return frozenset([*layers, *(index.layer_index(name) for name in others)])


def _mask(index: SetIndex, question: Question) -> Mask | None:
    """(n,) selected examples; None: all."""
    found: Mask | None = None
    for mask in _masks(index, question):  # one at a time, to limit memory
        found = mask if found is None else np.logical_and(found, mask, out=found)
    return found


def _masks(index: SetIndex, question: Question) -> Iterator[Mask]:
    """The mask of each filter."""
    if question.prediction:
        yield _classes(index, "prediction", index.predictions, index.class_name, question.prediction)
    if question.label:
        yield _classes(index, "label", index.labels, index.label_name, question.label)
    if question.right:
        if not choices(index).can_be_right:
            raise NotFoundError(
                f"It is not known which predictions of {index.name} are correct: it lacks labels or predictions, or they "
                "are of different classes."
            )
        yield index.right == (question.right == "right")
    for name in dict.fromkeys(question.attribute):
        yield _attribute(index, name)
    if question.split:
        yield np.isin(index.splits, [_position("split", name, index.split_names, index) for name in question.split])
    for layer, cluster in _prefix(index, question.path) if question.path else ():
        yield index.clusters[:, layer] == cluster
    by_layer: dict[int, list[int]] = {}
    for layer, cluster in _clusters(index, question):
        by_layer.setdefault(layer, []).append(cluster)
    for layer, clusters in by_layer.items():
        column = index.clusters[:, layer]
        yield column == clusters[0] if len(clusters) == 1 else np.isin(column, clusters)
    yield from _measured(index, question)
    if question.id:
        known = [value for value in question.id if abs(value) < 1 << 62]  # others are not ids of examples
        yield np.isin(index.ids, np.array(known, np.int64))


def _measured(index: SetIndex, question: Question) -> Iterator[Mask]:
    """The mask of each filter with numbers; examples whose value is not known are left out."""
    if question.ood:
        if index.ood is None:
            raise NotFoundError(f"{index.name} has no distances to centroids, so no OOD scores to filter by.")
        yield _between(index.ood, parse_range(question.ood))
    if question.confidence:
        yield _between(_confidence(index), parse_range(question.confidence))
    for layer, ends in map(parse_layer_range, dict.fromkeys(question.distance)):
        at = index.layer_index(layer)
        if index.distances is None:
            raise NotFoundError(f"{index.name} has no distances to centroids to filter by.")
        yield _between(index.distances[:, at], ends)
    for region in dict.fromkeys(question.within):
        yield np.unpackbits(_inside(index, region), count=len(index)).view(np.bool_)


def _inside(index: SetIndex, region: str) -> NDArray[np.uint8]:
    """Bits of the examples in a region, cached: to find them takes up to 0.2 s at 200,000 examples."""
    parsed = parse_region(region)
    points = _points_of(index, parsed)
    return index.answer(("within", region), lambda: np.packbits(within(points, parsed.corners)))


def _points_of(index: SetIndex, region: Region) -> NDArray[np.float32]:
    """(n, 2) of the map that the region is of."""
    points = index.map_points(index.layer_index(region.layer))
    shown = index.require_maps().records[region.layer].method
    if region.method != shown:
        raise NotFoundError(
            f"The region of {region.layer} was drawn on a map by {region.method.upper()}; the map of {index.name} is by "
            f"{shown.upper()}, with other coordinates. Draw it again, or run again with --map {region.method}."
        )
    return points


def _between(values: NDArray[np.floating], ends: Range) -> Mask:
    found: Mask = (values >= ends[0]) & (values <= ends[1])
    return found


def _confidence(index: SetIndex) -> NDArray[np.float32]:
    found = index.confidence
    if found is None:
        raise NotFoundError(
            f"The confidence of the predictions of {index.name} is not known: the probabilities are not stored, or the "
            "model predicts no single class."
        )
    return found


def _ordered(index: SetIndex, question: Question) -> Rows | None:
    """All rows (or, of one cluster, its members) in the requested order; None: by id."""
    order: Order = question.order
    if order == "id":
        return None
    counts, of_example = index.paths.counts, index.paths.of_example
    if order == "rare":  # stable: ties by id
        return index.order("rare", lambda: np.argsort(counts[of_example], kind="stable"))
    if order == "common":
        return index.order("common", lambda: np.argsort(-counts[of_example], kind="stable"))
    if order == "unsure":  # not known: last
        confidence = _confidence(index)
        return index.order("unsure", lambda: np.argsort(confidence, kind="stable"))
    ood, overall = index.ood, index.overall
    if ood is None or overall is None:
        raise NotFoundError(
            f"{index.name} has no distances to centroids, so no order {order!r}. It has id, rare and common."
        )
    if order == "strange":
        return index.order("strange", lambda: np.argsort(-ood, kind="stable"))
    clusters = _clusters(index, question)
    near = (
        index.members(*clusters[0])
        if len(clusters) == 1
        else index.order("near", lambda: np.argsort(overall, kind="stable"))
    )
    return near if order == "near" else near[::-1]


def _distances(index: SetIndex, question: Question, rows: Rows) -> NDArray[np.floating] | None:
    """To the centroid of the selected cluster, or over all layers; None if the order does not use distances."""
    if index.distances is None or index.overall is None:
        return None
    clusters = _clusters(index, question)
    if len(clusters) == 1:
        found: NDArray[np.floating] = index.distances[rows, clusters[0][0]]
        return found
    return index.overall[rows] if question.path or question.order in ("near", "far") else None


def _classes(
    index: SetIndex, kind: str, classes: NDArray[np.integer], name: Callable[[int], str], wanted: Sequence[str]
) -> Mask:
    """Whether the class is one of those wanted. A name may occur twice: ImageNet has two classes called crane."""
    record = index.record
    names = (
        () if record is None else record.label_names or record.class_names if kind == "label" else record.class_names
    )
    count = max(len(names), int(classes.max(initial=-1)) + 1)
    by_name: dict[str, list[int]] = {}
    for i in range(count):
        by_name.setdefault(name(i), []).append(i)
    meant = np.zeros(count + 1, np.bool_)  # the last one: none, by its index -1
    for text in wanted:
        if text in by_name:
            meant[by_name[text]] = True
        elif text == NONE:
            meant[-1] = True
        else:
            offered = choices(index).labels if kind == "label" else choices(index).predictions
            raise _unknown(index, kind, text, offered)
    found: Mask = meant[classes]
    return found


def _attribute(index: SetIndex, name: str) -> Mask:
    values = index.attributes.get(name)
    if values is not None:
        return np.equal(values, 1)
    without = index.attributes.get(name[1:]) if name.startswith("-") else None
    if without is None:
        raise _unknown(index, "attribute", name, index.attribute_names)
    return np.equal(without, -1)


def _position(kind: str, name: str, names: tuple[str, ...], index: SetIndex) -> int:
    if name not in names:
        raise _unknown(index, kind, name, names)
    return names.index(name)


def _prefix(index: SetIndex, text: str) -> list[tuple[int, int]]:
    """(layer, cluster) of a path's beginning; * stands for any cluster."""
    parts = text.split("-")
    if len(parts) > len(index.layers):
        raise NotFoundError(
            f"{text[:80]!r} is longer than a path of {index.name}. It has {len(index.layers)} layers: "
            f"{', '.join(index.layers)}."
        )
    return [(layer, parse_cluster(index, layer, part)) for layer, part in enumerate(parts) if part != "*"]


def _clusters(index: SetIndex, question: Question) -> list[tuple[int, int]]:
    """(layer, cluster) of each LAYER:CLUSTER; a layer's name may hold a colon."""
    found = []
    for text in dict.fromkeys(question.cluster):
        layer, colon, cluster = text.rpartition(":")
        if not colon:
            raise NotFoundError(f"{text[:80]!r} is no cluster. Expected LAYER:CLUSTER, such as {index.layers[0]}:0.")
        at = index.layer_index(layer)
        found.append((at, parse_cluster(index, at, cluster)))
    return found


def _unknown(index: SetIndex, kind: str, name: str, names: Sequence[str]) -> NotFoundError:
    listed = ", ".join(names[:50]) + (f" and {len(names) - 50} more" if len(names) > 50 else "")
    return NotFoundError(f"{index.name} has no {kind} {name[:80]!r}. It has {listed or 'none at all'}.")


def _choices(index: SetIndex) -> Choices:
    def occurring(classes: NDArray[np.integer], name: Callable[[int], str]) -> tuple[str, ...]:
        there = np.flatnonzero(np.bincount(classes[classes >= 0])).tolist()
        return tuple(dict.fromkeys([name(i) for i in there]))

    return Choices(
        predictions=occurring(index.predictions, index.class_name),
        labels=occurring(index.labels, index.label_name),
        attributes=index.attribute_names,
        splits=index.split_names,
        layers=dict(zip(index.layers, index.k, strict=True)),
        can_be_right=bool((index.right >= 0).any()),
        confidence=index.confidence is not None,
        maps=index.maps is not None,
    )
