"""S3 operations: one client per bucket, retries while the server is unavailable, and its errors in one paragraph.

Belongs here: single operations on objects. Which object a file of the cache is, is decided by `bucket.py`.

Credentials are handled by obstore only: it reads AWS_ACCESS_KEY_ID and its like from the environment, and nothing
here reads, stores or prints them. Of a server's error only the code is reported: its text may quote the request.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from clusterpaths.common.extras import require_extra
from clusterpaths.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from obstore.store import ClientConfig

Result = TypeVar("Result")
log = logging.getLogger("clusterpaths.storage")

PATIENCE = 120.0  # seconds of retries for a server that answered before; `lease.py` depends on it
REQUEST_TIMEOUT = 120.0  # seconds of one request
FIRST_PATIENCE = 15.0  # seconds for the first answer to a run: a wrong address should be reported soon
_PAUSES = (0.2, 5.0)  # seconds between tries: first, longest
_REFUSED = {
    "AccessDenied", "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId", "InvalidClientTokenId",
    "InvalidToken", "SignatureDoesNotMatch",
}  # fmt: skip
_METADATA_SERVICE = "169.254.169.254"  # where a cloud machine requests credentials
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

_stores: dict[tuple[str, str], Any] = {}
_conditional: set[tuple[str, str]] = set()  # buckets whose server obeys conditions
_away: dict[str, float] = {}  # bucket -> since when its server does not answer
_lock = threading.Lock()


def store_of(bucket: str) -> Any:
    """The client of a bucket (`obstore.store.S3Store`), one per process.

    Raises:
        ConfigError: obstore is not installed, or the server would get credentials unencrypted.
    """
    key = bucket, _endpoint()
    with _lock:
        if key not in _stores:
            _stores[key] = _connect(*key)
        return _stores[key]


def require_obstore() -> None:
    """Raises:
    ConfigError: it is not installed.
    """
    require_extra("A cache in object storage", "s3", "obstore", otherwise="name a directory with --cache-root")


def _connect(bucket: str, endpoint: str) -> Any:
    require_obstore()
    from obstore.store import S3Store

    parts = urlsplit(endpoint)
    # A run's own retries come on top (`with_retries`): these only bridge a hiccup, so that an outage is reported at once.
    settings: dict[str, Any] = {"retry_config": {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}}
    client: ClientConfig = {"timeout": f"{REQUEST_TIMEOUT:.0f}s", "connect_timeout": "5s"}
    if endpoint:
        settings["endpoint"] = endpoint
    if parts.scheme == "http":
        here = parts.hostname in ("localhost", "::1") or (parts.hostname or "").startswith("127.")
        if not here and os.environ.get("AWS_ALLOW_HTTP", "").lower() not in ("1", "true"):
            raise ConfigError(
                f"The object storage at {parts.hostname} would be accessed over http, unencrypted. Expected https, or a server "
                "on this machine. Correct AWS_ENDPOINT_URL, or allow it with AWS_ALLOW_HTTP=true."
            )
        client["allow_http"] = True
    return S3Store(bucket, client_options=client, **settings)


def with_retries(bucket: str, operation: Callable[[], Result], patience: float | None = None) -> Result:
    """Result of `operation`, retried while the server is unavailable; it must be safe to repeat.

    One log line when the server stops answering, one when it is back.

    Args:
        bucket: the bucket of the operation.
        operation: calls obstore, or zarr on top of it.
        patience: seconds of retries [PATIENCE].

    Raises:
        StorageError: the server does not answer, refuses these credentials, or has no such bucket.
        FileNotFoundError: no such object.
        obstore.exceptions.AlreadyExistsError, PreconditionError, NotModifiedError: the condition of a request failed.
    """
    from obstore import exceptions as errors

    patience = PATIENCE if patience is None else patience
    deadline, pause = time.monotonic() + patience, _PAUSES[0]
    while True:
        try:
            result = operation()
        except (errors.AlreadyExistsError, errors.PreconditionError, errors.NotModifiedError):
            _answered(bucket)
            raise
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise _no_bucket(bucket) from None
            _answered(bucket)
            raise
        except errors.BaseError as error:  # its text is not passed on, `from None`: it may quote the request
            reason = _reason(error, bucket)
        else:
            _answered(bucket)
            return result
        left = deadline - time.monotonic()
        if left <= 0:
            with _lock:
                _away.pop(bucket, None)
            raise StorageError(
                f"The object storage of s3://{bucket}{_server()} does not answer ({reason}), and still did not within "
                f"{patience:.0f} s. What was recorded before is preserved. Check whether the server runs and AWS_ENDPOINT_URL is "
                "correct (without it, Amazon's server is used); then run the same command again: it continues where it stopped."
            ) from None
        _failing(bucket, reason, left)
        time.sleep(min(pause, left))
        pause = min(pause * 1.6, _PAUSES[1])


def list_objects(bucket: str, prefix: str | None) -> list[Any]:
    """Every object below a prefix: dicts with path (its full key), size and e_tag."""
    import obstore

    pages = with_retries(bucket, lambda: list(obstore.list(store_of(bucket), prefix)))
    return [entry for page in pages for entry in page]


def list_prefixes(bucket: str, prefix: str | None, patience: float | None = None) -> list[str]:
    """The "directories" directly below a prefix, with a slash at their ends."""
    import obstore

    found = with_retries(bucket, lambda: obstore.list_with_delimiter(store_of(bucket), prefix), patience)
    return list(found["common_prefixes"])


def exists(bucket: str, key: str) -> bool:
    """Whether there is such an object."""
    import obstore

    try:
        with_retries(bucket, lambda: obstore.head(store_of(bucket), key))
    except FileNotFoundError:
        return False
    return True


def read(bucket: str, key: str) -> tuple[bytes, str] | None:
    """Content and etag of an object as it is now; None where there is none."""
    import obstore

    def get() -> tuple[bytes, str]:
        result = obstore.get(store_of(bucket), key)
        return bytes(result.bytes()), str(result.meta["e_tag"])

    try:
        return with_retries(bucket, get)
    except FileNotFoundError:
        return None


def put(bucket: str, key: str, content: bytes, etag: str | None, patience: float | None = None) -> str | None:
    """Write an object if it is still that of `etag` (None: if there is none).

    Returns its new etag; None where another writer won the race, and nothing was written.
    """
    import obstore
    from obstore import exceptions

    mode: Any = "create" if etag is None else {"e_tag": etag}
    try:
        return with_retries(
            bucket, lambda: str(obstore.put(store_of(bucket), key, content, mode=mode)["e_tag"]), patience
        )
    except FileNotFoundError:  # the object to be replaced is gone
        return None
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        # Where a connection broke after the write, the retry finds the object that the first try wrote.
        found = read(bucket, key)
        return found[1] if found and found[0] == content else None


def require_conditional_writes(bucket: str, key: str) -> None:
    """Check with a small object that the server obeys the conditions of `put`; once per process and bucket.

    Raises:
        StorageError: it ignores them, or does not implement them.
    """
    if (bucket, _endpoint()) in _conditional:
        return
    never = f'"{"0" * 32}"'  # an etag that no object has
    try:
        made = put(bucket, key, b"probe", None, FIRST_PATIENCE)
        ignored = [put(bucket, key, content, etag, FIRST_PATIENCE) for content, etag in ((b"1", None), (b"2", never))]
    finally:
        delete(bucket, [key], FIRST_PATIENCE)
    if made is None or any(ignored):
        raise _unconditional(bucket)
    _conditional.add((bucket, _endpoint()))


def upload(bucket: str, key: str, path: Path) -> str:
    """Write a file as an object, replacing any; returns its etag."""
    import obstore

    return str(with_retries(bucket, lambda: obstore.put(store_of(bucket), key, path)["e_tag"]))


def download(bucket: str, key: str, path: Path, known: str | None) -> str | None:
    """Write an object's content to a file with its time; returns its etag, or None where that is `known` and nothing was written.

    Raises:
        FileNotFoundError: there is no such object.
    """
    import obstore
    from obstore import exceptions

    def get() -> str:
        result = obstore.get(store_of(bucket), key, options={"if_none_match": known} if known else None)
        with path.open("wb") as file:
            for piece in result.stream(min_chunk_size=4 << 20):
                file.write(piece)
        written = result.meta["last_modified"].timestamp()
        os.utime(path, (written, written))
        return str(result.meta["e_tag"])

    try:
        return with_retries(bucket, get)
    except exceptions.NotModifiedError:
        return None


def delete(bucket: str, keys: list[str], patience: float | None = None) -> None:
    """Remove objects; missing ones are ignored."""
    import obstore

    if keys:
        with_retries(bucket, lambda: obstore.delete(store_of(bucket), keys), patience)


def _reason(error: Exception, bucket: str) -> str:
    """A short reason for a failure that a retry may help with.

    Raises:
        StorageError: a retry cannot help.
    """
    from obstore import exceptions as errors

    text = str(error)
    code = match[1] if (match := re.search(r"<Code>(\w+)</Code>", text)) else ""
    if code == "NoSuchBucket":
        raise _no_bucket(bucket) from None
    if code == "NotImplemented" or isinstance(error, errors.NotSupportedError):
        raise _unconditional(bucket) from None
    if _METADATA_SERVICE in text:
        raise StorageError(
            f"There are no credentials for s3://{bucket}{_server()}. Expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in "
            "the environment (and AWS_SESSION_TOKEN, where they are temporary), here and where workers run. Set them and run "
            "the same command again."
        ) from None
    if isinstance(error, (errors.PermissionDeniedError, errors.UnauthenticatedError)) or code in _REFUSED:
        raise StorageError(
            f"The object storage of s3://{bucket}{_server()} refuses these credentials ({code or type(error).__name__}). "
            "Expected some with permission to list, read, write and delete. Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
            "AWS_SESSION_TOKEN in the environment, and their permissions."
        ) from None
    status = match[0] if (match := re.search(r"status code: \d+", text)) else ""
    return code or status or "no connection"


def _unconditional(bucket: str) -> StorageError:
    return StorageError(
        f"The object storage of s3://{bucket}{_server()} does not obey the conditions of writes (If-None-Match and If-Match), "
        "without which two runs would overwrite each other's files. Expected a server that does, as Amazon S3 and MinIO do. Use "
        "another server, or name a directory with --cache-root."
    )


def _no_bucket(bucket: str) -> StorageError:
    return StorageError(
        f"There is no bucket {bucket}{_server()}. Expected one that exists: create it, or name another one with --cache-root "
        "s3://BUCKET/PREFIX; AWS_ENDPOINT_URL names the server."
    )


def _server() -> str:
    """ " at HOST:PORT" where an endpoint is configured."""
    endpoint = _endpoint()
    return f" at {urlsplit(endpoint).netloc.rpartition('@')[2]}" if endpoint else ""


def _endpoint() -> str:
    return next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")


def _failing(bucket: str, reason: str, left: float) -> None:
    with _lock:
        first = bucket not in _away
        _away.setdefault(bucket, time.monotonic())
    if first:
        log.warning(
            "The object storage of s3://%s%s does not answer (%s); trying again for up to %.0f s. Nothing is lost.",
            bucket, _server(), reason, left,
        )  # fmt: skip


def _answered(bucket: str) -> None:
    if bucket not in _away:
        return
    with _lock:
        since = _away.pop(bucket, None)
    if since is not None:
        log.warning(
            "The object storage of s3://%s%s answers again after %.0f s.", bucket, _server(), time.monotonic() - since
        )
