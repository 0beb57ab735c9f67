"""A server beside a schedule: started as a user does, asked while runs are disturbed, stopped at the end.

Belongs here: the addresses that are asked, and what an answer may be: never 500, never a half.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import threading
import time
from pathlib import Path

from tests.torture.processes import Command, Launcher, Process

PLAIN = ("/", "/health", "/models", "/models/T/sets", "/models/T/metadata", "/api/v1/models", "/api/v1/models/T")
OF_A_SET = (
    "/explore/T/{set}", "/explore/T/{set}/ask", "/explore/T/{set}/map", "/explore/T/{set}/paths", "/explore/T/{set}/find",
    "/explore/T/{set}/clusters/fc2/0", "/explore/T/{set}/examples/0", "/models/T/sets/{set}/paths",
    "/models/T/sets/{set}/centroids", "/api/v1/models/T/sets/{set}", "/api/v1/models/T/sets/{set}/clusters/fc1/0",
    "/api/v1/models/T/sets/{set}/examples", "/explore/T/{set}/image", "/models/T/sets/{set}/paths/0",
)  # fmt: skip


class Server:
    """`clusterpaths serve` of a cache root; inside its context.

    Attributes:
        problems: answers that must not be, as sentences.
        asked: how many requests were answered.
        corrupted: whether a set is corrupted now: then 503, which says so, is an answer.
    """

    def __init__(
        self, launcher: Launcher, folder: Path, address: str, environment: dict[str, str], rule: str = ""
    ) -> None:
        self._launcher, self._folder, self._address, self._environment = launcher, folder, address, environment
        self._rule = rule
        self.problems: list[str] = []
        self.asked, self.corrupted = 0, False
        self._ended = threading.Event()

    def __enter__(self) -> Server:
        command = Command(("serve", "--port", "0", "--cache-root", self._address), shim=self._rule)
        self.process: Process = self._launcher.start(command, self._folder, **self._environment)
        deadline = time.monotonic() + 90
        while not (match := re.search(r"Open http://(?:localhost|127\.0\.0\.1):(\d+)", self.process.text())):
            if not self.process.running or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{self.process.text()}")
            time.sleep(0.05)
        self._port = int(match[1])
        self._asking = threading.Thread(target=self._meanwhile, daemon=True)
        self._asking.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._ended.set()
        self._asking.join(60)
        if kind is not None:
            self.process.signal(signal.SIGKILL, group=True)

    def _meanwhile(self) -> None:
        """A few requests a second while runs are going on."""
        number = 0
        while not self._ended.wait(0.25):
            self.ask(PLAIN[number % len(PLAIN)])
            if number % 3 == 0:
                self.ask(OF_A_SET[number // 3 % len(OF_A_SET)].format(set="set_01"))
            number += 1

    def ask_all(self, sets: list[str]) -> None:
        """Every address, of every set."""
        for path in PLAIN:
            self.ask(path)
        for name in sets:
            for path in OF_A_SET:
                self.ask(path.format(set=name))

    def ask(self, path: str) -> None:
        """One address: below 500, and of the length and the kind that it says."""
        if not self.process.running:
            self.problems.append(f"the server has ended:\n{self.process.text()[-2000:]}")
            self._ended.set()
            return
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            content = answer.read()
            kind = answer.headers.get("Content-Type", "")
            if answer.status >= 500 and not (answer.status == 503 and (self.corrupted or self._rule)):
                self.problems.append(f"{path}: {answer.status} {content[:300]!r}\n{self.process.text()[-1500:]}")
            elif "json" in kind:
                json.loads(content)
            elif "html" in kind and answer.status == 200 and b"</html>" not in content[-200:]:
                self.problems.append(f"{path}: half a page, {content[-100:]!r}")
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.problems.append(f"{path}: {error!r}")
        finally:
            connection.close()
        self.asked += 1
