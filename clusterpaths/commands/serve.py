"""Serve the results to a browser and to programs: `clusterpaths serve`.

Belongs here: options, the socket, and what is printed at the start. The server itself is clusterpaths/server. No flow, and
no Prefect: it should answer within a second or two.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING, Annotated, Any

import cyclopts

from clusterpaths.commands.shell import command_parser, run_command
from clusterpaths.common.extras import require_extra
from clusterpaths.common.malloc import share_arenas
from clusterpaths.errors import ConfigError
from clusterpaths.server.settings import TOKEN_VARIABLE, ServeConfig

if TYPE_CHECKING:
    import uvicorn

    from clusterpaths.explore.records import ModelSummary
    from clusterpaths.storage import Storage

NEEDED = ("fastapi", "uvicorn", "python_multipart", "itsdangerous", "httpx", "plotly", "prometheus_client")
CONNECTIONS = 1000  # open at once; beyond, the answer is 503
IDLE = 30  # seconds that an idle connection stays open
GENERATION = 20_000  # new objects until the garbage collector looks for cycles; a page has thousands, and no cycle
GOODBYE = 3  # seconds for requests that are being answered when the server is stopped
BACKLOG = 512  # connections that wait to be accepted


def serve(*, config: Annotated[ServeConfig | None, cyclopts.Parameter(name="*")] = None) -> None:
    """Serve every set in the results' directory: pages for people, /api/v1 for programs. Ctrl-C ends it."""
    config = config or ServeConfig()
    require_extra("The server", "serve", *NEEDED)
    share_arenas()
    listening = bind(config.host, config.port)
    set_up_log()

    from clusterpaths.server.app import create_app

    app = create_app(config)
    library = app.state.library
    sys.stdout.write(greeting(address(config.host, listening), library.root, library.models()))
    if config.insecure and not config.local:
        may = "read every set and change names" if config.edit else "read every set"
        sys.stdout.write(f"No token is required (--insecure): anybody who reaches this address may {may}.\n")
    sys.stdout.flush()
    gc.freeze()  # imported objects stay: exclude them from garbage collection
    gc.set_threshold(GENERATION)
    server = make_server(app)
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        sys.stdout.write("\n")
    finally:
        listening.close()


def make_server(app: Any) -> uvicorn.Server:
    """The web server around an ASGI application, with its limits."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # server/middleware/log.py writes one that escapes the content of requests
            server_header=False,
            ws="none",
            proxy_headers=False,  # the client is the connected address, whatever a header claims
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=IDLE,
            timeout_graceful_shutdown=GOODBYE,
            backlog=BACKLOG,
        )
    )


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, opened before anything slow, so that a port in use is reported at once.

    Raises:
        ConfigError: the port is in use or not allowed, or there is no such address.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"There is no address called {host!r}. Expected one of this machine for --host.") from error
    family, kind, protocol, _, place = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere this lets two servers share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigError(_cannot_bind(host, port, error)) from error
    return listening


def _cannot_bind(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} of {host} is in use by another program, perhaps by a server that was started before. "
            "Stop that one, or name another port with --port; --port 0 takes a free one."
        )
    if error.errno == errno.EACCES:
        return f"Port {port} of {host} may not be used by this user. Name one from 1024 on with --port."
    return f"{host} port {port} cannot be used: {error.strerror}. Name an address of this machine with --host."


def address(host: str, listening: socket.socket) -> str:
    """The address to open in a browser."""
    port = listening.getsockname()[1]
    name = "localhost" if host in ("", "0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def greeting(where: str, root: Storage, models: tuple[ModelSummary, ...]) -> str:
    """Lines for the terminal: address and sets; or how to publish a first set."""
    lines = [f"Open {where} in a browser; Ctrl-C ends the server."]
    with_sets = [model for model in models if model.sets]
    for model in with_sets:
        lines.append(f"  {model.name}: {', '.join(one.set for one in model.sets)}")
    problems = sum(len(model.problems) for model in models)
    if problems:
        lines.append(f"  {problems} more cannot be shown; the start page lists the reasons.")
    if not with_sets:
        lines.append(f"There are no sets in {root} yet. Publish one with clusterpaths sample.")
        lines.append("They appear in the browser without a restart.")
    return "\n".join(lines) + "\n"


def set_up_log() -> None:
    """Log requests and errors to stderr, one line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    for name, level in (("clusterpaths", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False


def parser() -> cyclopts.App:
    """The parser of the command."""
    return command_parser("serve", serve)


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    words = sys.argv[1:] if argv is None else argv
    if any(word.partition("=")[0] == "--token" for word in words):
        sys.stderr.write(
            f"warning: the command line is visible to other users of this machine; {TOKEN_VARIABLE} is not.\n"
        )
    run_command(parser(), argv)


if __name__ == "__main__":
    main()
