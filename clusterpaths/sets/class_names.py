"""What predictions and labels are called, and whether they are the same classes."""

from __future__ import annotations

from clusterpaths.datasets.cells import is_number
from clusterpaths.preprocessing.class_order import ClassOrder
from clusterpaths.records import ModelOutputs, SetRecord

ASSUMED = (
    "The model has no class names: predictions are named by the data set's classes in its own order, which was not checked with "
    "labelled examples."
)
_SHOWN = 5  # names in a sentence


def name_classes(
    outputs: ModelOutputs, given: tuple[str, ...], ordered: ClassOrder | None
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Names of predictions, of labels if their classes differ (else () for labels), and where the predictions' came from.

    Classes are the same if their numbers and, if both have names, their names agree. Case and punctuation are ignored. A data
    set without names numbers its classes: these numbers are no names of the model's. Other numbers as names (directories 10, 20
    and 30) need not be the model's classes in this order, so they are names of labels only. If the model has no names, they are
    the data set's: in the order that labelled examples show, or, said so, in the data set's own.
    """
    own, source = outputs.class_names, outputs.class_names_source
    if not given:
        return own, (), source
    if not outputs.predicts:
        return given, (), source  # no predictions
    numbers = given == tuple(map(str, range(len(given))))
    same = numbers or list(map(_bare, own)) == list(map(_bare, given)) or (not own and not any(map(is_number, given)))
    if not same or len(given) != outputs.classes:
        return own, given, source
    if own:
        return (own if numbers else given), (), source
    if ordered is None:
        return given, (), ASSUMED
    return ((), given, ordered.sentence) if ordered.verdict == "unclear" else (given, (), ordered.sentence)


def _bare(name: str) -> str:
    """Letters and digits only; unchanged for a name without any."""
    return "".join(filter(str.isalnum, name.casefold())) or name


def about_classes(record: SetRecord) -> tuple[str, ...]:
    """Sentences for pages: where the names of predictions came from, and how labels differ; empty if nothing is to be said."""
    return tuple(filter(None, (record.about_class_names, about_labels(record))))


def about_labels(record: SetRecord) -> str:
    """How the labels' classes differ from the model's, so that no prediction counts as correct; empty if they do not."""
    if not record.label_names or not record.meaning.predicts:
        return ""
    what = "so no prediction counts as correct or incorrect"
    labels, own = record.label_names, record.class_names
    if not own:
        outputs = record.meaning.classes
        if outputs in (None, len(labels)):
            return ""  # `SetRecord.about_class_names` has the reason
        return f"The data set has {len(labels):,} classes ({_some(labels)}) and the model {outputs:,}, {what}."
    if missing := _missing(record):
        return (
            f"{len(missing):,} of the data set's {len(labels):,} classes {'is' if len(missing) == 1 else 'are'} not among the "
            f"model's: {_some(missing)}. The model has {_some(own)}. Labels and predictions are taken for different classes, "
            f"{what}."
        )
    return (
        f"The labels are of other classes ({_some(labels)}) than the model's predictions ({_some(own)}), or in another order, "
        f"{what}."
    )


def is_misnamed(record: SetRecord) -> bool:
    """Whether some of the labels' classes are the model's and some are not: most likely a name that is misspelt."""
    return 0 < len(_missing(record)) < len(record.label_names)


def _missing(record: SetRecord) -> tuple[str, ...]:
    own = set(map(_bare, record.class_names))
    return tuple(name for name in record.label_names if _bare(name) not in own) if own else ()


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
