"""The command on real runs: accepted, rejected, and what is left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import junitparser
import numpy as np
import pytest

from clusterpaths.commands.accepted import main as accepted_main
from clusterpaths.commands.gate import main
from clusterpaths.commands.sample import SampleRun
from clusterpaths.errors import CacheError, ConfigError, ModelError
from clusterpaths.gate.candidate import candidate_config
from clusterpaths.gate.measure import Evidence
from clusterpaths.gate.policy import parse_policy
from clusterpaths.gate.record import GateRecord, decision_names
from clusterpaths.gate.run import decide_and_accept
from clusterpaths.pipeline import run
from clusterpaths.sets.accepted import Moved, accept, accepted_set, find_accepted, read_accepted
from clusterpaths.sets.find import find_named
from clusterpaths.sets.published import PublishedSet, open_set
from clusterpaths.storage import open_storage
from tests.clusterpaths.conftest import write_cnn
from tests.runs import SAMPLE_MODEL

POLICY = """
decisions = {kept = 0.8}
accuracy = {drop = 0.05}
classes = {drop = 0.2, min_examples = 10}
ood = {drop = 0.3}
[paths]
information = 0.2
agreement = 0.1
[[shortcuts]]
attribute = "Eyeglasses"
rise = 0.3
lift = 50
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "policy.toml"
    file.write_text(POLICY)
    return file


