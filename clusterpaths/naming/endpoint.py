"""A vision-language model behind the OpenAI-compatible chat completions API: one question, one answer, within a budget.

Belongs here: the protocol, retries, the budget. Redirects are not followed: they could carry the key to another host.
The key comes from the environment variable CLUSTERPATHS_VLM_KEY; without it, none is sent.
"""

from __future__ import annotations

import base64
import email.utils
import http.client
import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from clusterpaths.common.corrupted import parse_json
from clusterpaths.errors import ConfigError, EndpointError
from clusterpaths.naming.prompts import ANSWER_TOKENS, SYSTEM

KEY_VARIABLE = "CLUSTERPATHS_VLM_KEY"
IMAGE_TOKENS = 255  # of a picture of at most 512 x 512 pixels, as OpenAI counts; others count similarly
ATTEMPTS = 4  # for one question
LONGEST_WAIT = 60.0  # seconds that a server may ask to wait
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # a repetition can help
_LARGEST = 1 << 20  # bytes of an answer
_LIMITS = ("max_tokens", "temperature")


class BudgetSpentError(Exception):
    """The next request would exceed the budget; never leaves the package."""


@dataclass
class Budget:
    """What may be sent, and what was: every attempt counts, answered or not."""

    calls: int
    images: int
    tokens: int
    sent: int = 0
    sent_images: int = 0
    used_tokens: int = 0

    def spend(self, images: int, tokens: int) -> None:
        """Take one request out of the budget, with its images, and its tokens as estimated.

        Raises:
            BudgetSpentError: there is not enough left; nothing is taken.
        """
        if (
            self.sent >= self.calls
            or self.sent_images + images > self.images
            or self.used_tokens + tokens > self.tokens
        ):
            raise BudgetSpentError
        self.sent += 1
        self.sent_images += images
        self.used_tokens += tokens


@dataclass(frozen=True)
class Answer:
    """An answer's text (empty: the model refused), and tokens as the server counted or else as estimated."""

    text: str
    tokens: int


def request_body(model: str, prompt: str, pictures: tuple[bytes, ...]) -> bytes:
    """The body of a request: the same bytes for the same question, which is what answers are cached by."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
    for picture in pictures:
        data = base64.b64encode(picture).decode("ascii")
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}})
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": parts}]
    document = {"model": model, "messages": messages, "max_tokens": ANSWER_TOKENS, "temperature": 0}
    return json.dumps(document, sort_keys=True).encode()


def estimate_tokens(prompt: str, pictures: int) -> int:
    """Tokens of a question with its answer; four characters are about one."""
    return (len(SYSTEM) + len(prompt)) // 4 + pictures * IMAGE_TOKENS + ANSWER_TOKENS


@dataclass
class Endpoint:
    """A server of the chat completions API.

    Attributes:
        url: its base address, such as http://localhost:8000/v1.
        timeout: seconds for one attempt.
        log: is given a line when an attempt is repeated.
    """

    url: str
    timeout: float = 120.0
    log: Callable[[str], None] = lambda _: None
    sleep: Callable[[float], None] = time.sleep
    limits: bool = True  # whether it takes max_tokens and temperature: models that reason refuse them
    key: str = field(default_factory=lambda: os.environ.get(KEY_VARIABLE, "").strip(), repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise ConfigError(
                "--endpoint should be the base address of a chat completions API, such as http://localhost:8000/v1, without "
                f"user and query, got {parts._replace(netloc=parts.hostname or '', query='').geturl()!r}. The key comes from "
                f"{KEY_VARIABLE}."
            )
        if self.key and not (self.key.isascii() and self.key.isprintable()):
            raise ConfigError(f"{KEY_VARIABLE} has characters that no key has, such as a line break. Set it again.")
        base = self.url.rstrip("/")
        self.address = base if base.endswith("/chat/completions") else f"{base}/chat/completions"

    @property
    def host(self) -> str:
        """Where images are sent."""
        return urlsplit(self.url).netloc

    @property
    def in_clear(self) -> bool:
        """Whether what is sent crosses a network unencrypted."""
        parts = urlsplit(self.url)
        return parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")

    def ask(self, body: bytes, budget: Budget, images: int, tokens: int) -> Answer:
        """Send one question; repeat while the server is busy or does not answer, as it asks or with growing waits.

        Args:
            body: of `request_body`.
            budget: what every attempt is taken out of.
            images: photographs in it.
            tokens: of it and its answer, as estimated.

        Raises:
            BudgetSpentError: before an attempt that would exceed the budget.
            EndpointError: the server does not answer, refuses, or does not speak the protocol.
        """
        for attempt in range(ATTEMPTS):
            budget.spend(images, tokens)
            try:
                answer = _parse(self._send(body if self.limits else _without_limits(body)), tokens, self.host)
            except _LimitsError:
                self.limits = False
                continue
            except _BusyError as busy:
                spread = random.uniform(0.75, 1.25)  # noqa: S311 - so that clients do not ask again at once
                wait = busy.wait if busy.wait is not None else 2.0**attempt * spread
                if attempt + 1 == ATTEMPTS or wait > LONGEST_WAIT:
                    asked = f"asks to wait {wait:.0f} s" if wait > LONGEST_WAIT else f"after {ATTEMPTS} attempts"
                    raise EndpointError(
                        f"{self.host} {busy} ({asked}). Expected a server of the chat completions API at {self.address}. "
                        "Start it, or wait, and run the same command again: answers so far are not asked for again."
                    ) from busy
                self.log(f"{self.host} {busy}; trying again in {wait:.0f} s.")
                self.sleep(wait)
                continue
            budget.used_tokens += answer.tokens - tokens
            return answer
        raise EndpointError(f"{self.host} refuses the request, with and without a limit of tokens. Look at its log.")

    def _send(self, body: bytes) -> bytes:
        """Raises: _BusyError; EndpointError."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "clusterpaths"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.address, body, headers, method="POST")  # noqa: S310 - http(s), checked above
        deadline = time.monotonic() + self.timeout
        try:
            with _opener.open(request, timeout=self.timeout) as response:
                return _read(response, deadline)
        except urllib.error.HTTPError as error:
            with error:
                said = _excerpt(error.read(4096))
            if error.code in _BUSY:
                raise _BusyError(
                    f"answers {error.code}{said}", _retry_after(error.headers.get("Retry-After"))
                ) from error
            if self.limits and error.code == 400 and any(name in said for name in _LIMITS):
                raise _LimitsError from error
            raise EndpointError(_refused(self.address, error.code, said)) from error
        except TimeoutError as error:
            raise _BusyError(f"did not answer within {self.timeout:g} s") from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise _BusyError(f"did not answer within {self.timeout:g} s") from error
            raise _BusyError(f"cannot be reached: {error.reason}") from error
        except (http.client.HTTPException, OSError) as error:
            raise _BusyError(f"broke the connection: {type(error).__name__}") from error


