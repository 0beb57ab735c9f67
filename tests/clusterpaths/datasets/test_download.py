"""What is left on disk, and said, after a download by torchvision or an unpacking that went well or badly.

Only the transport is replaced, `gdown.download`: torchvision's own code, checksums and reading of the files run.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import io
import os
import socket
import subprocess
import sys
import urllib.error
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import gdown
import pytest
import requests
from gdown.exceptions import DownloadError as GdownDownloadError
from gdown.exceptions import FileURLRetrievalError
from PIL import Image

from clusterpaths.datasets.celeba import celeba_present, open_celeba
from clusterpaths.datasets.download import download_celeba
from clusterpaths.errors import (
    ClusterPathsError,
    DatasetError,
    DiskError,
    DownloadError,
    InputError,
    OfflineError,
    QuotaError,
)

QUOTA_PAGE = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"
OTHER_PAGE = b"<html><head><title>Sign in to the network</title></head></html>"
ANNOTATIONS = {
    "list_attr_celeba.txt": b"2\nBald Black_Hair Blond_Hair Brown_Hair Gray_Hair\n"
    b"000001.jpg -1  1 -1 -1 -1\n000002.jpg -1 -1 -1 -1  1\n",
    "identity_CelebA.txt": b"000001.jpg 7\n000002.jpg 8\n",
    "list_bbox_celeba.txt": b"2\nimage_id x_1 y_1 width height\n000001.jpg 1 2 3 4\n000002.jpg 1 2 3 4\n",
    "list_landmarks_align_celeba.txt": b"2\nlefteye_x lefteye_y\n000001.jpg 1 2\n000002.jpg 1 2\n",
    "list_eval_partition.txt": b"000001.jpg 0\n000002.jpg 2\n",
}


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 20), (9, 90, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


PICTURE = picture()


def images(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(PICTURE)
    return folder


def zipped(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, PICTURE)
    return path


def archive() -> bytes:
    picture, packed = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (16, 20), (9, 90, 200)).save(picture, "JPEG")
    with zipfile.ZipFile(packed, "w") as stream:
        for number in (1, 2):
            stream.writestr(f"img_align_celeba/{number:06d}.jpg", picture.getvalue())
    return packed.getvalue()


class Host:
    """A file host in memory, with torchvision's interface to gdown; `faults` are what it does instead for a file."""

    def __init__(self) -> None:
        self.files = {"img_align_celeba.zip": archive(), **ANNOTATIONS}
        self.faults: dict[str, Callable[[Path], None]] = {}
        self.asked: list[str] = []

    def download(self, id: str, output: str, quiet: bool, user_agent: str) -> str:  # noqa: A002, ARG002  gdown's names
        self.asked.append(id)
        print("From: a host", file=sys.stderr)
        if fault := self.faults.get(id):
            fault(Path(output))
        else:
            Path(output).write_bytes(self.files[id])
        return output


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    from torchvision.datasets import CelebA

    host = Host()
    listed = [(name, hashlib.md5(content).hexdigest(), name) for name, content in host.files.items()]
    monkeypatch.setattr(CelebA, "file_list", listed)  # torchvision's own names, checksums of these small files
    monkeypatch.setattr(gdown, "download", host.download)
    return host


def sends(content: bytes) -> Callable[[Path], None]:
    def fault(output: Path) -> None:
        output.write_bytes(content)

    return fault


def raises(error: BaseException, partly: bytes = b"") -> Callable[[Path], None]:
    def fault(output: Path) -> None:
        if partly:
            output.with_name(f"{output.name}abcd1234.part").write_bytes(partly)  # as gdown leaves it
        raise error

    return fault


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def test_this_test_lists_the_files_that_torchvision_lists() -> None:
    from torchvision.datasets import CelebA

    assert {name for _, _, name in CelebA.file_list} == set(Host().files)


