"""Watch a registered model of MLflow, and announce each new version to the Prefect server.

    MLFLOW_TRACKING_URI=http://127.0.0.1:5000 PREFECT_API_URL=http://127.0.0.1:4200/api \
        python deployments/watch_mlflow.py Hair --alias candidate

The version's ONNX file is downloaded and announced as `onnx-model.arrived`, as a file in the model directory is, with the
version and its run in the payload. celeba/on-new-model then tags the version with the decision of its gate. What was announced
is a tag of the version, clusterpaths.announced: it survives restarts, and several watchers share it.

Runs until it is stopped; where a server does not answer, it tries again.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Annotated, NoReturn

import cyclopts
from prefect.events import Event
from pydantic import Field, model_validator

from clusterpaths.commands.shell import command_parser, run_command
from clusterpaths.common import roots
from clusterpaths.common.text import without_credentials
from clusterpaths.errors import ClusterPathsError, ConfigError, ModelError
from clusterpaths.gate.registry import ANNOUNCED, Registry, Version
from clusterpaths.records import Record
from clusterpaths.watching.arrivals import Arrival, Outcome, Rejected, examine_apart, reject
from tasks.announcing import event_of
from tasks.events import deliver, server_url

_LONGEST_DELAY = 60.0

logger = logging.getLogger("watch_mlflow")


class WatchMlflowConfig(Record):
    """Options of the watcher."""

    alias: str | None = Field(None, description="the version with this alias, such as candidate [the newest version]")
    stage: str | None = Field(None, description="the newest version in this stage, such as Staging [any]")
    tracking_uri: str | None = Field(None, description="MLflow's server [MLFLOW_TRACKING_URI]")
    folder: Path | None = Field(None, description="directory for downloaded models [ONNX_models/mlflow]")
    poll: float = Field(30.0, gt=0, description="seconds between two looks")
    once: Annotated[bool, cyclopts.Parameter(negative=())] = Field(False, description="look once, and end")

    @model_validator(mode="after")
    def _one_of_both(self) -> WatchMlflowConfig:
        if self.alias is not None and self.stage is not None:
            raise ValueError("should be an alias or a stage, not both")
        return self

    @property
    def models(self) -> Path:
        """Where models are downloaded to; not the directory that watch_models.py watches."""
        return (self.folder or roots.models_root() / "mlflow").expanduser().absolute()


def look(registry: Registry, name: str, config: WatchMlflowConfig) -> Outcome | None:
    """Announce the wanted version, unless it was announced; returns what was announced.

    The event's id follows from the version, so that a watcher that was killed before it set the tag announces nothing twice.

    Raises:
        RegistryAwayError, ServerAwayError: MLflow's or Prefect's server does not answer.
        DiskError: no room or no permission.
    """
    version = registry.wanted(name, config.alias, config.stage)
    if version is None or ANNOUNCED in version.tags:
        return None
    outcome = _examined(registry, version, config.models)
    url = server_url()
    assert url is not None  # checked at the start
    deliver([_event(outcome, version, registry.shown)], url)
    if isinstance(outcome, Rejected):
        registry.report(version, None, outcome.reason)
    registry.tag(version, announced=outcome.sha256 or "rejected")
    return outcome


def _examined(registry: Registry, version: Version, folder: Path) -> Outcome:
    try:
        path = registry.download(version, folder)
    except ModelError as error:
        return reject(registry.target(version, folder), str(error))
    found = examine_apart(path, patient=False)
    return found if isinstance(found, (Arrival, Rejected)) else reject(path, found.reason)


def _event(outcome: Outcome, version: Version, uri: str) -> Event:
    of_version = f"{uri} {version.address} {version.run_id} {outcome.kind}"
    event = event_of(outcome, uuid.uuid5(uuid.NAMESPACE_URL, of_version))
    about = {"registered": version.address, "run_id": version.run_id, "version": version.version, "registry": uri}
    return event.model_copy(update={"payload": event.payload | about})


def watch(name: str, config: WatchMlflowConfig) -> None:
    """Look, announce, wait; until interrupted.

    Raises:
        ConfigError: no server is configured, or MLflow's client is not installed.
    """
    if server_url() is None:
        raise ConfigError(
            "No Prefect server is configured to announce models to. "
            "Set PREFECT_API_URL, such as PREFECT_API_URL=http://127.0.0.1:4200/api."
        )
    registry, delay = Registry(config.tracking_uri), 0.0
    logger.info("Watching %s of %s; announcing to %s.", name, registry.shown, without_credentials(server_url() or ""))
    while True:
        try:
            outcome, delay = look(registry, name, config), 0.0
        except ClusterPathsError as error:
            if config.once:
                raise
            delay = min(max(1.0, 2 * delay), _LONGEST_DELAY)
            logger.warning("%s Retrying in %.0f s.", error, delay)
        except Exception:
            if config.once:
                raise
            delay = _LONGEST_DELAY
            logger.exception("Looking failed; the watcher continues.")
        else:
            if isinstance(outcome, Arrival):
                logger.info("%s arrived (sha256 %s): announced.", outcome.path, outcome.sha256[:12])
            elif outcome is not None:
                logger.warning("%s was rejected: announced. %s", outcome.path, outcome.reason)
        if config.once:
            return
        time.sleep(delay or config.poll)


def watch_mlflow(
    model: Annotated[str, cyclopts.Parameter(help="the registered model's name")],
    *,
    config: Annotated[WatchMlflowConfig | None, cyclopts.Parameter(name="*")] = None,
) -> None:
    """Watch a registered model of MLflow, and announce each new version to the Prefect server."""
    try:
        watch(model, config or WatchMlflowConfig())
    except KeyboardInterrupt:
        logger.info("Stopped.")


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> None:
    """Run from a shell, until SIGTERM or Ctrl-C: exit code 0; 2 for an input error."""
    logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    logger.setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _stop)
    run_command(command_parser("watch_mlflow", watch_mlflow, "MODEL"), argv)


if __name__ == "__main__":
    main()
