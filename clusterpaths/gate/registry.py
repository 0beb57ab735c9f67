"""Models of an MLflow registry: the version that is wanted, its ONNX file, and what a gate decided about it.

Belongs here: what is asked of MLflow, and what is written into it. Announcing is `tasks/announcing.py`'s, when to look
deployments/watch_mlflow.py's. MLflow's client is imported where it is used: it takes seconds.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from clusterpaths.common.extras import require_extra
from clusterpaths.common.text import without_credentials
from clusterpaths.errors import ClusterPathsError, ConfigError, ModelError
from clusterpaths.gate.run import Decided
from clusterpaths.records import Record
from clusterpaths.report.markdown import published_set
from clusterpaths.storage.atomic import disk_errors, partial_name

log = logging.getLogger(__name__)
TAG = "clusterpaths."  # tags of a version: clusterpaths.announced, clusterpaths.gate …
ANNOUNCED = f"{TAG}announced"
DOCUMENTS = "clusterpaths"  # directory among the artifacts of a run
URI = "MLFLOW_TRACKING_URI"
_LONGEST_TAG = 5000  # characters, MLflow's limit
_WRITTEN = ("set.json", "metrics.json", "report.html")
_VERSION = re.compile(r"models:/(.+)/(\d+)")


class RegistryAwayError(ClusterPathsError):
    """The MLflow server does not answer, or fails; a retry can help."""


class Version(Record):
    """A version of a registered model."""

    name: str
    version: int
    run_id: str = ""
    tags: dict[str, str] = Field(default={})

    @property
    def address(self) -> str:
        """As MLflow writes it."""
        return f"models:/{self.name}/{self.version}"

    @property
    def file_name(self) -> str:
        """The name as that of a file."""
        return re.sub(r"[^A-Za-z0-9._-]+", "_", self.name).strip(".") or "model"


class Registry:
    """An MLflow server's models.

    Args:
        uri: of the server; [that of MLFLOW_TRACKING_URI].

    Raises:
        ConfigError: MLflow's client is not installed, or no server is named.
    """

    def __init__(self, uri: str | None = None) -> None:
        require_extra("A model registry", "mlflow", "mlflow")
        self.uri = uri or os.environ.get(URI, "")
        self.shown = without_credentials(self.uri)
        if not self.uri:
            raise ConfigError(
                f"No MLflow server is named. Set {URI}, such as {URI}=http://127.0.0.1:5000, where runs are executed, too."
            )
        # Its own retries take minutes; callers repeat what failed, with growing delays.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow import MlflowClient

        self._client = MlflowClient(self.uri, registry_uri=self.uri)

    def wanted(self, name: str, alias: str | None = None, stage: str | None = None) -> Version | None:
        """The version that has this alias, or the newest one in this stage, or the newest; None where there is none yet.

        Raises:
            RegistryAwayError: the server does not answer.
        """
        model = self._ask(self._client.get_registered_model, name, none=True)
        if model is None:
            return None
        if alias is not None:
            number = {key: int(value) for key, value in model.aliases.items()}.get(alias)
            return None if number is None else self.version(name, number)
        quoted = name.replace("'", "\\'")
        found = self._ask(self._client.search_model_versions, f"name='{quoted}'")
        numbers = [int(one.version) for one in found if stage in (None, one.current_stage)]
        return self.version(name, max(numbers)) if numbers else None

    def version(self, name: str, number: int) -> Version | None:
        """A version with its tags; None where there is none.

        Raises:
            RegistryAwayError: the server does not answer.
        """
        found = self._ask(self._client.get_model_version, name, str(number), none=True)
        if found is None:
            return None
        return Version(name=name, version=number, run_id=found.run_id or "", tags=dict(found.tags))

    def target(self, version: Version, folder: Path) -> Path:
        """Where a version's file goes: of its own for each name, run and server."""
        which = hashlib.sha256(f"{self.uri} {version.name} {version.run_id}".encode()).hexdigest()[:8]
        return folder / f"{version.file_name}-{which}" / f"v{version.version}" / f"{version.file_name}.onnx"

    def download(self, version: Version, folder: Path) -> Path:
        """The version's ONNX file, with its weights beside it: folder/NAME-DIGEST/vN/NAME.onnx; downloaded once.

        Raises:
            ModelError: it has no ONNX file, or several.
            RegistryAwayError: the server does not answer.
            DiskError: no room or no permission.
        """
        target = self.target(version, folder)
        place = target.parent
        if target.is_file():
            return target
        partial = place.with_name(partial_name(place.name))
        with disk_errors(place):
            partial.mkdir(parents=True)
            try:
                self._ask(_download, version.address, partial, self.uri)
                file = _onnx_file(partial, version)
                named = file.parent / target.name
                file.rename(named)  # "model.onnx" of every model would be one name for all
                shutil.rmtree(place, ignore_errors=True)
                named.parent.rename(place)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return target

    def tag(self, version: Version, **tags: str) -> None:
        """Set tags of a version, clusterpaths.NAME each.

        Raises:
            RegistryAwayError: the server does not answer.
        """
        for name, value in tags.items():
            number, text = str(version.version), value[:_LONGEST_TAG]
            self._ask(self._client.set_model_version_tag, version.name, number, f"{TAG}{name}", text)

    def report(self, version: Version, decided: Decided | None, reason: str = "") -> None:
        """Tag a version with the decision, and log the set's documents and the rules' values to its run. Safe to repeat.

        Args:
            version: that the candidate is of.
            decided: the decision; None where the model could not be run or compared, for this `reason`.
            reason: of that.

        Raises:
            RegistryAwayError: the server does not answer.
        """
        if decided is None:
            self.tag(version, gate="rejected", set="", reasons=reason)
            return
        record = decided.record
        if self._takes_documents(version):
            self._log(version.run_id, decided)
        self.tag(
            version,
            set=record.candidate.set,
            reference=record.reference.set,
            policy=record.policy_source,
            reasons="\n".join(record.reasons),
            gate="accepted" if record.accepted else "rejected",
        )  # fmt: skip - gate last: whoever waits for it finds the rest

    def _takes_documents(self, version: Version) -> bool:
        """Whether the version's run is there: a deleted one takes no artifacts."""
        run = self._ask(self._client.get_run, version.run_id, none=True) if version.run_id else None
        active = run is not None and run.info.lifecycle_stage == "active"
        if version.run_id and not active:
            log.warning("The run of %s was deleted: the gate's documents are not logged to it.", version.address)
        return active

    def _log(self, run: str, decided: Decided) -> None:
        published, record = decided.published, decided.record
        names = [decided.document, record.comparison, Path(record.comparison).with_suffix(".json").name, *_WRITTEN]
        for path in dict.fromkeys(published.file(name) for name in names if name):
            if path.is_file():
                self._ask(self._client.log_artifact, run, str(path), DOCUMENTS)
        summary = published_set(published, published.path / "report.html", "")
        self._ask(self._client.log_text, run, summary, f"{DOCUMENTS}/paths.md")
        for check in record.checks:
            if check.measured is not None:
                name, value = re.sub(r"[^\w./ -]", "-", f"{TAG}{check.rule}"), check.measured.value
                self._ask(self._client.log_metric, run, name, value)

    def _ask(self, call: Callable[..., Any], *args: Any, none: bool = False) -> Any:
        """What the server answers; with `none`, None for what it does not have.

        Raises:
            RegistryAwayError: it does not answer, or fails.
        """
        from mlflow.exceptions import MlflowException

        try:
            return call(*args)
        except MlflowException as error:
            if none and error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise self._away(error) from error
        except OSError as error:  # of requests, too, whose have no number
            if error.errno is not None and not isinstance(error, (ConnectionError, TimeoutError)):
                raise  # of this machine's disk
            raise self._away(error) from error

    def _away(self, error: Exception) -> RegistryAwayError:
        reason = (str(error).splitlines() or [""])[0]
        return RegistryAwayError(
            f"The MLflow server at {self.shown} did not do what it was asked ({type(error).__name__}: "
            f"{without_credentials(reason):.300}). Check that it runs, and that {URI} is its address."
        )


def parse_version(address: str) -> tuple[str, int] | None:
    """Name and number of models:/NAME/VERSION; None for an empty text.

    Raises:
        ConfigError: it is something else.
    """
    if not address:
        return None
    found = _VERSION.fullmatch(address)
    if found is None:
        raise ConfigError(f"{address!r} is no version of a registered model. Expected models:/NAME/VERSION.")
    return found[1], int(found[2])


def _download(address: str, folder: Path, uri: str) -> None:
    from mlflow import artifacts

    artifacts.download_artifacts(artifact_uri=address, dst_path=str(folder), tracking_uri=uri, registry_uri=uri)


def _onnx_file(folder: Path, version: Version) -> Path:
    """Raises: ModelError: there is none, or several and none is called model.onnx."""
    files = sorted(folder.rglob("*.onnx"))
    named = [path for path in files if path.name == "model.onnx"]  # as mlflow.onnx.log_model writes it
    if len(found := named or files) == 1:
        return found[0]
    names = ", ".join(str(path.relative_to(folder)) for path in files) or "none"
    raise ModelError(
        f"{version.address} should have one ONNX file, or one called model.onnx among its artifacts; it has {names}. Log the "
        "model with mlflow.onnx.log_model, or its file with log_artifact."
    )