def test_a_download_gives_a_data_set_that_opens(tmp_path: Path, host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    steps: list[tuple[int, int]] = []
    assert not celeba_present(tmp_path)
    folder = download_celeba(tmp_path, progress=lambda done, total: steps.append((done, total)))
    assert folder == tmp_path / "celeba"
    assert names(folder) == {*host.files, "img_align_celeba"}
    assert host.asked[-1] == "img_align_celeba.zip"  # last: a folder that has it has everything
    assert steps == [(1, 6), (2, 6), (3, 6), (4, 6), (5, 6), (6, 6), (2, 2)]
    data = open_celeba(tmp_path)
    table = data.examples()
    assert data.notes == ()
    assert [table.class_names[label] for label in table.labels] == ["Black", "Gray"]
    assert table.splits == ("train", "test")
    assert capsys.readouterr().err == ""  # no terminal, no bar


def test_a_root_that_is_the_celeba_folder_is_filled_itself(tmp_path: Path, host: Host) -> None:
    assert download_celeba(tmp_path / "celeba") == tmp_path / "celeba"
    assert len(open_celeba(tmp_path / "celeba").examples()) == 2


def test_whole_files_are_not_fetched_again_and_images_need_no_zip(tmp_path: Path, host: Host) -> None:
    folder = download_celeba(tmp_path)
    host.asked.clear()
    download_celeba(tmp_path)
    assert host.asked == []
    (folder / "img_align_celeba.zip").unlink()
    (folder / "identity_CelebA.txt").unlink()
    download_celeba(tmp_path)
    assert host.asked == ["identity_CelebA.txt"]


def test_a_download_that_failed_goes_on_where_it_stopped(tmp_path: Path, host: Host) -> None:
    host.faults["list_bbox_celeba.txt"] = raises(urllib.error.URLError("no route to host"), partly=b"2\nimage_id")
    with pytest.raises(DownloadError):
        download_celeba(tmp_path)
    assert not celeba_present(tmp_path)
    assert names(tmp_path / "celeba") == {"list_attr_celeba.txt", "identity_CelebA.txt"}
    host.faults.clear()
    host.asked.clear()
    download_celeba(tmp_path)
    assert host.asked == [
        "list_bbox_celeba.txt",
        "list_landmarks_align_celeba.txt",
        "list_eval_partition.txt",
        "img_align_celeba.zip",
    ]


RESPONSE = {code: SimpleNamespace(status_code=code) for code in (403, 429, 500)}


def does_not_resolve(output: Path) -> None:
    """As requests fails without a network."""
    with mock.patch("socket.getaddrinfo", side_effect=socket.gaierror(-3, "Temporary failure in name resolution")):
        session = requests.Session()
        session.trust_env = False  # no proxy
        session.get("https://drive.google.com/uc")


@pytest.mark.parametrize("file", ["list_attr_celeba.txt", "img_align_celeba.zip"])
@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (raises(urllib.error.URLError("no route to host")), DownloadError, "no route to host"),
        (does_not_resolve, OfflineError, "the name of the file host does not resolve"),
        (raises(urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))), OfflineError, "not resolve"),
        (raises(requests.exceptions.ConnectionError("offline"), b"half"), DownloadError, "ConnectionError: offline"),
        (raises(TimeoutError("timed out")), DownloadError, "timed out"),
        (raises(requests.exceptions.HTTPError("500", response=RESPONSE[500])), DownloadError, "HTTPError: 500"),
        (raises(requests.exceptions.HTTPError("429", response=RESPONSE[429])), QuotaError, "does not serve"),
        (raises(requests.exceptions.HTTPError("403", response=RESPONSE[403])), QuotaError, "does not serve"),
        (raises(GdownDownloadError("Download is incomplete: received 5 bytes")), DownloadError, "received 5 bytes"),
        (raises(FileURLRetrievalError("Cannot retrieve\n\n\tthe link")), QuotaError, "now: Cannot retrieve the link"),
        (sends(QUOTA_PAGE), QuotaError, "download quota for this file is used up; it was thrown away"),
        (sends(OTHER_PAGE), DatasetError, 'a web page called "Sign in to the network"'),
        (sends(b"cut off"), DownloadError, "7 bytes came and their checksum is wrong"),
        (sends(b""), DownloadError, "0 bytes came and their checksum is wrong"),
        (raises(OSError(errno.ENOSPC, "No space left on device")), DiskError, "the disk is full"),
        (raises(PermissionError(errno.EACCES, "Permission denied")), DiskError, "read-only (Permission denied"),
    ],
)
def test_a_failure_is_explained_and_leaves_nothing_that_looks_whole(
    tmp_path: Path, host: Host, file: str, fault: Callable[[Path], None], kind: type[ClusterPathsError], message: str
) -> None:
    host.faults[file] = fault
    with pytest.raises(kind) as caught:
        download_celeba(tmp_path)
    assert type(caught.value) is kind
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    if kind is not DiskError:
        for way_out in (str(tmp_path / "celeba" / file), "by hand", "--sample"):
            assert way_out in text
    assert names(tmp_path / "celeba") == (set(ANNOTATIONS) if file.endswith("zip") else set())
    assert not celeba_present(tmp_path)
    host.faults.clear()
    download_celeba(tmp_path)
    assert len(open_celeba(tmp_path).examples()) == 2


