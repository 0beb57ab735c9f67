"""An S3-speaking server for tests: moto's, in a process of its own, behind a connection that can be cut and mended.

Belongs here: starting and stopping, and looking into it past the library. No expectation.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BUCKET = "bucket-of-tests"
SECRET = "c4f1-secret-of-these-tests-9b7e"
TOKEN = "77ab-token-of-these-tests-1d2c"
KEY_ID = "AKIDOFTHESETESTS0001"


class Proxy:
    """Hands TCP connections on to a port of this machine, unless it is cut."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.mend()

    def mend(self) -> None:
        """Listen (again), on the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Close all connections; new ones are refused."""
        listener, self._listener = self._listener, None
        if listener:
            with contextlib.suppress(OSError):  # not connected: on some systems
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for one in list(self._open):
            self._close(one)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # cut
                return
            self._open |= {client, server}
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):  # cut
            while data := source.recv(1 << 16):
                target.sendall(data)
        self._close(source)
        self._close(target)

    def _close(self, one: socket.socket) -> None:
        self._open.discard(one)
        with contextlib.suppress(OSError):  # the other side was quicker
            one.shutdown(socket.SHUT_RDWR)
        one.close()


class Storage:
    """A running server with an empty bucket; `proxy` is what everybody but the test itself goes through."""

    def __init__(self, folder: Path, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._output = folder / "moto.txt"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=os.environ | environment
            )
        deadline = time.monotonic() + 60
        while not (match := re.search(r"Running on http://127\.0\.0\.1:(\d+)", self.output())):
            assert self._process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)
        self.proxy = Proxy(int(match[1]))
        self._direct = f"http://127.0.0.1:{match[1]}"
        self._client: Any = None
        self.client().create_bucket(Bucket=BUCKET)

    def client(self) -> Any:
        """boto3's, past the proxy."""
        if self._client is None:
            import boto3

            self._client = boto3.client(
                "s3", endpoint_url=self._direct, region_name="us-east-1",
                aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET, aws_session_token=TOKEN,
            )  # fmt: skip
        return self._client

    @property
    def environment(self) -> dict[str, str]:
        """For who uses the server."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.proxy.port}",
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_SESSION_TOKEN": TOKEN,
            "AWS_REGION": "us-east-1",
        }

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Content by key."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {key: self.client().get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}

    def output(self) -> str:
        return self._output.read_text()

    def stop(self) -> None:
        self.proxy.cut()
        if self._client is not None:
            self._client.close()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)


@contextlib.contextmanager
def running_storage(folder: Path, mirror: Path, **environment: str) -> Iterator[Storage]:
    """A server, and this process's environment set to use it, with a mirror of its own."""
    storage = Storage(folder, **environment)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in (storage.environment | {"CLUSTERPATHS_MIRROR": str(mirror)}).items():
            patch.setenv(name, value)
        try:
            yield storage
        finally:
            storage.stop()


@contextlib.contextmanager
def unconditional(storage: Storage, ignored: set[str], *, refuse: bool) -> Iterator[str]:
    """The address of a server that ignores these conditions of a request, or refuses all; else it is that one."""

    class Forward(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            conditions = {name.title() for name in self.headers} & {"If-Match", "If-None-Match"}
            if refuse and conditions and self.command == "PUT":
                return self.answer(501, {}, b"<Error><Code>NotImplemented</Code></Error>")
            kept = {name: value for name, value in self.headers.items() if name.title() not in ignored | {"Connection"}}
            connection = http.client.HTTPConnection("127.0.0.1", storage.proxy.port, timeout=60)
            connection.request(self.command, self.path, content, kept)
            found = connection.getresponse()
            body = found.read()
            connection.close()
            left_out = {"connection", "content-length", "transfer-encoding"}
            headers = {name: value for name, value in found.getheaders() if name.lower() not in left_out}
            return self.answer(found.status, headers, body)

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815 - the base class's names

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Forward) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
