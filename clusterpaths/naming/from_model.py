"""Names by a vision-language model: ask about minimal divergences, then about each cluster against its layer.

Belongs here: the order of the work, the budget, cached answers, and from answers to entries of annotations.json. Nothing is
sent but montages of exemplars and the texts of `prompts.py`: no names of files, classes or attributes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image
from pydantic import Field

from clusterpaths.common.corrupted import parse_json
from clusterpaths.errors import ConfigError, EndpointError
from clusterpaths.explore.index import SetIndex
from clusterpaths.naming.annotations import Entry, add_entries, utc_now
from clusterpaths.naming.endpoint import Answer, Budget, BudgetSpentError, Endpoint, estimate_tokens, request_body
from clusterpaths.naming.prompts import agreement, read_answer
from clusterpaths.naming.questions import Ask, cluster_questions, montages, pair_questions
from clusterpaths.naming.record import Check, cluster_key
from clusterpaths.records import Record
from clusterpaths.sets.published import PublishedSet

ANSWERS = "vlm_answers"  # directory beside the sets, a file per question, named by the hash of all that was sent
SHARE_OF_PAIRS = 0.25  # of the calls, where they do not suffice for all questions
UNUSABLE_IN_A_ROW = 5  # answers, after which the server is not asked any more

ReadImage = Callable[[str], Image.Image]


class Plan(Record):
    """What a run would ask, at most: answers that are cached cost nothing."""

    clusters: int
    pairs: int
    calls: int
    images: int = Field(description="photographs, each in a montage; one that is shown twice counts twice")
    tokens: int = Field(description="as estimated, answers included")
    left_out: int = Field(description="questions beyond the budget of calls")


class Outcome(Record):
    """What a run asked and found."""

    named: tuple[Entry, ...]
    sent: int = Field(description="requests, with repetitions")
    sent_images: int
    tokens: int
    cached: int = Field(description="answers from an earlier run")
    unusable: int = Field(description="refusals, and answers that are no names")
    without_images: int = Field(description="questions whose images cannot be read")
    unasked: int = Field(description="questions that the budget did not allow")

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        parts = [
            f"{len(self.named)} clusters named: {self.sent} requests with {self.sent_images:,} photographs, about "
            f"{self.tokens:,} tokens; {self.cached} answers were cached."
        ]
        low = sum(bool(entry.check and entry.check.low) for entry in self.named)
        parts += [f"{low} names have low agreement."] if low else []
        parts += [f"{self.unusable} answers were no names."] if self.unusable else []
        parts += [f"{self.without_images} questions had no images that can be read."] if self.without_images else []
        parts += [f"{self.unasked} questions were not asked: the budget is spent."] if self.unasked else []
        return " ".join(parts)


def choose_questions(index: SetIndex, calls: int) -> tuple[list[Ask], int]:
    """The questions within a number of calls, in order, and how many are left out.

    Pairs first; where there are more questions than calls, a quarter of them are pairs.
    """
    clusters, pairs = cluster_questions(index), pair_questions(index)
    room = max(calls - len(clusters), int(calls * SHARE_OF_PAIRS))
    chosen = [*pairs[:room], *clusters][: max(calls, 0)]
    return chosen, len(clusters) + len(pairs) - len(chosen)


def plan(index: SetIndex, calls: int) -> Plan:
    """What a run with this number of calls asks, at most."""
    chosen, left_out = choose_questions(index, calls)
    return Plan(
        clusters=len({(ask.layer, ask.clusters) for ask in chosen if len(ask.clusters) == 1}),
        pairs=sum(len(ask.clusters) == 2 for ask in chosen),
        calls=len(chosen),
        images=sum(ask.photographs for ask in chosen),
        tokens=sum(estimate_tokens(ask.prompt, 2) for ask in chosen),
        left_out=left_out,
    )


def name_by_model(
    published: PublishedSet,
    endpoint: Endpoint,
    model: str,
    budget: Budget,
    read_image: ReadImage,
    log: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Ask a vision-language model and write its names beside the set.

    Args:
        published: the set.
        endpoint: the server.
        model: its name for the model.
        budget: what may be sent.
        read_image: reads the set's images by name; may raise OSError.
        log: is given a line per answer.

    Raises:
        ConfigError: the set has no images.
        EndpointError: the server failed; names from the answers until then are written, and the message says how many.
        CacheError, DiskError: annotations.json cannot be changed.
    """
    index: SetIndex = published.index
    require_images(index)
    chosen, left_out = choose_questions(index, budget.calls)
    run = _Run(published, index, endpoint, model, budget, read_image, log)
    failure: EndpointError | None = None
    try:
        for number, ask in enumerate(chosen):
            try:
                run.answer(ask)
            except BudgetSpentError:
                left_out += len(chosen) - number
                break
    except EndpointError as error:
        failure = error
    written = add_entries(published, run.entries(), replace=True)
    if failure is not None:
        raise EndpointError(f"{failure} {len(written)} names from the answers before were saved.") from failure
    return Outcome(
        named=tuple(run.entries()),
        sent=budget.sent,
        sent_images=budget.sent_images,
        tokens=budget.used_tokens,
        cached=run.cached,
        unusable=run.unusable,
        without_images=run.without_images,
        unasked=left_out,
    )


