"""Storage of documents and arrays: a local directory or object storage behind one interface. Callers do not depend on which.

`open_storage` opens an address. Records that cross machines hold addresses, not paths.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from clusterpaths.records import Record
from clusterpaths.storage.base import Storage
from clusterpaths.storage.bucket import SCHEME, Bucket
from clusterpaths.storage.directory import Directory

__all__ = ["Storage", "StorageLike", "StoredRecord", "open_storage", "parse_address"]

StorageLike = Storage | Path | str
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def open_storage(address: StorageLike) -> Storage:
    """The directory of an address: s3://BUCKET/PREFIX, or a path of this machine. Nothing is looked up."""
    if isinstance(address, Storage):
        return address
    if str(address).startswith(SCHEME):
        bucket, _, key = str(address).removeprefix(SCHEME).partition("/")
        return Bucket(bucket, key)
    return Directory(Path(address).expanduser().absolute())


def parse_address(value: Any) -> Any:
    """An address as it was given: a path as text, s3://BUCKET/PREFIX without a slash at its end, anything else unchanged.

    Raises:
        ValueError: no such address.
    """
    if not isinstance(value, (str, Path)):
        return value
    match = re.match(r"s3:/+(.*)", str(value))  # a Path makes one slash of two
    if not match:
        if "://" in str(value):
            raise ValueError("should be a directory, or s3://BUCKET/PREFIX")
        return str(Path(value))
    bucket, *prefix = match[1].rstrip("/").split("/")
    if not _BUCKET.fullmatch(bucket) or any(part in ("", ".", "..") or set(part) & set("?#@\\") for part in prefix):
        # not repeated: addresses may contain credentials
        raise ValueError("should be s3://BUCKET/PREFIX without anything else; credentials come from the environment")
    return f"{SCHEME}{'/'.join([bucket, *prefix])}"


class StoredRecord(Record):
    """A record of something in a directory: it has the directory's address, so that other machines can open it."""

    directory: str

    @property
    def storage(self) -> Storage:
        """The directory."""
        return open_storage(self.directory)