class _BusyError(Exception):
    """An attempt that may be repeated; `wait`: the seconds that the server asks for."""

    def __init__(self, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.wait = wait


class _LimitsError(Exception):
    """The model refuses `_LIMITS`."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects)


def _without_limits(body: bytes) -> bytes:
    return json.dumps({name: value for name, value in json.loads(body).items() if name not in _LIMITS}).encode()


def _read(response: Any, deadline: float) -> bytes:
    """The body, in time: a server may send it drop by drop."""
    pieces, size = [], 0
    while piece := response.read1(1 << 16):
        pieces.append(piece)
        size += len(piece)
        if size > _LARGEST:
            raise EndpointError(
                f"The answer is longer than {_LARGEST:,} bytes. Expected that of a chat completions API."
            )
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(pieces)


def _parse(content: bytes, estimated: int, host: str) -> Answer:
    """Raises: EndpointError."""
    try:
        document = parse_json(content)
        message = document["choices"][0]["message"]
        said = message.get("content")
        if isinstance(said, list):
            said = " ".join(str(part.get("text", "")) for part in said)
        if not isinstance(said, str) and not (said is None and isinstance(message, dict)):
            raise TypeError(type(said).__name__)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise EndpointError(
            f"The answer of {host} is not that of a chat completions API{_excerpt(content)}. Expected JSON with "
            "choices[0].message.content. Name the API's base address with --endpoint, such as http://localhost:8000/v1."
        ) from error
    usage = document.get("usage")
    counted = usage.get("total_tokens") if isinstance(usage, dict) else None
    tokens = counted if isinstance(counted, int) and counted > 0 else estimated
    return Answer("" if message.get("refusal") else said or "", tokens)


def _refused(address: str, status: int, said: str) -> str:
    if status in (401, 403):
        what = f"Expected the server's key in the environment variable {KEY_VARIABLE}."
    elif status == 404:
        what = "Expected a chat completions API there that has this model; look at --endpoint and --model."
    elif 300 <= status < 400:
        what = (
            "Redirects are not followed, as they could carry the key elsewhere; name the final address with --endpoint."
        )
    else:
        what = "Expected a model that takes images; look at --model, and at the server's log."
    return f"{address} refuses the request: status {status}{said}. {what}"


def _excerpt(content: bytes) -> str:
    """The beginning of what a server said, on one line, in quotation marks; empty for nothing."""
    text = "".join(c if c.isprintable() else " " for c in content.decode("utf-8", "replace"))
    text = " ".join(text.split())[:200]
    return f" ({text!r})" if text else ""


def _retry_after(value: str | None) -> float | None:
    """Seconds: the header has them, or a date."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return None