def test_without_a_network_the_message_says_what_lies_in_the_folder(tmp_path: Path, host: Host) -> None:
    host.faults["list_attr_celeba.txt"] = does_not_resolve
    for number in range(7):
        (tmp_path / f"{number}.jpg").touch()
    with pytest.raises(OfflineError) as caught:
        download_celeba(tmp_path)
    there = f"{tmp_path} holds 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg and 3 more."
    assert f"{tmp_path / 'celeba'} is empty. {there}" in str(caught.value)
    (tmp_path / "celeba" / "img_align_celeba.rar").touch()
    with pytest.raises(OfflineError, match=r"celeba holds img_align_celeba\.rar\. Run again"):
        download_celeba(tmp_path)


def test_a_bug_keeps_its_own_traceback(tmp_path: Path, host: Host) -> None:
    host.faults["list_attr_celeba.txt"] = raises(KeyError("Content-Type"))
    with pytest.raises(KeyError):
        download_celeba(tmp_path)
    assert names(tmp_path / "celeba") == set()


def test_ctrl_c_leaves_no_partial_file(tmp_path: Path, host: Host) -> None:
    host.faults["list_attr_celeba.txt"] = raises(KeyboardInterrupt(), partly=b"half")
    with pytest.raises(KeyboardInterrupt):
        download_celeba(tmp_path)
    assert names(tmp_path / "celeba") == set()


def test_a_file_of_the_users_is_kept_beside_the_downloaded_one(tmp_path: Path, host: Host) -> None:
    own = tmp_path / "celeba" / "list_attr_celeba.txt"
    own.parent.mkdir()
    own.write_text("my own")
    host.faults["list_attr_celeba.txt"] = raises(urllib.error.URLError("offline"))
    with pytest.raises(DownloadError):
        download_celeba(tmp_path)
    assert own.read_text() == "my own"
    host.faults.clear()
    download_celeba(tmp_path)
    assert own.read_bytes() == ANNOTATIONS["list_attr_celeba.txt"]
    assert own.with_name("list_attr_celeba.txt.replaced").read_text() == "my own"


def test_without_gdown_the_pip_line_is_given(tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gdown" else find(name))
    with pytest.raises(InputError, match=r'gdown, which is not installed.*pip install -e "[^"]+\[torch\]"'):
        download_celeba(tmp_path)


def test_a_root_that_is_a_file_is_a_diskerror(tmp_path: Path, host: Host) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="Cannot download CelebA in"):
        download_celeba(tmp_path / "file")


# ---- the zip


def test_a_zip_is_unpacked_whole_and_once(tmp_path: Path) -> None:
    zipped(
        tmp_path / "celeba" / "img_align_celeba.zip",
        "img_align_celeba/000001.jpg",
        "img_align_celeba/000002.jpg",
        "readme.txt",
    )
    left_over = images(tmp_path / "celeba" / "img_align_celeba.partial", "000077.jpg")  # by a killed run
    assert celeba_present(tmp_path)
    steps: list[tuple[int, int]] = []
    data = open_celeba(tmp_path, progress=lambda done, total: steps.append((done, total)))
    assert data.examples().files == ("000001.jpg", "000002.jpg")
    assert steps == [(2, 2)]
    assert "img_align_celeba.zip was unpacked: 2 images" in data.notes[0]
    assert not left_over.exists()
    assert data.read_image("000001.jpg").size == (16, 20)
    assert not any("unpack" in note for note in open_celeba(tmp_path).notes)


