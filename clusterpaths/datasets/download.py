"""Getting CelebA's files: from the network by torchvision, and out of their zip.

Belongs here: errors between the file host and a complete file on disk. Reading the files is `celeba.py`; retries are up to
the task.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import socket
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from filelock import FileLock

from clusterpaths.common.extras import require_extra
from clusterpaths.errors import (
    ClusterPathsError,
    DatasetError,
    DiskError,
    DownloadError,
    OfflineError,
    QuotaError,
)

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

ALL_IMAGES = 202_599
ZIP_NAME = "img_align_celeba.zip"

_SUFFIXES = (".jpg", ".jpeg", ".png")
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_QUOTA_SIGNS = re.compile(rb"quota exceeded|too many users have viewed or downloaded", re.IGNORECASE)


def download_celeba(root: Path, progress: Progress | None = None) -> Path:
    """Bring CelebA's zip (1.4 GB) and annotations into the celeba directory of `root`, unpack, and return that directory.

    Files that are there with the right checksum are not fetched again. The zip comes last, so that a directory with a
    zip is a complete one. A file is fetched into a .partial directory and moved once its checksum is right; one that was
    there with other content is renamed to NAME.replaced. `progress` gets files done of all files, then images
    unpacked of all images.

    Raises:
        DownloadError: the network failed, or the download is corrupted; a retry can help. OfflineError: the host's name does
            not resolve.
        QuotaError: the file host has no quota left for a file, or does not serve it.
        DatasetError: the host answered with some other web page.
        DiskError: no room, or no permission to write.
        ConfigError: torchvision or gdown is not installed.
    """
    folder = celeba_folder(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "download.lock"):
            _torchvision_celeba(folder, progress)
    except OSError as error:
        raise disk_error(error, "download CelebA", folder) from error
    return folder


def _torchvision_celeba(folder: Path, progress: Progress | None) -> None:
    require_extra("Downloading CelebA", "torch", "torchvision")
    from torchvision.datasets import CelebA  # slow to import (torch), so only here

    class Fetched(CelebA):  # type: ignore[misc]  # torchvision ships no types
        """torchvision's CelebA, its files and checksums, without ever leaving an incomplete file under a final name."""

        def download(self) -> None:
            files = sorted(self.file_list, key=lambda entry: entry[2] == ZIP_NAME)
            images_there = has_image(folder / "img_align_celeba")
            for done, (file_id, md5, name) in enumerate(files, 1):
                if not (name == ZIP_NAME and images_there):
                    _fetch(file_id, md5, folder / name)
                if progress is not None:
                    progress(done, len(files))
            if not images_there:
                unpack_images(folder / ZIP_NAME, progress)

    try:
        Fetched(
            str(folder.parent), split="all", target_type=[], download=True
        )  # verifies the result: torchvision reads all annotations
    except RuntimeError as error:
        raise DownloadError(f"torchvision does not accept the files in {folder}: {error}. Run again.") from error


def _fetch(file_id: str, md5: str, path: Path) -> None:
    """Fetch one file of Google Drive, by torchvision and gdown, unless it is there with this checksum."""
    from torchvision.datasets import celeba as torchvision_celeba

    if torchvision_celeba.check_integrity(str(path), md5):
        return
    require_extra("Downloading CelebA", "torch", "gdown")
    folder = path.parent / "download.partial"
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed run
    folder.mkdir()
    log.info("downloading %s", path)
    try:
        with _quiet_unless_terminal():
            torchvision_celeba.download_file_from_google_drive(file_id, str(folder), path.name, md5)
        _keep_aside(path)
        (folder / path.name).replace(path)
    except ClusterPathsError:
        raise
    except Exception as error:
        raise _explained(error, folder / path.name, path) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _explained(error: Exception, came: Path, path: Path) -> ClusterPathsError:
    """The library's error for one of torchvision, gdown, requests or the disk; `came` is what was received."""
    if isinstance(error, OSError) and error.errno in (*_NO_ACCESS, *_NO_ROOM) and not _by_network(error):
        return disk_error(error, f"download {path.name}", path.parent)
    if came.is_file():
        try:
            refuse_web_page(came, path)
        except DatasetError as page:
            return page
    reason = " ".join(str(error).split()) or type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if any(base.__name__ == "FileURLRetrievalError" for base in type(error).__mro__) or status in (401, 403, 429):
        return QuotaError(
            f"The file host does not serve {path.name} now: {reason[:300]} Most often its download quota is used "
            f"up. Wait a day and run again; or {_by_hand(path)}."
        )
    if not isinstance(error, (OSError, RuntimeError)) and type(error).__module__.partition(".")[0] != "gdown":
        raise error  # a bug: let it show its traceback
    if came.is_file():
        reason += f" {came.stat().st_size:,} bytes came and their checksum is wrong; they were thrown away."
    if unresolved(error):
        return OfflineError(
            f"Downloading {path.name} failed: the name of the file host does not resolve, so this machine has no network, or "
            f"only by a proxy (HTTPS_PROXY). {_there(path)} Run again with a network; or {_by_hand(path)}."
        )
    return DownloadError(
        f"Downloading {path.name} failed: {type(error).__name__}: {reason[:400]} {_there(path)} Check the network and run again "
        f"(complete files are reused); or {_by_hand(path)}."
    )


