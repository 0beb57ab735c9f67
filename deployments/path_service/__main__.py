"""Serve a path model: `python -m deployments.path_service MODEL --log-dir DIRECTORY`.

Belongs here: options, the socket, and the start. The model is checked before the port is opened.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import cyclopts
import uvicorn

from clusterpaths.commands.serve import BACKLOG, IDLE, address, bind, set_up_log
from clusterpaths.commands.shell import run_command
from clusterpaths.common.malloc import share_arenas
from clusterpaths.errors import ConfigError
from deployments.path_service.app import create_app
from deployments.path_service.model import PathModel
from deployments.path_service.prediction_log import open_log
from deployments.path_service.service import PathService
from deployments.path_service.settings import ServiceConfig

ENVIRONMENT = "CLUSTERPATHS_SERVICE_"
CONNECTIONS = 1000  # open at once


def serve(
    model: Annotated[Path, cyclopts.Parameter(help="the path model: a file that `clusterpaths export` wrote")],
    *,
    config: Annotated[ServiceConfig | None, cyclopts.Parameter(name="*")] = None,
) -> None:
    """Serve a path model: class, path, distances, OOD score and how unusual they are, of each image. Ctrl-C or SIGTERM ends it.

    Every option can be set in the environment: CLUSTERPATHS_SERVICE_MODEL, CLUSTERPATHS_SERVICE_LOG_DIR and so on.
    """
    require_known(os.environ)
    config = config or ServiceConfig()
    share_arenas()
    set_up_log()
    loaded = PathModel(model.expanduser().absolute(), config.model_threads)
    log = None
    if config.log_dir is not None:
        directory = config.log_dir.expanduser().absolute()
        log = open_log(
            directory,
            loaded.note,
            config.log_rows,
            config.log_seconds,
            config.log_fsync == "batch",
            config.log_keep_days,
        )
    listening = bind(config.host, config.port)
    server = make_server(PathService(config, loaded, log))
    where = f"logged in {log.directory}" if log else "not logged (--log-dir)"
    sys.stdout.write(f"Serving {loaded.note.set} at {address(config.host, listening)}; predictions are {where}.\n")
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, _stop)  # the server hands the signal on once it has stopped
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        sys.stdout.write("Stopped.\n")
    finally:
        listening.close()


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def make_server(service: PathService) -> uvicorn.Server:
    """The web server around a service, with its limits."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(service),
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=IDLE,
            timeout_graceful_shutdown=int(service.config.grace),
            backlog=BACKLOG,
        )
    )


def parser() -> cyclopts.App:
    """The parser of the command."""
    app = cyclopts.App(
        name="path_service",
        help=serve.__doc__,
        usage="Usage: python -m deployments.path_service MODEL [OPTIONS]",
        version_flags=[],
        default_parameter=cyclopts.Parameter(negative=()),
        config=cyclopts.config.Env(ENVIRONMENT),
    )
    app.default(serve)
    return app


def main(argv: list[str] | None = None) -> None:
    """Run from a shell: exit code 0 after SIGTERM or Ctrl-C; 2 for an input error."""
    run_command(parser(), argv)


def require_known(environment: Mapping[str, str]) -> None:
    """Check that each variable with the service's prefix is one of its options.

    Raises:
        ConfigError: one is not.
    """
    known = {f"{ENVIRONMENT}{name.upper()}" for name in ("model", *ServiceConfig.model_fields)}
    if unknown := sorted(name for name in environment if name.startswith(ENVIRONMENT) and name not in known):
        raise ConfigError(
            f"{', '.join(unknown)} in the environment is no option of the path service. Expected one of "
            f"{', '.join(sorted(known))}."
        )


if __name__ == "__main__":
    main()
