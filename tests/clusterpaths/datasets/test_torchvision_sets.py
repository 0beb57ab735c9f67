"""torchvision's data sets, read from files laid out on disk as torchvision lays them out."""

from __future__ import annotations

import hashlib
import http.server
import io
import socket
import struct
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import scipy.io
import xxhash
from PIL import Image
from torchvision import datasets

from clusterpaths.datasets import clear_caches, open_dataset, read_table
from clusterpaths.datasets.base import file_digest
from clusterpaths.datasets.registry import fetch
from clusterpaths.datasets.torchvision_sets import names
from clusterpaths.errors import DatasetError, DownloadError, InputError, OfflineError
from clusterpaths.records import DatasetSpec
from tests.cifar10 import CLASSES, write_cifar10


def spec(name: str, root: Path) -> DatasetSpec:
    clear_caches()
    return DatasetSpec(name=f"torchvision:{name}", root=str(root))


def test_cifar10_equals_what_was_written_pixel_for_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = write_cifar10(tmp_path, monkeypatch)
    cifar = spec("CIFAR10", tmp_path)
    data, table = open_dataset(cifar), read_table(cifar)
    assert (data.name, data.root, data.notes) == ("torchvision:CIFAR10", tmp_path, ())
    assert table.splits == ("train",) * 30 + ("test",) * 6
    assert table.ids.tolist() == list(range(36))
    assert (table.files[0], table.files[29], table.files[30]) == ("train/000000", "train/000029", "test/000000")
    assert table.labels.tolist() == given["train"][1] + given["test"][1]
    assert table.class_names == tuple(CLASSES)
    assert table.sizes.tolist() == [3072] * 36
    assert table.mtimes is None
    pixels = np.concatenate([given["train"][0], given["test"][0]])
    assert np.array_equal(np.stack([np.asarray(data.read_image(file)) for file in table.files]), pixels)
    assert data.digest("test/000002") == xxhash.xxh3_64_intdigest(given["test"][0][2].tobytes())


@pytest.mark.parametrize("file", ["train/000030", "valid/000000", "train/-1", "000000", "../train/000000", ""])
def test_what_is_no_examples_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    write_cifar10(tmp_path, monkeypatch)
    data = open_dataset(spec("CIFAR10", tmp_path))
    for read in (data.read_image, data.digest):
        with pytest.raises(OSError, match="not the name of an image"):
            read(file)


def test_damaged_files_are_refused_by_torchvisions_own_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, monkeypatch)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        DatasetError, match=r"torchvision:CIFAR10 cannot be opened in .*: Dataset not found or corrupted"
    ):
        open_dataset(spec("CIFAR10", tmp_path))


def test_mnist_is_grey_made_rgb(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    pixels = {"train": random.integers(0, 256, (4, 28, 28)), "t10k": random.integers(0, 256, (2, 28, 28))}
    labels = {"train": [3, 1, 4, 1], "t10k": [5, 9]}
    for part, images in pixels.items():
        header = struct.pack(">iiii", 0x0803, len(images), 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.astype(np.uint8).tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">ii", 0x0801, len(images)) + bytes(labels[part])
        )
    data = open_dataset(spec("MNIST", tmp_path))
    table = data.examples()
    assert table.labels.tolist() == [3, 1, 4, 1, 5, 9]
    assert table.splits == ("train",) * 4 + ("test",) * 2
    assert table.class_names[3] == "3 - three"
    image = data.read_image("test/000001")
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image)[..., 2], pixels["t10k"][1])


