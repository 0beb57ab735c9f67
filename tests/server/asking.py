"""Requests as no client library sends them, and files that are not what they say.

Belongs here: making them. No expectation.
"""

from __future__ import annotations

import http.client
import io
import struct
import zlib
from urllib.parse import urlsplit

from PIL import Image


def declared_png(width: int, height: int) -> bytes:
    """A few bytes that say they were an image of that size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pieces = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in pieces)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def picture(kind: str = "JPEG", size: tuple[int, int] = (64, 64)) -> bytes:
    """A plain picture's bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 120, 60)).save(buffer, kind)
    return buffer.getvalue()


def raw(address: str, target: str, method: str = "GET", **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
    """Send this target as it is: clients tidy addresses up before they send them."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    try:
        connection.putrequest(method, "/", skip_host="Host" in headers, skip_accept_encoding=True)
        connection._buffer[0] = f"{method} {target} HTTP/1.1".encode("latin-1")  # type: ignore[attr-defined]
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()
