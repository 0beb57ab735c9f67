"""A server of our own that speaks the chat completions API, well or badly: what tests of `from_model.py` ask.

Belongs here: answers. No expectation.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

Reply = tuple[int, dict[str, str], bytes]


@dataclass
class Asked:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][1]["content"][0]["text"])

    @property
    def pictures(self) -> list[Image.Image]:
        urls = [part["image_url"]["url"] for part in self.body["messages"][1]["content"][1:]]
        return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


@dataclass
class Server:
    """Its address, what it was asked, and how it answers."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answer: Callable[[Asked, int], Reply] = lambda _asked, _number: said("{}")


def said(content: Any, **more: Any) -> Reply:
    """An ordinary reply with this text."""
    message = {"role": "assistant", "content": content} | more
    document = {"choices": [{"index": 0, "message": message}], "usage": {"total_tokens": 500}}
    return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()


def names(asked: Asked, number: int) -> Reply:
    """What a helpful model says."""
    return said(
        '{"a": "dark hair", "b": "light hair"}' if '"b"' in asked.prompt else '```json\n{"name": "dark hair"}\n```'
    )


@contextmanager
def speaking(answer: Callable[[Asked, int], Reply]) -> Iterator[Server]:
    """The server, listening on this machine; `answer` is given a request and its number."""
    server = Server(answer=answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = Asked(self.path, dict(self.headers), body)
            server.asked.append(asked)
            status, headers, content = server.answer(asked, len(server.asked) - 1)
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except BrokenPipeError:  # the client did not wait
                pass

        def log_message(self, *_: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{listening.server_address[1]}/v1"
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()


def slow(seconds: float) -> Callable[[Asked, int], Reply]:
    """Answers, but late."""

    def answer(asked: Asked, number: int) -> Reply:
        time.sleep(seconds)
        return names(asked, number)

    return answer
