"""Results in object storage: moto's server behind a proxy that answers late, with errors, with halves, or not at all.

Belongs here: the proxy, and a copy of a bucket's objects on this machine, which is what is checked.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.storage import BUCKET, Storage

BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
INTERNAL = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"


class Faults:
    """What the proxy does to requests; nothing at first.

    Attributes:
        mode: "", "500", "503", "slow" (seconds), "cut" (half of the answer), "lost" (done, and not answered), "down".
        skip: requests that pass first.
        count: requests that it is done to.
        acted: to how many it was.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.set("", 0, 0)

    def set(self, mode: str, skip: int, count: int) -> None:
        """From now on."""
        self.mode, self.skip, self.count, self.acted = mode, skip, count, 0

    def next(self) -> str:
        """For one request."""
        with self._lock:
            self.skip -= 1
            if not self.mode or self.skip >= 0 or self.acted >= self.count:
                return ""
            self.acted += 1
            return self.mode


class _QuietServer(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:  # a client that was killed
        pass


class Buckets:
    """A running server and its proxy; `environment` is for who uses it."""

    def __init__(self, folder: Path) -> None:
        self.faults = Faults()
        self._storage = Storage(folder)
        self._target = int(self._storage.environment["AWS_ENDPOINT_URL"].rpartition(":")[2])
        self._server = _QuietServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """AWS_ variables."""
        return self._storage.environment | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}"}

    def stop(self) -> None:
        """End both."""
        self._server.shutdown()
        self._server.server_close()
        self._storage.stop()

    def copy(self, prefix: str, folder: Path) -> None:
        """The objects below a prefix as files; what was there is gone."""
        shutil.rmtree(folder, ignore_errors=True)
        for key, content in self._storage.objects(prefix).items():
            path = folder / key.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def write(self, key: str, content: bytes | None) -> None:
        """Replace or delete an object, past the proxy."""
        client: Any = self._storage.client()
        if content is None:
            client.delete_object(Bucket=BUCKET, Key=key)
        else:
            client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        faults, target = self.faults, self._target

        class Forward(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fault = faults.next()
                if fault == "down":
                    self.close_connection = True
                    return
                if fault in ("500", "503"):
                    self._answer(int(fault), {}, INTERNAL if fault == "500" else BUSY)
                    return
                if fault == "slow":
                    time.sleep(1.5)
                connection = http.client.HTTPConnection("127.0.0.1", target, timeout=60)
                kept = {name: value for name, value in self.headers.items() if name.title() != "Connection"}
                connection.request(self.command, self.path, content, kept)
                found = connection.getresponse()
                body = found.read()
                connection.close()
                if fault == "lost":
                    self.close_connection = True
                    return
                left_out = {"connection", "content-length", "transfer-encoding"}
                headers = {name: value for name, value in found.getheaders() if name.lower() not in left_out}
                if self.command == "HEAD":
                    headers["Content-Length"] = found.getheader("Content-Length", "0")
                self._answer(found.status, headers, body, half=fault == "cut" and len(body) > 1)

            def _answer(self, status: int, headers: dict[str, str], body: bytes, *, half: bool = False) -> None:
                with contextlib.suppress(OSError):  # the client has gone
                    self.send_response(status)
                    for name, value in ({"Content-Length": str(len(body))} | headers).items():
                        self.send_header(name, value)
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(body[: len(body) // 2] if half else body)
                    self.close_connection |= half

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815 - the base class's names

            def log_message(self, *_: Any) -> None:
                pass

        return Forward


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Buckets]:
    """A server while inside."""
    buckets = Buckets(folder)
    try:
        yield buckets
    finally:
        buckets.stop()
