"""A model registry as a source: MLflow's own server, a real Prefect server, the watcher, the gate, and what is reported back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlflow", reason="needs the extra [mlflow]")

from clusterpaths.config import RunConfig
from clusterpaths.errors import ConfigError
from clusterpaths.gate.policy import GateSettings
from clusterpaths.gate.record import GateRecord, decision_names
from clusterpaths.gate.registry import Registry, RegistryAwayError, Version, parse_version
from clusterpaths.gate.run import Decided
from clusterpaths.models.check import check_model
from clusterpaths.sets.published import open_set
from tests.clusterpaths.gate.conftest import write_variant
from tests.deployments.conftest import end_group, free_port, model_events, server_environment
from tests.deployments.site import wait_until
from tests.mlflow_server import QUIET, running_mlflow
from tests.runs import PROJECT, SAMPLE_MODEL, run_pipeline

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("ignore:::(mlflow|google|opentelemetry).*")]
NAME = "Hair colour"


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_mlflow(tmp_path_factory.mktemp("mlflow"), free_port()) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", url)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield url


def client(url: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(url, registry_uri=url)


def register(url: str, name: str, *files: Path, alias: str | None = None) -> Any:
    """A new version of a registered model, whose run has these files as its artifacts."""
    ml = client(url)
    experiment = ml.get_experiment_by_name("training")
    run = ml.create_run(experiment.experiment_id if experiment else ml.create_experiment("training")).info.run_id
    for file in files:
        ml.log_artifact(run, str(file), "model")
    with contextlib.suppress(Exception):  # it is there
        ml.create_registered_model(name)
    version = ml.create_model_version(name, f"runs:/{run}/model", run)
    if alias:
        ml.set_registered_model_alias(name, alias, version.version)
    return version


def tags(url: str, version: Any) -> dict[str, str]:
    return dict(client(url).get_model_version(version.name, version.version).tags)


def test_the_wanted_version_is_that_of_the_alias_of_the_stage_or_the_newest(mlflow_url: str, tmp_path: Path) -> None:
    registry, name = Registry(), "Several"
    assert registry.wanted(name) is None
    first = register(mlflow_url, name, write_variant(tmp_path / "model.onnx"))
    second = register(mlflow_url, name, write_variant(tmp_path / "model.onnx", noise=0.1))
    assert registry.wanted(name, alias="candidate") is None
    client(mlflow_url).set_registered_model_alias(name, "candidate", first.version)
    with pytest.warns(FutureWarning, match="deprecated"):
        client(mlflow_url).transition_model_version_stage(name, first.version, "Staging")
    for options, expected in (({"alias": "candidate"}, first), ({"stage": "Staging"}, first), ({}, second)):
        found = registry.wanted(name, **options)
        assert found is not None
        assert (found.version, found.run_id) == (int(expected.version), expected.run_id)


@pytest.mark.parametrize(("given", "expected"), [("models:/A b/12", ("A b", 12)), ("", None)])
def test_an_address_of_a_version(given: str, expected: Any) -> None:
    assert parse_version(given) == expected


def test_another_address_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"is no version of a registered model\. Expected models:/NAME/VERSION"):
        parse_version("models:/A@champion")


def test_without_an_address_or_without_a_server_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ConfigError, match=r"No MLflow server is named\. Set MLFLOW_TRACKING_URI"):
        Registry()
    nobody = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RegistryAwayError, match=f"The MLflow server at {nobody} did not do what it was asked"):
        Registry(nobody).wanted("Hair")


class Watcher:
    """The watcher of one registered model, in a process of its own."""

    def __init__(self, name: str, home: Path, prefect: str, mlflow: str) -> None:
        self.name, self.home, self.mlflow = name, home, mlflow
        self._environment = server_environment(prefect, home) | QUIET | {"MLFLOW_TRACKING_URI": mlflow}
        self.log = home / "watcher.log"
        home.mkdir(parents=True, exist_ok=True)

    def file(self, version: Any) -> Path:
        """Where it downloads a version to."""
        found = Version(name=self.name, version=int(version.version), run_id=version.run_id, tags={})
        return Registry(self.mlflow).target(found, self.home / "models")

    @contextlib.contextmanager
    def running(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        words = [self.name, "--folder", str(self.home / "models"), "--poll", "0.3", *options]
        command = [sys.executable, str(PROJECT / "deployments" / "watch_mlflow.py"), *words]
        with self.log.open("ab") as file:
            process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self.home,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            end_group(process)


def events(prefect: str, watcher: Watcher, version: Any) -> list[tuple[str, dict[str, Any]]]:
    return model_events(prefect, watcher.file(version).parent)


def test_a_new_version_is_announced_once_also_by_watchers_that_are_killed(
    live_server: str, mlflow_url: str, tmp_path: Path
) -> None:
    watcher = Watcher("Killed often", tmp_path / "home", live_server, mlflow_url)
    with watcher.running("--alias", "candidate") as process:
        wait_until(lambda: "Watching" in watcher.log.read_text())
        old = register(mlflow_url, watcher.name, write_variant(tmp_path / "old.onnx", noise=0.3))
        version = register(
            mlflow_url, watcher.name, write_variant(tmp_path / "any name.onnx", noise=0.1), alias="candidate"
        )
        wait_until(lambda: events(live_server, watcher, version), watcher.log.read_text)
        os.killpg(process.pid, signal.SIGKILL)
    [(kind, payload)] = events(live_server, watcher, version)
    file = watcher.file(version)
    assert kind == "arrived"
    assert payload == {
        "path": str(file), "name": "Killed_often", "sha256": check_model(file).sha256,
        "registered": f"models:/Killed often/{version.version}", "run_id": version.run_id, "version": int(version.version),
        "registry": mlflow_url,
    }  # fmt: skip
    # as if it had been killed between the event and the tag
    if "clusterpaths.announced" in tags(mlflow_url, version):
        client(mlflow_url).delete_model_version_tag(version.name, version.version, "clusterpaths.announced")
    with watcher.running("--alias", "candidate", "--once") as process:
        assert process.wait(120) == 0, watcher.log.read_text()
    assert tags(mlflow_url, version)["clusterpaths.announced"] == payload["sha256"]
    assert len(events(live_server, watcher, version)) == 1
    assert tags(mlflow_url, old) == {}  # without the alias


def test_a_version_that_is_no_model_is_rejected_as_a_file(live_server: str, mlflow_url: str, tmp_path: Path) -> None:
    (tmp_path / "notes.onnx").write_text("no model")
    (tmp_path / "readme.md").write_text("no file")
    watcher = Watcher("Broken", tmp_path / "home", live_server, mlflow_url)
    for file, reason in (
        ("notes.onnx", "notes.onnx|Broken.onnx"), ("readme.md", "should have one ONNX file"), (None, "artifacts; it has none"),
    ):  # fmt: skip
        version = register(mlflow_url, watcher.name, *([tmp_path / file] if file else []))
        with watcher.running("--once") as process:
            assert process.wait(120) == 0, watcher.log.read_text()
        [(kind, payload)] = events(live_server, watcher, version)
        assert (kind, payload["stage"]) == ("rejected", "file")
        found = tags(mlflow_url, version)
        assert found["clusterpaths.gate"] == "rejected"
        assert found["clusterpaths.reasons"] == payload["reason"]
        assert any(words in payload["reason"] for words in reason.split("|"))


def test_a_watcher_outlives_a_registry_that_is_away(live_server: str, tmp_path: Path) -> None:
    port, store = free_port(), tmp_path / "mlflow"
    with running_mlflow(store, port) as url:
        version = register(url, "Later", write_variant(tmp_path / "later.onnx", noise=0.2))
    watcher = Watcher("Later", tmp_path / "home", live_server, url)
    with watcher.running() as process:
        wait_until(lambda: "did not do what it was asked" in watcher.log.read_text(), watcher.log.read_text)
        with running_mlflow(store, port):
            wait_until(lambda: events(live_server, watcher, version), watcher.log.read_text)
            wait_until(lambda: "clusterpaths.announced" in tags(url, version), watcher.log.read_text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert "Traceback" not in watcher.log.read_text()


def test_the_decision_of_the_gate_is_tagged_and_its_documents_are_logged_to_the_run(
    live_server: str, mlflow_url: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from clusterpaths.datasets.drawn_faces.draw import write_faces
    from flows.celeba import celeba

    people = write_faces(tmp_path / "people", 80, seed=3).parent
    policy = tmp_path / "policy.toml"
    policy.write_text("decisions = {kept = 0.8}")
    options: dict[str, Any] = {"cache_root": str(tmp_path / "results"), "check_preprocessing": False, "evaluate": False}
    run_pipeline(RunConfig(model=SAMPLE_MODEL, data_root=people, name="Hair", k=3, **options))
    watcher = Watcher(NAME, tmp_path / "home", live_server, mlflow_url)
    gate = GateSettings(reference="Hair", policy=policy)
    for change, verdict in (({"exchange": (1, 3)}, "rejected"), ({"noise": 0.01}, "accepted")):
        version = register(mlflow_url, NAME, write_variant(tmp_path / "hair.onnx", **change))
        with watcher.running("--once") as process:
            assert process.wait(120) == 0, watcher.log.read_text()
        [(_, payload)] = [one for one in events(live_server, watcher, version) if one[0] == "arrived"]
        name = f"{payload['name']}-{payload['sha256'][:8]}"  # as prefect.yaml starts the run
        config = RunConfig(model=payload["path"], model_sha256=payload["sha256"], name=name, **options)
        for _ in range(2):  # a repeated run reports the same
            state = celeba(config, gate, payload["registered"], return_state=True)
            assert state.is_completed(), state.message
        found = tags(mlflow_url, version)
        assert (found["clusterpaths.gate"], found["clusterpaths.set"]) == (verdict, f"{name}/set_01")
        assert found["clusterpaths.reasons"].startswith("decisions.kept is 0.") == (verdict == "rejected")
        logged = {Path(one.path).name for one in client(mlflow_url).list_artifacts(version.run_id, "clusterpaths")}
        assert logged >= {
            "gate.json", "set.json", "paths.md", "report.html", "comparison_with_Hair_set_01.html",
            "comparison_with_Hair_set_01.json",
        }  # fmt: skip
        assert not any(file.startswith("gate_") for file in logged)
        local = client(mlflow_url).download_artifacts(version.run_id, "clusterpaths/gate.json", str(tmp_path))
        record = GateRecord.model_validate_json(Path(local).read_bytes())
        assert record.accepted == (verdict == "accepted")
        kept = client(mlflow_url).get_run(version.run_id).data.metrics["clusterpaths.decisions.kept"]
        assert record.checks[0].measured is not None
        assert kept == record.checks[0].measured.value
    # its run is deleted: the version is tagged all the same
    client(mlflow_url).delete_model_version_tag(NAME, version.version, "clusterpaths.gate")
    client(mlflow_url).delete_run(version.run_id)
    registry = Registry(mlflow_url)
    published = open_set(tmp_path / "results" / record.candidate.set)
    found_version = registry.version(NAME, int(version.version))
    assert found_version is not None
    registry.report(found_version, Decided(record, published, decision_names(published)[-1]))
    assert tags(mlflow_url, version)["clusterpaths.gate"] == "accepted"
