"""Reading what may be corrupted: whatever a library raises for the bytes of a file is one kind of error.

Belongs here: turning the exceptions of numpy, zipfile, zlib, pyarrow, zarr and json into one, and describing a document that does
not fit its record. The errors of this program that name the file and what to do are raised by who reads it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from clusterpaths.errors import ClusterPathsError

if TYPE_CHECKING:
    from pydantic import ValidationError

_LONGEST = 300  # characters of a reason
NO_THREAD = "can't start new thread"  # Python's RuntimeError, for want of memory or of processes
_NO_SIZE = 4 << 30  # bytes: no array of a document is that large
_SIZE = re.compile(r"size (\d+)")


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Read a file's content inside: whatever is wrong with it is raised as a ValueError whose message is one line.

    For corrupted bytes, numpy, zipfile and pyarrow raise more than they document: zlib.error, BadZipFile, TokenError, KeyError,
    NotImplementedError for a version that is none, MemoryError for a size that is none, OSError for an offset before the file.
    Only reading and converting belongs inside, as a mistake of this program there looks like a corrupted file.

    Raises:
        ValueError: the content cannot be read.
        OSError: the disk's: no such file, no permission; a retry can help.
        MemoryError: this machine's memory does not suffice for an array of a size that a sound file may have.
        RuntimeError: no thread can be started.
    """
    try:
        yield
    except ClusterPathsError:
        raise
    except OSError as error:
        # about content, pyarrow's have no number; an offset before the file is EINVAL
        if error.errno not in (None, errno.EINVAL) or isinstance(error, FileNotFoundError):
            raise
        raise ValueError(one_line(error)) from error
    except MemoryError as error:
        if _bytes_asked(error) < _NO_SIZE:
            raise
        raise ValueError(one_line(error)) from error
    except Exception as error:
        if isinstance(error, RuntimeError) and str(error) == NO_THREAD:
            raise
        raise ValueError(one_line(error)) from error


def _bytes_asked(error: MemoryError) -> int:
    """What numpy or Arrow could not allocate; 0 where the error does not say."""
    if (size := getattr(error, "_total_size", None)) is not None:  # numpy's
        return int(size)
    found = _SIZE.search(str(error))
    return int(found[1]) if found else 0


def one_line(error: BaseException) -> str:
    """What an exception says, in one line of at most 300 characters; its kind where it says nothing or only a key."""
    text = shortened(str(error))
    return text if text and not isinstance(error, LookupError) else f"{type(error).__name__} {text}".strip()


def shortened(text: str) -> str:
    """In one line of at most 300 characters, of which each can be printed."""
    line = " ".join(text.split()).rstrip(".")
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def what_does_not_fit(error: ValidationError, document: str = "the document") -> str:
    """The first problem of a document: where, and what is wrong there."""
    first = error.errors()[0]
    where = shortened(".".join(map(str, first["loc"]))) or document
    return f"{where}: {shortened(first['msg'])}"


def parse_json(text: str | bytes, **options: Any) -> Any:
    """As json.loads; a text that is nested too deeply is a ValueError, too.

    Raises:
        ValueError: it is not JSON, or too deeply nested.
    """
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
