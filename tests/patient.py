"""httpx, as tests ask with it: a machine with more workers than cores can stall for longer than httpx's own five seconds."""

from __future__ import annotations

from typing import Any

import httpx

SECONDS = 60


def get(url: str, **more: Any) -> httpx.Response:
    return httpx.get(url, timeout=SECONDS, **more)


def post(url: str, **more: Any) -> httpx.Response:
    return httpx.post(url, timeout=SECONDS, **more)


def request(method: str, url: str, **more: Any) -> httpx.Response:
    return httpx.request(method, url, timeout=SECONDS, **more)


def client(**more: Any) -> httpx.Client:
    return httpx.Client(timeout=SECONDS, **more)
