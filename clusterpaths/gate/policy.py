"""The policy of a gate: which rules a candidate has to pass, from a TOML file.

Belongs here: the rules and their limits, and reading them. What is measured for a rule is `measure.py`, the verdict `decide.py`.
"""

from __future__ import annotations

import tomllib
import types
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import ConfigDict, Field, ValidationError, model_validator

from clusterpaths.errors import ConfigError
from clusterpaths.records import Record

Share = Annotated[float, Field(ge=0, le=1)]
Judge = Literal["value", "bound"]
DEFAULT = "default"  # the source of a policy that no file was named for
DEFAULT_POLICY = """\
judge = "value"              # the measured value has to meet a limit; "bound": the worse end of its 95% interval
not_measurable = "fail"      # a rule that cannot be measured rejects; "pass": it is reported and does not

[decisions]
kept = 0.90                  # share of examples with the same predicted class as before, at least

[accuracy]
drop = 0.01                  # at most so much below the reference, on labelled examples
if_labelled = true           # without labels the rule is left out

[classes]
drop = 0.10                  # no class loses more: of its recall, or without labels of its predictions
min_examples = 20            # smaller classes are left out

[paths]
information = 0.10           # shared information of each layer's clusters, at least: needs no matching and no equal k

[ood]
drop = 0.05                  # AUROC of the OOD score, for each kind of images: at most so much below the reference

[latency]
ratio = 1.5                  # of the path model, compared with the reference's on this machine, at most
"""


class Limits(Record):
    """Base of all rules: a limit is a number, not infinity."""

    model_config = ConfigDict(allow_inf_nan=False)


class Rule(Limits):
    """Base of the rules about measured shares."""

    judge: Judge | None = Field(default=None, description="for this rule [that of the policy]")


class DecisionsRule(Rule):
    """How many decisions stay."""

    kept: Share = Field(description="share of common examples with the same predicted class, at least")


class AccuracyRule(Rule):
    """How accurate the candidate is beside the reference."""

    drop: Share = Field(description="accuracy on common labelled examples: at most so much below the reference")
    if_labelled: bool = Field(default=False, description="leave the rule out where no example has a label")


class ClassesRule(Rule):
    """What a single class may lose."""

    drop: Share = Field(
        description="recall of a class: at most so much below the reference. Without labels: share of the reference's "
        "predictions of a class that are decided otherwise, at most"
    )
    min_examples: int = Field(default=20, ge=1, description="classes with fewer are left out")


class PathsRule(Rule):
    """How far the paths agree; clusters are matched first, so that their numbers do not matter."""

    agreement: Share | None = Field(
        default=None, description="share of examples whose complete path is unchanged, at least; needs equal k"
    )
    layers: dict[str, Share] = Field(
        default={}, description="layer -> share of examples whose cluster is unchanged, at least"
    )
    information: Share | None = Field(
        default=None, description="adjusted mutual information of the clusters, in each layer, at least"
    )


class ShortcutRule(Rule):
    """That clusters do not separate an attribute, which would be a shortcut."""

    attribute: str = Field(min_length=1, description="of the data set, such as Wearing_Hat")
    purity: Share | None = Field(
        default=None, description="share of examples with their cluster's more frequent value, at most, in any layer"
    )
    rise: Share | None = Field(default=None, description="of that purity above the reference's, at most, in any layer")
    lift: float | None = Field(
        default=None, ge=1, description="how much more frequent the attribute is in a cluster than outside, at most"
    )
    layers: tuple[str, ...] = Field(default=(), description="the layers that are looked at [all]")

    @model_validator(mode="after")
    def _limits_something(self) -> ShortcutRule:
        if self.purity is None and self.rise is None and self.lift is None:
            raise ValueError(f"the rule about {self.attribute} has no limit: give purity, rise or lift")
        return self


class OODRule(Rule):
    """How well out-of-distribution images are detected by the OOD score of the paths."""

    auroc: Share | None = Field(default=None, description="for each kind of images, at least")
    kinds: dict[str, Share] = Field(default={}, description="AUROC of one kind of images, at least")
    drop: Share | None = Field(default=None, description="for each kind: at most so much below the reference")


class LatencyRule(Rule):
    """How long the exported path model takes, on this machine, in one thread."""

    ms: float | None = Field(default=None, gt=0, description="milliseconds per image, at most")
    ratio: float | None = Field(default=None, gt=0, description="of the reference's path model, at most")
    batch: int = Field(default=1, ge=1, le=1024, description="images per call, unless the model fixes it")
    repeats: int = Field(default=60, ge=10, le=10_000, description="timed calls; the median counts")


