"""A name of a cluster or a path, where it comes from, and how it was checked: frozen records.

Belongs here: the fields, and keys such as conv3/2 and 0-1-4. `from_data.py`, `annotations.py` and `from_model.py` make names,
`resolve.py` chooses among them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from clusterpaths.errors import NotFoundError
from clusterpaths.records import Record

Source = Literal["person", "model", "data"]
MIXED = "mixed"  # nothing is more frequent in the cluster than outside it
EMPTY = "empty"
LOW = 0.5  # an agreement below is shown as low
STEP = " → "  # between the names of a path's clusters
_PATH = re.compile(r"\d{1,5}(-\d{1,5})*", re.ASCII)


class Check(Record):
    """How far a name was confirmed.

    Of a name from the data: the share of the cluster's exemplars, nearest to its centroid among those where it is known, that
    have its words, of the word that the fewest have. Of a vision-language model's name: the share of words that two answers
    have in common, each about other exemplars.
    """

    kind: Literal["exemplars", "askings"]
    agreement: float = Field(ge=0, le=1)
    n: int = Field(description="exemplars where it is known, or answers")

    @property
    def low(self) -> bool:
        """Whether the name should be doubted."""
        return self.agreement < LOW

    @property
    def sentence(self) -> str:
        """The check in words."""
        share = f"{self.agreement:.0%}"
        if self.kind == "exemplars":
            return f"{share} of {self.n} exemplars have it"
        return f"two answers about different exemplars agree by {share}" if self.n > 1 else "answered once only"


class Word(Record):
    """One class or attribute in a name from the data."""

    text: str
    kind: Literal["prediction", "label", "attribute"]
    lift: float | None = Field(description="None: absent outside")
    share: float = Field(description="of the cluster's examples where it is known")
    exemplars: float | None = Field(description="share of the exemplars where it is known; None: of none")


class Carried(Record):
    """The set that a name was carried over from."""

    set: str = Field(description="NAME/set_NN")
    key: str = Field(description="the cluster or path there")
    share: float = Field(description="share of the examples of either that both have, the smaller one")


class Name(Record):
    """The name of a cluster or a path, the one that is shown."""

    key: str = Field(description="conv3/2: cluster 2 of layer conv3; 0-1-4: a path")
    text: str = Field(description="empty: there are neither classes nor attributes to name it by")
    source: Source
    data: str = Field("", description="the name from the data, where a person's or a model's is shown")
    note: str = ""
    note_source: Literal["person", "model"] | None = Field(None, description="who wrote the note; None: there is none")
    by: str = Field("", description="who wrote it; of a vision-language model, its name")
    at: str = Field("", description="when; ISO time, UTC")
    revision: int = Field(0, description="of the person's entry, for an edit; 0: there is none")
    words: tuple[Word, ...] = Field((), description="of a name from the data, most telling first")
    check: Check | None = None
    carried: Carried | None = None

    @property
    def short(self) -> str:
        """As it is read within a path: of a name from the data the most telling word."""
        return self.words[0].text if self.words else self.text

    @property
    def origin(self) -> str:
        """Where the name comes from, in words."""
        who = {"person": self.by or "a person", "model": self.by or "a model", "data": "the data"}[self.source]
        if self.carried is None:
            return f"by {who}" if self.source == "person" else f"from {who}"
        return f"by {who}, carried over from {self.carried.set} ({self.carried.share:.0%} of its examples)"


def cluster_key(layer: str, cluster: int) -> str:
    """conv3/2."""
    return f"{layer}/{cluster}"


def path_key(path: Sequence[int]) -> str:
    """0-1-4."""
    return "-".join(map(str, path))


def is_path_key(key: str) -> bool:
    """Whether a key is a path's: a cluster's has a slash."""
    return "/" not in key


def check_key(key: str, k_per_layer: dict[str, int], set_name: str) -> str:
    """The key, if the set has such a cluster or path, in its own spelling.

    Args:
        key: as given.
        k_per_layer: clusters of each layer, in order.
        set_name: for the message.

    Raises:
        NotFoundError: it has not.
    """
    if is_path_key(key):
        steps = [int(part) for part in key.split("-")] if _PATH.fullmatch(key) else []
        ks = list(k_per_layer.values())
        if len(steps) == len(ks) and all(step < k for step, k in zip(steps, ks, strict=True)):
            return path_key(steps)
    else:
        layer, _, number = key.rpartition("/")
        if re.fullmatch(r"\d{1,5}", number, re.ASCII) and int(number) < k_per_layer.get(layer, 0):
            return cluster_key(layer, int(number))
    layer, k = next(iter(k_per_layer.items()))
    raise NotFoundError(
        f"{set_name} has no cluster or path {key[:80]!r}. Expected LAYER/CLUSTER, such as {layer}/{k - 1}, or one cluster for "
        f"each of {', '.join(k_per_layer)} with - between them."
    )
