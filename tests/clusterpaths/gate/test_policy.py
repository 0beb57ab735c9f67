from __future__ import annotations

from pathlib import Path

import pytest

from clusterpaths.errors import ConfigError
from clusterpaths.gate.policy import DEFAULT_POLICY, parse_policy, read_policy
from tests.runs import PROJECT

EVERYTHING = """
judge = "bound"
not_measurable = "pass"
decisions = {kept = 0.9}
accuracy = {drop = 0.01, judge = "value"}
classes = {drop = 0.05, min_examples = 10}
ood = {auroc = 0.8, kinds = {noise = 0.9}, drop = 0.02}
latency = {ms = 4.5, ratio = 1.2, batch = 8, repeats = 20}

[paths]
agreement = 0.5
layers = {fc2 = 0.9}
information = 0.3

[[shortcuts]]
attribute = "Wearing_Hat"
purity = 0.95
layers = ["fc1", "fc2"]

[[shortcuts]]
attribute = "Male"
rise = 0.05
lift = 3
"""


def test_every_rule_can_be_read() -> None:
    policy = parse_policy(EVERYTHING, "it")
    assert policy.paths
    assert policy.paths.layers == {"fc2": 0.9}
    assert [one.attribute for one in policy.shortcuts] == ["Wearing_Hat", "Male"]


def test_without_a_file_the_default_policy_holds() -> None:
    assert read_policy(None) == parse_policy(DEFAULT_POLICY, "it")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "decision = {kept = 0.9}",
            r"decision is no key of a policy. Expected some of: judge, not_measurable, decisions, acc",
        ),
        ("decisions = {keep = 0.9}", r"decisions.keep is no key of \[decisions\]. Expected some of: judge, kept"),
        (
            "[paths]\nagreement = 0.5\nlayer = 3",
            r"paths.layer is no key of \[paths\]. Expected some of: judge, agreement, l",
        ),
        (
            '[[shortcuts]]\nattribute = "Hat"\nlift = 2\npurty = 1',
            r"shortcuts.0.purty is no key of \[\[shortcuts\]\]. Exp.*purity",
        ),
        ("decisions = {kept = 90}", r"decisions.kept should be less than or equal to 1, got 90"),
        ("accuracy = {drop = -0.1}", r"accuracy.drop should be greater than or equal to 0, got -0.1"),
        ('ood = {kinds = {noise = "high"}}', r"ood.kinds.noise should be a valid number.*got 'high'"),
        ("latency = {ms = 0}", r"latency.ms should be greater than 0, got 0"),
        ("latency = {batch = 4}", r"\[latency\] has no limit: give ms or ratio"),
        ("[paths]", r"\[paths\] has no limit: give agreement, layers or information"),
        ("decisions = {}", r"decisions.kept is missing"),
        ('[[shortcuts]]\nattribute = "Hat"', r"rule about Hat has no limit: give purity, rise or lift"),
        ('judge = "interval"\ndecisions = {kept = 0.9}', r"judge should be 'value' or 'bound', got 'interval'"),
        ("", r"there is no rule.*Rules are: decisions, accuracy, classes, paths, ood, latency, shortcuts"),
        ("decisions = ", r"is not valid TOML: Invalid value"),
    ],
)
def test_a_bad_policy_is_one_clear_paragraph(text: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"^The policy {file} .*{expected}") as caught:
        read_policy(file)
    assert "\n" not in str(caught.value)


def test_a_missing_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read \(No such file"):
        read_policy(tmp_path / "none.toml")


def test_the_documentation_shows_the_default_policy() -> None:
    assert f"```toml\n{DEFAULT_POLICY}```" in (PROJECT / "docs" / "gate.md").read_text()