def test_an_interrupted_unpack_leaves_nothing_and_runs_again(tmp_path: Path) -> None:
    zipped(tmp_path / "img_align_celeba.zip", *(f"img_align_celeba/{n:06d}.jpg" for n in range(1, 601)))

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_celeba(tmp_path, progress=interrupt)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(open_celeba(tmp_path).examples()) == 600


def test_fewer_images_than_in_the_zip_is_noted(tmp_path: Path) -> None:
    zipped(tmp_path / "img_align_celeba.zip", "img_align_celeba/000001.jpg", "img_align_celeba/000002.jpg")
    images(tmp_path / "img_align_celeba", "000001.jpg")
    data = open_celeba(tmp_path)
    assert len(data.examples()) == 1
    assert "holds 2 images" in data.notes[0]
    assert "only 1 (an interrupted unpack?)" in data.notes[0]


@pytest.mark.parametrize(
    "name", ["../000001.jpg", "/tmp/000001.jpg", "a/../../000001.jpg", "..\\000001.jpg", "C:\\1.jpg"]
)
def test_a_zip_that_would_write_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    zipped(tmp_path / "in" / "img_align_celeba.zip", "img_align_celeba/000002.jpg", name)
    with pytest.raises(DatasetError, match="which leads out of the directory"):
        open_celeba(tmp_path / "in")
    assert [path.name for path in tmp_path.rglob("*.jpg")] == []


def test_a_damaged_zip_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "img_align_celeba.zip", "img_align_celeba/000001.jpg")
    whole = archive.read_bytes()
    spoilt = bytearray(whole)
    spoilt[150] ^= 255
    for content, message in {
        whole[: len(whole) // 2]: "is not a complete zip file",
        bytes(spoilt): "Bad CRC-32",
        b"": "(0 bytes) is not a complete zip file",
        OTHER_PAGE: "is a web page called",
    }.items():
        archive.write_bytes(content)
        with pytest.raises(DatasetError) as caught:
            open_celeba(tmp_path)
        assert message in str(caught.value)
        assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_zip_without_images_is_refused(tmp_path: Path) -> None:
    zipped(tmp_path / "img_align_celeba.zip", "readme.txt")
    with pytest.raises(DatasetError, match=r"holds no images: none of its 1 names"):
        open_celeba(tmp_path)


READ_ONLY = """
import os, sys
from pathlib import Path
from clusterpaths.datasets.celeba import open_celeba
from clusterpaths.errors import DiskError
if os.geteuid() == 0:
    os.setegid(65534); os.seteuid(65534)
try:
    open_celeba(Path("."))
except DiskError as error:
    print(error)
"""


def test_a_read_only_folder_is_said_to_be_one(tmp_path: Path) -> None:
    zipped(tmp_path / "img_align_celeba.zip", "img_align_celeba/000001.jpg")
    os.chmod(tmp_path, 0o555)  # noqa: PTH101
    try:
        run = subprocess.run(
            [sys.executable, "-c", READ_ONLY], cwd=tmp_path, capture_output=True, text=True, check=True
        )
    finally:
        os.chmod(tmp_path, 0o755)  # noqa: PTH101
    assert "Cannot unpack img_align_celeba.zip" in run.stdout
    assert "read-only (Permission denied" in run.stdout


def test_images_that_block_the_unpacked_folder_are_a_diskerror(tmp_path: Path) -> None:
    zipped(tmp_path / "img_align_celeba.zip", "img_align_celeba/000001.jpg")
    (tmp_path / "img_align_celeba").write_text("a file where the folder should be")
    with pytest.raises(DiskError, match=r"Cannot unpack img_align_celeba.zip"):
        open_celeba(tmp_path)
