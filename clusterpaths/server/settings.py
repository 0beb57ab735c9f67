"""How the server is run: one description of every option."""

from __future__ import annotations

from pydantic import Field

from clusterpaths.config import CacheRoot
from clusterpaths.records import Record


class ServeConfig(Record):
    """Options of `clusterpaths serve`."""

    host: str = Field("127.0.0.1", description="address to bind; anything but this machine itself needs a token")
    port: int = Field(8000, ge=0, le=65535, description="port to bind; 0: a free one")
    cache_root: CacheRoot | None = Field(None, description="where results lie, a folder a name [activation_cache]")