def unresolved(error: BaseException) -> bool:
    """Whether a host name that does not resolve is among the causes of an error."""
    seen: list[object] = [None]
    left: list[object] = [error]
    while left:
        cause = left.pop()
        if isinstance(cause, socket.gaierror):
            return True
        if isinstance(cause, BaseException) and cause not in seen:
            seen.append(cause)
            left += [
                cause.__cause__,
                cause.__context__,
                getattr(cause, "reason", None),
                *cause.args,
            ]  # reason: urllib's
    return False


def contents(folder: Path) -> str:
    """A sentence that names what is in a directory."""
    names = names_in(folder)
    if not names:
        return f"{folder} is empty."
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return f"{folder} holds {', '.join(names[:5])}{more}."


def names_in(folder: Path) -> list[str]:
    """What is in a directory, but for locks and partial files; nothing where it does not exist."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if not name.endswith((".lock", ".partial"))]


def _there(path: Path) -> str:
    """What is in the directory of a missing file and, if that is empty, in the one above it, which a user has named."""
    folder = path.parent
    return contents(folder) + ("" if names_in(folder) else f" {contents(folder.parent)}")


def _by_network(error: OSError) -> bool:
    return type(error).__module__.partition(".")[0] in ("requests", "urllib", "urllib3", "http", "ssl")


def _by_hand(path: Path) -> str:
    return (
        f"get {path.name} by hand from the CelebA page or from Kaggle and put it at {path}; "
        f"`--sample` runs without any download"
    )


def _keep_aside(path: Path) -> None:
    """Move an existing file out of the way of the downloaded one, without deleting it."""
    if path.exists():
        aside = path.with_name(f"{path.name}.replaced")
        path.replace(aside)
        log.warning("%s was not CelebA's own file; it is renamed to %s", path, aside.name)


@contextlib.contextmanager
def _quiet_unless_terminal() -> Iterator[None]:
    """gdown draws a progress bar on stderr, which torchvision cannot switch off; in a log file it is noise."""
    if sys.stderr.isatty():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # noqa: PTH123  devnull is no Path
        yield


def celeba_folder(root: Path) -> Path:
    """The directory for downloaded or manually placed files: `root` itself if it is a celeba directory, else root/celeba."""
    root = Path(root)
    is_celeba = root.resolve().name == "celeba" and not (root / "celeba").is_dir()
    return root if is_celeba else root / "celeba"


def refuse_web_page(path: Path, place: Path | None = None) -> None:
    """Raise if `path` holds a web page: QuotaError for a file host's quota page, DatasetError for any other.

    `place` is where the file belongs, if not at `path`.
    """
    place = place or path
    with path.open("rb") as stream:
        head = stream.read(64 * 1024)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:15].lower()
    if not start.startswith((b"<!doctype html", b"<html", b"<head")):
        return
    again = "delete it" if path == place else "it was thrown away"
    if _QUOTA_SIGNS.search(head):
        raise QuotaError(
            f"{place} is not the data but a web page: the file host reports that its download quota for this file is used "
            f"up; {again}. Wait a day and run again; or {_by_hand(place)}."
        )
    title = re.search(rb"<title[^>]*>\s*(.*?)\s*</title>", head, re.IGNORECASE | re.DOTALL)
    called = f' called "{title[1].decode("utf-8", "replace")[:80]}"' if title else ""
    raise DatasetError(f"{place} is a web page{called} rather than the file; {again}. Run again; or {_by_hand(place)}.")


def unpack_images(archive: Path, progress: Progress | None = None) -> int:
    """Unpack the images of `archive` into the directory img_align_celeba beside it; return their number.

    All or nothing: the images go to a .partial directory which is renamed at the end; one left by a killed run is
    deleted. Only files named by a number are unpacked, all into one directory.

    Raises:
        DatasetError: no zip, a corrupted one, no images in it, or member names that lead out of the directory.
        DiskError: no room, or no permission to write.
    """
    target = archive.parent / "img_align_celeba"
    partial = archive.parent / "img_align_celeba.partial"
    try:
        with FileLock(f"{archive}.lock"):
            if has_image(target):  # another process unpacked it while this one waited
                return sum(image_number(path.name) is not None for path in target.iterdir())
            shutil.rmtree(partial, ignore_errors=True)
            try:
                count = _unpack_into(archive, partial, progress)
                partial.rename(target)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            return count
    except OSError as error:
        raise disk_error(error, f"unpack {archive.name}", archive.parent) from error


def _unpack_into(archive: Path, partial: Path, progress: Progress | None) -> int:
    refuse_web_page(archive)
    again = f"Delete it and run again to download it again, or put the complete file at {archive}."
    try:
        with zipfile.ZipFile(archive) as source:
            members = image_members(archive, source.infolist())
            need, free = sum(m.file_size for m in members.values()), shutil.disk_usage(archive.parent).free
            if need > free:
                raise DiskError(
                    f"Unpacking {archive} takes {need / 1e9:.2f} GB and {archive.parent} has {free / 1e9:.2f} GB free. "
                    f"Make room and run again."
                )
            log.info("unpacking %s: %s images, %.1f GB", archive, f"{len(members):,}", need / 1e9)
            partial.mkdir()
            for done, (name, member) in enumerate(members.items(), 1):
                (partial / name).write_bytes(source.read(member))
                if progress is not None and (done % 500 == 0 or done == len(members)):
                    progress(done, len(members))
            return len(members)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        size = archive.stat().st_size
        raise DatasetError(f"{archive} ({size:,} bytes) is not a complete zip file: {error}. {again}") from error


def image_members(archive: Path, members: Sequence[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """The members that are images, by bare file name.

    Raises:
        DatasetError: there are none, one is there twice, or a name leads out of the directory.
    """
    images: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", member.filename):
            raise DatasetError(
                f"{archive} holds the name {member.filename!r}, which leads out of the directory; CelebA's own zip holds "
                f"img_align_celeba/000001.jpg and the like. Nothing was unpacked; get the file again."
            )
        if member.is_dir() or image_number(path.name) is None:
            continue
        if path.name in images:
            raise DatasetError(f"{archive} holds {path.name} twice; expected each image once. Get the file again.")
        images[path.name] = member
    if not images:
        raise DatasetError(f"{archive} holds no images: none of its {len(members):,} names is like 000001.jpg.")
    return images


def image_number(name: str) -> int | None:
    """The image number in a file name such as 000012.jpg or 12.png; None for any other name."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122  202,599 calls; Path would take a second more
    digits = stem.isascii() and stem.isdigit() and len(stem) <= 18  # more would not fit int64
    return int(stem) if digits and suffix.lower() in _SUFFIXES else None


def has_image(folder: Path) -> bool:
    """Whether the directory holds one file named as an image is; stops at the first."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(image_number(entry.name) is not None and entry.is_file() for entry in entries)


def disk_error(error: OSError, doing: str, folder: Path) -> DiskError:
    """The DiskError for an OSError met while `doing` something in `folder`."""
    if error.errno in _NO_ACCESS:
        where = f": {error.filename}" if error.filename else ""
        return DiskError(
            f"Cannot {doing} in {folder}: the directory is read-only ({error.strerror}{where}). Make it writable, or name "
            f"a directory that is."
        )
    if error.errno in _NO_ROOM:
        free = shutil.disk_usage(folder).free / 1e9
        return DiskError(f"Cannot {doing} in {folder}: the disk is full ({free:.1f} GB free). Make room and run again.")
    return DiskError(f"Cannot {doing} in {folder}: {error}.")