def gate(results: Path, candidate: Path | str, *options: object, reference: str = "Hair") -> int:
    """The exit code."""
    words = ["--reference", reference, "--candidate", candidate, "--cache-root", results, *options]
    try:
        main([str(word) for word in words])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_better_model_is_accepted_and_a_worse_one_rejected(
    results: Path, models: Path, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = open_storage(results)
    junit, summary = tmp_path / "gate.xml", tmp_path / "gate.md"

    assert (
        gate(results, models / "worse.onnx", "--policy", policy, "--junit", junit, "--markdown", summary, "--json") == 1
    )
    record = GateRecord.model_validate_json(capsys.readouterr().out)
    failed = [check.rule for check in record.checks if check.outcome == "failed"]
    assert failed == ["decisions.kept", "accuracy.drop", "classes.drop"]  # two classes are exchanged, the paths are not
    assert not record.accepted
    assert read_accepted(root).lines == {}
    worse = find_named(root, record.candidate.set)
    assert worse.record.k_per_layer == {"conv1": 4, "conv2": 4, "conv3": 4, "fc1": 4, "fc2": 5}
    assert GateRecord.model_validate_json((worse.path / "gate.json").read_bytes()) == record
    assert (worse.path / record.comparison).is_file()

    [suite] = list(junitparser.JUnitXml.fromfile(str(junit)))
    assert (suite.tests, suite.failures, suite.errors) == (len(record.checks), 3, 0)
    results_of = {case.name: [(type(one).__name__, one.message) for one in case.result] for case in suite}
    assert results_of["paths.agreement"] == []
    [(kind, message)] = results_of["accuracy.drop"]
    assert (kind, message) == ("Failure", next(c.reason for c in record.checks if c.rule == "accuracy.drop"))
    page = summary.read_text()
    assert page.startswith("## Gate: rejected ❌")
    assert page.count("❌ failed") == 3
    assert all(reason in page for reason in record.reasons)

    assert gate(results, models / "better.onnx", "--policy", policy) == 0
    out = capsys.readouterr().out
    assert "is the accepted set now" in out
    better = accepted_set(root, "Hair")
    assert better.record.model.file == "better.onnx"
    assert [entry.action for entry in read_accepted(root).lines["Hair"]] == ["first", "accepted"]
    assert find_accepted(worse) == better  # what a new model is compared with from then on

    with pytest.raises(SystemExit, match="0"):
        accepted_main(["--roll-back", "--cache-root", str(results)])
    assert "The accepted set of Hair is Hair/set_01 again" in capsys.readouterr().out
    assert find_accepted(worse) == open_set(results / "Hair" / "set_01")


def test_a_decision_by_another_policy_is_another_document_and_the_same_one_is_not(
    results: Path, better: PublishedSet, policy: Path
) -> None:
    policy.write_text("decisions = {kept = 1.0}\naccuracy = {drop = 0}")
    for _ in range(2):
        assert gate(results, "Better/set_01", "--policy", policy, "--decide-only", reference="Hair/set_01") in (0, 1)
    first = (better.path / "gate.json").read_bytes()
    assert decision_names(better) == ["gate.json"]
    policy.write_text("decisions = {kept = 0.5}")
    assert gate(results, "Better/set_01", "--policy", policy, "--decide-only", reference="Hair/set_01") == 0
    assert decision_names(better) == ["gate.json", "gate_02.json"]
    assert (better.path / "gate.json").read_bytes() == first


def test_what_is_not_measurable_is_said_in_the_xml_and_by_the_exit_code(
    results: Path, better: PublishedSet, policy: Path, tmp_path: Path
) -> None:
    (better.path / "metrics.json").unlink()
    junit = tmp_path / "gate.xml"
    for choice, code in (("fail", 1), ("pass", 0)):
        policy.write_text(
            f'not_measurable = "{choice}"\nood = {{auroc = 0.5}}\nshortcuts = [{{attribute = "Hat", lift = 2}}]'
        )
        options = ("--policy", policy, "--decide-only", "--junit", junit)
        assert gate(results, "Better", *options, reference="Hair/set_01") == code
        [suite] = list(junitparser.JUnitXml.fromfile(str(junit)))
        assert (suite.tests, suite.errors, suite.skipped) == ((2, 2, 0) if code else (2, 0, 2))
        assert "has no metrics.json" in junit.read_text()
        assert "has no attribute Hat; it has 5_o_Clock_Shadow" in junit.read_text()


def test_latency_is_measured_of_both_path_models(
    results: Path, better: PublishedSet, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy.write_text("latency = {ms = 100000, ratio = 100000, repeats = 10}")
    options = ("--policy", policy, "--decide-only", "--json")
    assert gate(results, "Better", *options, reference="Hair/set_01") == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [(check["rule"], check["measured"]["n"]) for check in checks] == [("latency.ms", 10), ("latency.ratio", 10)]


def test_an_older_reference_decides_but_does_not_move_the_pointer(
    results: Path, models: Path, better: PublishedSet, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = open_storage(results)
    policy.write_text("decisions = {kept = 0.1}")
    assert gate(results, "Better", "--policy", policy) == 0
    assert gate(results, models / "worse.onnx", "--policy", policy, reference="Hair/set_01") == 0
    out = capsys.readouterr().out
    assert "left as it is: Hair/set_01 is not the accepted set of Hair: Better/set_01 is" in out
    assert accepted_set(root, "Hair").name == "Better/set_01"


def mistakes(results: Path, models: Path, tmp_path: Path) -> dict[str, tuple[tuple[Any, ...], str]]:
    tiny = write_cnn(tmp_path / "tiny.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    return {
        "the reference itself": (("Hair/set_01",), "Hair/set_01 is the reference itself"),
        "the reference's model": ((SAMPLE_MODEL,), "has the same model, images and settings as Hair/set_01"),
        "no file": ((tmp_path / "none.onnx",), "none.onnx does not exist. Expected an ONNX file, or a set"),
        "no set": (("Nobody/set_01",), "There are no sets called 'Nobody/set_01'"),
        "no model": ((broken,), "broken.onnx"),
        "other layers": ((tiny,), "cannot be compared with Hair/set_01, whose layers are conv1, conv2"),
        "a policy": ((models / "better.onnx", "--policy", tmp_path / "x.toml"), "x.toml cannot be read"),
        "an option": ((models / "better.onnx", "--polcy", "x"), "Unknown option: --polcy"),
    }


@pytest.mark.parametrize(
    "which",
    [
        "the reference itself",
        "the reference's model",
        "no file",
        "no set",
        "no model",
        "other layers",
        "a policy",
        "an option",
    ],
)
def test_a_mistake_is_one_paragraph_and_exit_code_2(
    which: str, results: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, expected = mistakes(results, models, tmp_path)[which]
    assert gate(results, *words) == 2
    message = capsys.readouterr().err.rpartition("\nerror: ")[2].strip()
    assert expected in message.replace("\n", " ")
    assert "Traceback" not in message
    assert read_accepted(open_storage(results)).lines == {}


def test_a_candidate_without_metadata_takes_the_preprocessing_of_the_reference(results: Path, tmp_path: Path) -> None:
    import onnx

    reference = open_set(results / "Hair" / "set_01")
    model = onnx.load(SAMPLE_MODEL)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "silent.onnx")
    config = candidate_config(reference, tmp_path / "silent.onnx")
    assert (config.preprocessing, config.size, config.resize) == ("imagenet", (64, 64), "bilinear")
    assert candidate_config(reference, SAMPLE_MODEL).preprocessing is None
    assert (config.seed, config.distance, config.k) == (0, "cosine", "conv1=4,conv2=4,conv3=4,fc1=4,fc2=5")


def test_a_candidate_keeps_its_own_class_names(results: Path, tmp_path: Path) -> None:
    """The reference's may be in another order."""
    import onnx

    reference, names = open_set(results / "Hair" / "set_01"), tmp_path / "names.txt"
    names.write_text("\n".join(reference.record.class_names))
    given = reference.record.model_copy(update={"config": reference.record.config | {"class_names": str(names)}})
    reference = PublishedSet(reference.folder, given)
    assert candidate_config(reference, SAMPLE_MODEL).class_names is None
    model = onnx.load(SAMPLE_MODEL)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "silent.onnx")
    assert candidate_config(reference, tmp_path / "silent.onnx").class_names == names


def test_a_reference_that_cannot_be_repeated_says_why(results: Path, models: Path) -> None:
    reference = open_set(results / "Hair" / "set_01")
    unrecorded = PublishedSet(reference.folder, reference.record.model_copy(update={"config": {}}))
    with pytest.raises(CacheError, match="does not record its configuration"):
        candidate_config(unrecorded, models / "better.onnx")
    with pytest.raises(ModelError):
        candidate_config(reference, results / "nothing.onnx")


def test_a_crash_between_the_decision_and_the_pointer_is_made_good_by_the_next_try(
    results: Path, better: PublishedSet, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, loose = open_storage(results), parse_policy("decisions = {kept = 0.1}", "it")

    def killed(*_: object) -> Moved:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("clusterpaths.gate.run.accept", killed)
        with pytest.raises(KeyboardInterrupt):
            decide_and_accept(root, "Hair", better, loose)
    assert decision_names(better) == ["gate.json"]
    assert read_accepted(root).lines == {}
    for _ in range(2):
        decided = decide_and_accept(root, "Hair", better, loose)
        assert decided.moved == Moved(True)
        assert accepted_set(root, "Hair") == better
    assert decision_names(better) == ["gate.json"]


def test_where_another_candidate_was_accepted_meanwhile_it_is_decided_again_against_that_one(
    results: Path, better: PublishedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clusterpaths.gate import run

    root, loose = open_storage(results), parse_policy("decisions = {kept = 0.1}", "it")
    other = results / "Other" / "set_01"
    shutil.copytree(better.path.parent, other.parent)
    record = open_set(other).record.model_copy(update={"fingerprint": "0" * 64})
    (other / "set.json").write_text(record.model_dump_json())
    real, against = run.decide, []

    def meanwhile(reference: PublishedSet, *given: Any) -> Any:
        if not against:
            accept(root, "Hair", reference, open_set(other))
        against.append(reference.name)
        return real(reference, *given)

    monkeypatch.setattr(run, "decide", meanwhile)
    decided = decide_and_accept(root, "Hair", better, loose)
    assert against == ["Hair/set_01", "Other/set_01"]
    assert decided.record.reference.set == "Other/set_01"
    assert accepted_set(root, "Hair") == better
    assert decision_names(better) == ["gate.json", "gate_02.json"]


def test_sets_in_a_bucket_are_decided_there(
    results: Path, better: PublishedSet, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    obstore = pytest.importorskip("obstore", reason="needs the extra [s3]")
    pytest.importorskip("moto", reason="needs moto's server")
    from clusterpaths.storage import objects
    from tests.storage import BUCKET, running_storage

    policy.write_text("decisions = {kept = 0.5}\nood = {drop = 0.5}")
    with running_storage(tmp_path / "bucket", tmp_path / "mirror"):
        for path in results.rglob("*"):
            if path.is_file() and path.suffix != ".npy":
                obstore.put(objects.store_of(BUCKET), f"r/{path.relative_to(results)}", path.read_bytes())
        words = [
            "--reference",
            "Hair",
            "--candidate",
            "Better",
            "--cache-root",
            f"s3://{BUCKET}/r",
            "--policy",
            str(policy),
        ]
        with pytest.raises(SystemExit, match="0"):
            main(words)
        assert "Better/set_01 is the accepted set now" in capsys.readouterr().out
        there = open_storage(f"s3://{BUCKET}/r")
        assert accepted_set(there, "Hair").name == "Better/set_01"
        content, _ = (there / "Better" / "set_01").read_version("gate.json")
        assert GateRecord.model_validate_json(content or b"").accepted


def test_a_set_of_the_sample_is_repeated_on_drawn_faces(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERPATHS_HOME", str(tmp_path))
    options = {"model": SAMPLE_MODEL, "sample_size": 40, "evaluate": False, "check_preprocessing": False, "k": 2}
    published = run(SampleRun(**options)).published  # as `clusterpaths sample` runs
    assert published
    config = candidate_config(published, models / "better.onnx")
    assert (config.sample, config.sample_size, config.data_root) == (True, 40, None)


def test_a_policy_of_which_no_rule_applies_accepts_nothing(
    results: Path, better: PublishedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = np.zeros(1, np.bool_)
    monkeypatch.setattr(Evidence, "labelled", property(lambda _: nothing))
    monkeypatch.setattr(Evidence, "should_have_labels", property(lambda _: False))
    policy = parse_policy("accuracy = {drop = 0.1, if_labelled = true}", "it")
    with pytest.raises(ConfigError, match="No rule of the policy"):
        decide_and_accept(open_storage(results), "Hair", better, policy)
    assert read_accepted(open_storage(results)).lines == {}


def test_a_stricter_policy_does_not_repeat_an_old_acceptance(results: Path, better: PublishedSet) -> None:
    root, policy = open_storage(results), parse_policy("decisions = {kept = 0.5}", "it")
    assert decide_and_accept(root, "Hair", better, policy).record.accepted
    assert decide_and_accept(root, "Hair", better, policy).record.accepted  # the same question has the same answer
    with pytest.raises(ConfigError, match="is the reference itself"):
        decide_and_accept(root, "Hair", better, parse_policy("decisions = {kept = 1}", "it"))