def test_svhn_without_class_names_gets_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (32, 32, 3, 4)).astype(np.uint8)  # SVHN's own order: N is last
    listed = dict(datasets.SVHN.split_list)
    for split in ("train", "test"):
        path = tmp_path / f"{split}_32x32.mat"
        scipy.io.savemat(
            path, {"X": pixels, "y": np.array([[1], [10], [2], [3]], np.uint8)}
        )  # 10 stands for the digit 0
        listed[split] = [*listed[split][:2], hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    data = open_dataset(spec("SVHN", tmp_path))
    table = data.examples()
    assert table.labels.tolist() == [1, 0, 2, 3] * 2
    assert table.class_names == ("0", "1", "2", "3")
    assert np.array_equal(np.asarray(data.read_image("train/000003")), pixels[..., 3])


def write_food101(root: Path) -> Path:
    """Food101: a JPEG an image, splits in JSON files."""
    base = root / "food-101"
    (base / "meta").mkdir(parents=True)
    for name in ("soup/1", "soup/2", "cake/3"):
        (base / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 256, (8, 9, 3)).astype(np.uint8)).save(
            base / "images" / f"{name}.jpg"
        )
    (base / "meta" / "train.json").write_text('{"soup": ["soup/2"], "cake": ["cake/3"]}')
    (base / "meta" / "test.json").write_text('{"soup": ["soup/1"], "cake": []}')
    return base / "images"


def test_sets_with_a_file_an_image_keep_names_sizes_and_times_of_the_files(tmp_path: Path) -> None:
    images = write_food101(tmp_path)
    data = open_dataset(spec("Food101", tmp_path))
    table = data.examples()
    paths = [images / "soup/2.jpg", images / "cake/3.jpg", images / "soup/1.jpg"]
    assert table.files == tuple(path.relative_to(tmp_path).as_posix() for path in paths)
    assert table.splits == ("train", "train", "test")
    assert [table.class_names[label] for label in table.labels] == ["soup", "cake", "soup"]
    assert table.sizes.tolist() == [path.stat().st_size for path in paths]
    assert table.mtimes.tolist() == [path.stat().st_mtime_ns for path in paths]
    theirs = datasets.Food101(str(tmp_path), split="test")[0][0]
    assert np.array_equal(np.asarray(data.read_image(table.files[2])), np.asarray(theirs))
    assert data.digest(table.files[2]) == file_digest(paths[2])
    paths[0].write_bytes(paths[0].read_bytes()[:100])
    with pytest.raises(OSError, match=r"(?i)truncated"):
        data.read_image(table.files[0])
    with pytest.raises(OSError, match="not the name"):
        data.read_image("../secret.jpg")


def test_val_is_our_valid_and_a_split_that_is_missing_is_noted(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for wnid in ("n01440764", "n02102040"):
            folder = tmp_path / "imagenette2" / split / wnid
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / f"{split}_{wnid}.JPEG")
    data = open_dataset(spec("Imagenette", tmp_path))
    assert data.examples().splits == ("train", "train", "valid", "valid")
    assert data.examples().class_names == ("tench, Tinca tinca", "English springer, English springer spaniel")
    (tmp_path / "imagenette2" / "val").rename(tmp_path / "gone")
    data = open_dataset(spec("Imagenette", tmp_path))
    assert data.examples().splits == ("train", "train")
    assert data.notes[0].startswith(f"torchvision:Imagenette has no split valid in {tmp_path}")


def test_every_name_is_a_data_set_of_torchvision_whose_constructor_takes_our_arguments_and_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def urlopen(*args: object, **_: object) -> None:
        asked.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assert {"CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "SVHN", "STL10", "Flowers102", "OxfordIIITPet"} <= set(
        names()
    )
    assert {"Food101", "GTSRB", "DTD", "EuroSAT", "ImageFolder"} <= set(names())
    for name in names():  # an empty folder: refused as one, and not for an argument that the class does not know
        assert issubclass(getattr(datasets, name), datasets.VisionDataset)
        with pytest.raises((DatasetError, InputError)) as caught:
            open_dataset(spec(name, tmp_path))
        assert "cannot be opened in" in str(caught.value) or "pip install" in str(caught.value), name
    assert asked == []


@pytest.mark.parametrize(("name", "near"), [("cifar10", "CIFAR10"), ("Flower102", "Flowers102"), ("VOCDetection", "")])
def test_an_unknown_name_is_told_the_nearest(tmp_path: Path, name: str, near: str) -> None:
    with pytest.raises(DatasetError) as caught:
        open_dataset(spec(name, tmp_path))
    assert f"torchvision has no classification data set called {name!r}" in str(caught.value)
    assert f"Nearest: {near}" in str(caught.value) or not near
    assert "one of Caltech101, Caltech256, CIFAR10, CIFAR100" in str(caught.value)


