"""Options of the server: one description of each.

Belongs here: names, defaults and validation. `middleware/security.py` uses the token and the origins.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from cyclopts import Parameter
from pydantic import Field, field_validator, model_validator

from clusterpaths.config import CacheRoot
from clusterpaths.records import Record

SHORTEST_TOKEN = 16  # characters
TOKEN_VARIABLE = "CLUSTERPATHS_TOKEN"  # noqa: S105 - the name of the variable
_ORIGIN = re.compile(r"https?://[^/\s,*?#]+\Z")


class ServeConfig(Record):
    """Options of `clusterpaths serve`."""

    host: str = Field("127.0.0.1", description="address to bind; other than loopback, it needs a token")
    port: int = Field(8000, ge=0, le=65535, description="port to bind; 0: a free one")
    cache_root: CacheRoot | None = Field(
        None, description="results directory, with one directory per name [activation_cache]"
    )
    token: Annotated[str | None, Parameter(env_var=TOKEN_VARIABLE)] = Field(
        None,
        repr=False,
        description="secret that every request must send, 16 characters or more; better by the environment, as other users "
        "can see a command line",
    )
    insecure: Annotated[bool, Parameter(negative=())] = Field(
        False, description="no token although other machines can reach the server: they can read every set"
    )
    edit: Annotated[bool, Parameter(negative=())] = Field(
        False, description="clusters and paths can be named and annotated, by everybody who may read the sets"
    )
    origin: tuple[str, ...] = Field(
        (), description="another site whose pages may send requests, such as https://dashboard.example; repeatable"
    )
    allowed_host: tuple[str, ...] = Field(
        (), description="another host name of this server, such as a proxy's; repeatable"
    )
    prefect_api: Annotated[str | None, Parameter(env_var="PREFECT_API_URL")] = Field(
        None, repr=False, description="Prefect's API, where POST /run starts a run [none: /run answers 503]"
    )
    deployment: str = Field("celeba/full", description="the deployment that POST /run starts, FLOW/NAME")
    max_upload_mb: float = Field(20, gt=0, description="size limit of image files and requests, in MB")
    max_megapixels: float = Field(40, gt=0, description="size limit of decoded images, in millions of pixels")

    @field_validator("token")
    @classmethod
    def _token_is_long(cls, value: str | None) -> str | None:
        if value is not None and (len(value) < SHORTEST_TOKEN or not value.isascii() or not value.isprintable()):
            raise ValueError(
                f"should be at least {SHORTEST_TOKEN} plain characters, got {len(value)}; make one with "
                "python3 -c 'import secrets; print(secrets.token_urlsafe())'"
            )
        return value

    @field_validator("origin")
    @classmethod
    def _origins_are_named(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.match(origin):
                raise ValueError(
                    f"should be scheme, host and port of a site, such as https://dashboard.example, got {origin!r}; "
                    "name each site, there is no wildcard"
                )
        return tuple(origin.lower() for origin in value)

    @field_validator("allowed_host")
    @classmethod
    def _hosts_are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not re.match(r"[A-Za-z0-9_.\-]+\Z|\[?[0-9A-Fa-f:.]+\]?\Z", host):
                raise ValueError(f"should be a host's name without port, such as paths.example, got {host!r}")
        return tuple(host.lower().strip("[]") for host in value)

    @model_validator(mode="after")
    def _remote_access_needs_a_token(self) -> ServeConfig:
        if not self.local and self.token is None and not self.insecure:
            raise ValueError(
                f"--host {self.host} lets other machines read every set: set a token in the environment "
                f"({TOKEN_VARIABLE}=$(python3 -c 'import secrets; print(secrets.token_urlsafe())')), or use --insecure, "
                "or omit --host to serve this machine only"
            )
        return self

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def max_upload(self) -> int:
        """Bytes."""
        return int(self.max_upload_mb * 1_000_000)

    @property
    def max_pixels(self) -> int:
        return int(self.max_megapixels * 1_000_000)


def is_loopback(host: str) -> bool:
    """Whether this name or address is the loopback interface."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
