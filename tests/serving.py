"""What tests of the server share: one that listens on a free port of this machine, in a thread of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clusterpaths.commands.serve import bind, make_server
from clusterpaths.server.app import create_app
from clusterpaths.server.settings import ServeConfig


@contextmanager
def serving(cache_root: Path, **settings: Any) -> Iterator[str]:
    """Serve these results, as the command does it; gives the address, http://127.0.0.1:PORT."""
    listening = bind("127.0.0.1", 0)
    server = make_server(create_app(ServeConfig(cache_root=str(cache_root), **settings)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