def require_images(index: SetIndex) -> None:
    """Check that there is something to show.

    Raises:
        ConfigError: the set has no images.
    """
    if index.files is None or not any(index.file(row) for row in range(min(len(index), 10))):
        raise ConfigError(
            f"{index.name} has no images: it was made of activations or arrays alone. A vision-language model needs pictures; "
            "names from the data are there without one."
        )


@dataclass
class _Run:
    """Answers so far."""

    published: PublishedSet
    index: SetIndex
    endpoint: Endpoint
    model: str
    budget: Budget
    read_image: ReadImage
    log: Callable[[str], None]
    cached: int = 0
    unusable: int = 0
    without_images: int = 0
    in_a_row: int = 0
    names: dict[tuple[int, int], list[str]] = field(default_factory=dict)  # (layer, cluster) -> one per asking
    divergences: dict[tuple[int, int], list[str]] = field(default_factory=dict)

    def answer(self, ask: Ask) -> None:
        """Take the answer from the cache, or from the server.

        Raises:
            BudgetSpentError, EndpointError.
        """
        pictures = montages(ask, self.index, self.read_image)
        if pictures is None:
            self.without_images += 1
            return
        body = request_body(self.model, ask.prompt, pictures)
        file = f"{ANSWERS}/{hashlib.sha256(body).hexdigest()}.json"
        known = self._cached(file, ask)
        if known is not None:
            self.cached += 1
            self._take(ask, known)
            return
        answer = self.endpoint.ask(body, self.budget, ask.photographs, estimate_tokens(ask.prompt, len(pictures)))
        names = read_answer(answer.text, ask.fields)
        if names is None:
            self.unusable += 1
            self.in_a_row += 1
            if self.in_a_row == UNUSABLE_IN_A_ROW:
                raise EndpointError(
                    f"{self.endpoint.host} gave {UNUSABLE_IN_A_ROW} answers in a row that are no names, the last one "
                    f"{answer.text[:80]!r}. Expected JSON as prompts.py asks for it; use a model that takes images and follows "
                    "instructions."
                )
            return
        self.in_a_row = 0
        self._store(file, answer)
        self._take(ask, names)

    def _cached(self, file: str, ask: Ask) -> tuple[str, ...] | None:
        try:
            return read_answer(str(parse_json(self.published.cache.read(file))["text"]), ask.fields)
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return None  # unusable ones are asked for again

    def _store(self, file: str, answer: Answer) -> None:
        (self.published.cache / ANSWERS).make()
        self.published.cache.write_json(file, {"model": self.model, "text": answer.text, "tokens": answer.tokens})

    def _take(self, ask: Ask, names: tuple[str, ...]) -> None:
        layer = self.index.layers[ask.layer]
        if len(ask.clusters) == 2:
            (a, b), (of_a, of_b) = ask.clusters, names
            for cluster, own, other, of_other in ((a, of_a, b, of_b), (b, of_b, a, of_a)):
                self.divergences.setdefault((ask.layer, cluster), []).append(f"{own} (cluster {other}: {of_other})")
            self.log(f"{layer} {a} and {b}: {of_a} | {of_b}")
        else:
            self.names.setdefault((ask.layer, ask.clusters[0]), []).append(names[0])
            self.log(f"{layer} {ask.clusters[0]}: {names[0]}")

    def entries(self) -> list[Entry]:
        """One entry for each cluster with a name."""
        now, found = utc_now(), []
        for (layer, cluster), names in sorted(self.names.items()):
            divergences = self.divergences.get((layer, cluster), [])
            note = "On paths that differ only here: " + "; ".join(divergences) + "." if divergences else ""
            share = agreement(names[0], names[1]) if len(names) > 1 else 0.0
            found.append(
                Entry(
                    key=cluster_key(self.index.layers[layer], cluster),
                    source="model",
                    name=names[0],
                    note=note[:4000],
                    by=self.model[:120],
                    at=now,
                    check=Check(kind="askings", agreement=share, n=len(names)),
                )
            )
        return found