@pytest.fixture
def host() -> Iterator[tuple[str, dict[str, tuple[int, bytes]]]]:
    """A file host on this machine: its address, and path -> (status, body), 404 for all else."""
    files: dict[str, tuple[int, bytes]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = files.get(self.path, (404, b""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815  the name that http.server calls

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    thread.join()
    server.server_close()


def serve_cifar10(tmp_path: Path, address: str, files: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path / "source", monkeypatch)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(tmp_path / "source" / "cifar-10-batches-py", "cifar-10-batches-py")
    files["/cifar.tar.gz"] = 200, buffer.getvalue()
    monkeypatch.setattr(datasets.CIFAR10, "url", f"{address}/cifar.tar.gz")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(buffer.getvalue(), usedforsecurity=False).hexdigest())


@pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter extracted tar archives:DeprecationWarning")
def test_fetch_downloads_once_and_opening_never_does(tmp_path: Path, host, monkeypatch: pytest.MonkeyPatch) -> None:
    address, files = host
    serve_cifar10(tmp_path, address, files, monkeypatch)
    root, said = tmp_path / "data", []
    with pytest.raises(DatasetError, match="or have it downloaded there"):
        open_dataset(spec("CIFAR10", root))
    assert not root.exists()
    fetch(spec("CIFAR10", root), said.append)
    assert len(open_dataset(spec("CIFAR10", root)).examples()) == 36
    files.clear()
    fetch(spec("CIFAR10", root), said.append)
    assert said == [
        f"Downloading torchvision:CIFAR10 to {root} with torchvision",
        f"Using torchvision:CIFAR10 that is in {root}",
    ]


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        ((503, b""), DownloadError, "HTTP Error 503: Service Unavailable. Check the network and run again"),
        ((429, b""), DownloadError, "HTTP Error 429: Too Many Requests."),
        ((404, b""), DatasetError, "HTTP Error 404: Not Found. Its files are not where torchvision"),
        ((200, b"something else"), DownloadError, "RuntimeError: File not found or corrupted."),
    ],
)
def test_what_the_host_answers_decides_whether_trying_again_can_help(
    tmp_path: Path, host, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, bytes], error: type[Exception], text: str
) -> None:
    address, files = host
    serve_cifar10(tmp_path, address, files, monkeypatch)
    files["/cifar.tar.gz"] = answer
    with pytest.raises(error) as caught:
        fetch(spec("CIFAR10", tmp_path / "data"))
    assert text in str(caught.value)
    assert type(caught.value) is error


def test_no_answer_at_all_can_be_tried_again(tmp_path: Path, host, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_cifar10(tmp_path, *host, monkeypatch)
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    with pytest.raises(DownloadError, match=r"URLError: .*[Cc]onnection refused.* Check the network"):
        fetch(spec("CIFAR10", tmp_path / "data"))


def test_a_host_whose_name_does_not_resolve_is_told_with_what_lies_in_the_folder(
    tmp_path: Path, host, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_cifar10(tmp_path, *host, monkeypatch)
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://nowhere.test/cifar.tar.gz")
    monkeypatch.setattr("urllib.request.getproxies", dict)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat.png").touch()
    with (
        mock.patch("socket.getaddrinfo", side_effect=socket.gaierror(-2, "Name or service not known")),
        pytest.raises(OfflineError, match=r"Name or service not known.* Check the network .* holds .*cat\.png"),
    ):
        fetch(spec("CIFAR10", tmp_path / "data"))


def test_sets_that_nobody_gives_out_are_no_network_failures(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="StanfordCars cannot be downloaded: The original URL is broken"):
        fetch(spec("StanfordCars", tmp_path))
    with pytest.raises(DatasetError, match="torchvision does not download ImageFolder: download it yourself"):
        fetch(spec("ImageFolder", tmp_path / "nowhere"))
