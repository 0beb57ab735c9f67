"""Watch a directory for model files and announce each to the Prefect server once it is complete and loads.

    PREFECT_API_URL=http://127.0.0.1:4200/api python deployments/watch_models.py

A model is announced as `onnx-model.arrived`, an invalid file as `onnx-model.rejected`. Announced models are remembered by
their content, also after a restart. At the very first start in a directory, existing models are taken as known, so that
starting the watcher starts no run by itself; `--first-start announce` announces them.

Runs until it is stopped. If the file system does not report changes (network drives), they are found by the next rescan.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import cyclopts
from pydantic import BaseModel, ConfigDict, Field
from watchfiles import watch

from clusterpaths.commands.shell import USER_ERROR, option_message
from clusterpaths.common import roots
from clusterpaths.common.text import without_credentials
from clusterpaths.errors import ClusterPathsError, ConfigError
from clusterpaths.watching.announced import STATE_FILE, AnnouncedModels
from clusterpaths.watching.arrivals import Arrival, Outcome
from clusterpaths.watching.folder import ModelFolder
from tasks.announcing import announce
from tasks.events import server_url

_TICK = 0.25  # seconds; how often waits look at the clock
_LONGEST_DELAY = 30.0

logger = logging.getLogger("watch_models")


class WatchConfig(BaseModel):
    """Watch a directory for model files and announce each once it is complete and loads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path | None = Field(default=None, description="directory to watch [ONNX_models]; not its subdirectories")
    settle: float = Field(
        default=2.0, gt=0, description="seconds for which a file and its external weights must be unchanged"
    )
    patience: float = Field(
        default=60.0, ge=0, description="seconds to wait for the rest of a file, or for missing external weights"
    )
    rescan: float = Field(default=30.0, gt=0, description="seconds between scans if no change is reported")
    first_start: Literal["known", "announce"] = Field(
        default="known", description="whether models that exist at the very first start are taken as known or announced"
    )
    state: Path | None = Field(
        default=None, description=f"file that records announced models [{STATE_FILE} in the directory]"
    )

    @property
    def models(self) -> Path:
        """The directory to watch."""
        return (self.folder or roots.models_root()).expanduser().absolute()

    @property
    def state_path(self) -> Path:
        """The file that records announced models."""
        return (self.state or self.models / STATE_FILE).expanduser().absolute()


class Announcer:
    """Announces what was found, with growing retry delays while the server is unavailable."""

    def __init__(self, folder: ModelFolder, known: AnnouncedModels) -> None:
        self._folder, self._known = folder, known
        self._pending: dict[str, Outcome] = {}  # path -> its latest outcome
        self._delay = 0.0
        self._next = 0.0

    @property
    def due(self) -> bool:
        return bool(self._pending) and time.monotonic() >= self._next

    def look(self) -> None:
        for outcome in self._folder.look(time.monotonic()):
            self._pending[outcome.path] = outcome

    def try_now(self) -> None:
        """Announce all files that are unchanged since they were examined; the others are examined again once they settle."""
        self._pending = {path: one for path, one in self._pending.items() if self._folder.is_current(one)}
        if not self._pending:
            return
        try:
            sent = announce(list(self._pending.values()), self._known)
        except Exception as error:
            self._delay = min(max(1.0, 2 * self._delay), _LONGEST_DELAY)
            self._next = time.monotonic() + self._delay
            if not isinstance(error, ClusterPathsError):  # neither the server nor the disk of the state file: a bug
                logger.exception("Announcing failed.")
            logger.warning("%s Retrying in %.0f s; %d waiting.", error, self._delay, len(self._pending))
            return
        self._pending, self._delay, self._next = {}, 0.0, 0.0
        for outcome in sent:
            if isinstance(outcome, Arrival):
                logger.info("%s arrived (sha256 %s): announced.", outcome.path, outcome.sha256[:12])
            else:
                logger.warning("%s was rejected: announced. %s", outcome.path, outcome.reason)


def watch_models(config: WatchConfig) -> NoReturn:
    """Scan, announce, wait for a change; until interrupted.

    Raises:
        ConfigError: no server is configured, or the state file is corrupted.
        DiskError: the directory or the state file cannot be written.
    """
    if server_url() is None:
        raise ConfigError(
            "No Prefect server is configured to announce models to. "
            "Set PREFECT_API_URL, such as PREFECT_API_URL=http://127.0.0.1:4200/api."
        )
    known = AnnouncedModels(config.state_path)
    try:
        config.models.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--folder {config.models} is not a directory and cannot be created ({error.strerror}). Give a directory for models."
        ) from error
    folder = ModelFolder(config.models, known, config.settle, config.patience, logger.info)
    _begin(config, known, folder)
    announcer = Announcer(folder, known)
    logger.info("Watching %s for models; announcing to %s.", config.models, without_credentials(server_url() or ""))
    changes, looked = _changes(config), 0.0
    while True:
        changed = next(changes)
        now = time.monotonic()
        if changed or folder.busy or now - looked >= config.rescan:
            looked = now
            _guarded(announcer.look)
        if announcer.due:
            _guarded(announcer.try_now)


def _begin(config: WatchConfig, known: AnnouncedModels, folder: ModelFolder) -> None:
    with known.locked():
        if known.read().watched:
            return
        there = known.unknown(folder.survey()) if config.first_start == "known" else []
        known.add(there, announced=False, watched=True)
    for outcome in there:
        if isinstance(outcome, Arrival):
            logger.info(
                "%s existed before this first start: taken as known. `clusterpaths announce %s --again` announces it.",
                Path(outcome.path).name,
                outcome.path,
            )
        else:
            logger.info("%s existed before this first start, and is not a complete model.", Path(outcome.path).name)


def _guarded(step: Callable[[], None]) -> None:
    """Run the step; an error is logged and the watcher continues, because it runs unattended."""
    try:
        step()
    except Exception:
        logger.exception("Scanning the directory failed; the watcher continues.")
        time.sleep(1)


def _changes(config: WatchConfig) -> Iterator[bool]:
    """Every quarter of a second, whether a change in the directory was reported."""
    while True:
        try:
            for tick, changed in enumerate(
                watch(
                    config.models,
                    watch_filter=None,
                    debounce=500,
                    rust_timeout=int(_TICK * 1000),
                    yield_on_timeout=True,
                    recursive=False,
                )
            ):
                # changes before the system began to report them are found on the first tick
                yield tick == 0 or any(not Path(path).name.startswith(STATE_FILE) for _, path in changed)
                if not config.models.is_dir():
                    break
        except (OSError, RuntimeError) as error:
            logger.warning(
                "Changes in %s are not reported (%s); scanning every %.0f s.", config.models, error, config.rescan
            )
        for _ in range(max(1, int(config.rescan / _TICK))):
            time.sleep(_TICK)
            yield False


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> None:
    """Run from a shell, until SIGTERM or Ctrl-C: exit code 0; 2 for an input error."""
    logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    logger.setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _stop)  # and Ctrl-C does the same by itself
    app = cyclopts.App(
        name="watch_models",
        help=WatchConfig.__doc__,
        version_flags=[],
        default_parameter=cyclopts.Parameter(negative=()),
        suppress_keyboard_interrupt=False,
    )

    @app.default
    def _start(*, config: Annotated[WatchConfig | None, cyclopts.Parameter(name="*")] = None) -> None:
        watch_models(config or WatchConfig())

    try:
        app(argv, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        _fail(option_message(error))
    except ClusterPathsError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        logger.info("Stopped.")


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"\nerror: {message}\n")
    raise SystemExit(USER_ERROR)


if __name__ == "__main__":
    main()