class Policy(Record):
    """The rules that a candidate has to pass; those that are left out are not asked."""

    judge: Judge = Field(
        default="value",
        description="what has to meet a limit: the measured value, or the worse end of its 95% interval, so that few examples "
        "do not suffice",
    )
    not_measurable: Literal["fail", "pass"] = Field(
        default="fail", description="what a rule counts as whose value cannot be measured"
    )
    decisions: DecisionsRule | None = None
    accuracy: AccuracyRule | None = None
    classes: ClassesRule | None = None
    paths: PathsRule | None = None
    shortcuts: tuple[ShortcutRule, ...] = Field(default=(), description="[[shortcuts]], one for each attribute")
    ood: OODRule | None = None
    latency: LatencyRule | None = None

    @model_validator(mode="after")
    def _has_rules(self) -> Policy:
        if not (self.shortcuts or any(getattr(self, name) for name in RULES)):
            raise ValueError(f"there is no rule: a policy without one would accept everything. Rules are: {_all()}")
        for name, limits in (("paths", ("agreement", "layers", "information")), ("ood", ("auroc", "kinds", "drop"))):
            if (rule := getattr(self, name)) and not any(getattr(rule, limit) not in (None, {}) for limit in limits):
                raise ValueError(f"[{name}] has no limit: give {', '.join(limits[:-1])} or {limits[-1]}")
        if self.latency and self.latency.ms is None and self.latency.ratio is None:
            raise ValueError("[latency] has no limit: give ms or ratio")
        return self


class GateSettings(Record):
    """A gate that a flow runs for each new model."""

    reference: str = Field(description="NAME, for its accepted set, or NAME/set_NN, as `clusterpaths gate --reference`")
    policy: Path | None = Field(default=None, description="TOML file with the rules [the default policy]")

    @property
    def source(self) -> str:
        """Where the policy is from, for people."""
        return str(self.policy) if self.policy else DEFAULT


RULES = ("decisions", "accuracy", "classes", "paths", "ood", "latency")


def _all() -> str:
    return ", ".join([*RULES, "shortcuts"])


def read_policy(path: Path | None) -> Policy:
    """The policy of a TOML file; the default one without.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or has an unknown key or a limit out of range.
    """
    if path is None:
        return parse_policy(DEFAULT_POLICY, "the default policy")
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"The policy {path} cannot be read ({reason}). Expected a TOML file of rules.") from error
    return parse_policy(text, f"The policy {path}")


def parse_policy(text: str, where: str) -> Policy:
    """The policy that TOML text holds.

    Args:
        text: of the file.
        where: the beginning of an error's sentence.

    Raises:
        ConfigError: as `read_policy`.
    """
    try:
        return Policy.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not valid TOML: {error}. Correct it there.") from error
    except ValidationError as error:
        said = "; ".join(dict.fromkeys(_said(one) for one in error.errors()))
        raise ConfigError(f"{where} cannot be used: {said}. Correct it; docs/gate.md describes every rule.") from error


def _said(entry: Any) -> str:
    """One problem: where, what was found, and what is valid there."""
    place = [str(part) for part in entry["loc"]]
    if entry["type"] == "extra_forbidden":
        keys = ", ".join(_keys(entry["loc"][:-1]))
        return f"{_named(place)} is no key of {_table(place[:-1])}. Expected some of: {keys}"
    if entry["type"] == "missing":
        return f"{_named(place)} is missing"
    text = entry["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return text if entry["type"] == "value_error" else f"{_named(place)} {text}, got {entry['input']!r}"


def _named(place: list[str]) -> str:
    return ".".join(place)


def _table(place: list[str]) -> str:
    if not place:
        return "a policy"
    name = ".".join(part for part in place if not part.isdigit())
    return f"[[{name}]]" if any(part.isdigit() for part in place) else f"[{name}]"


def _keys(place: tuple[int | str, ...]) -> list[str]:
    """The valid keys of a table."""
    found: type[Record] = Policy
    for part in place:
        if isinstance(part, str) and part in found.model_fields:
            found = _record_in(found.model_fields[part].annotation)
    return list(found.model_fields)


def _record_in(annotation: Any) -> type[Record]:
    """The record that an annotation such as `X | None` or `tuple[X, ...]` is about."""
    if (
        isinstance(annotation, type)
        and not isinstance(annotation, types.GenericAlias)
        and issubclass(annotation, Record)
    ):
        return annotation
    if get_origin(annotation) is None:
        return Policy
    inner = (_record_in(one) for one in get_args(annotation))
    return next((one for one in inner if one is not Policy), Policy)
