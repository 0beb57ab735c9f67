"""What the path service refuses, each with one paragraph: bad images, too much at once, mistakes at the start."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest
from fastapi import HTTPException
from PIL import Image

from clusterpaths.export.note import PATH_MODEL_KEY
from deployments.path_service.admission import Admission
from tests.path_service import Exported, Running, encode, launch, read_log, running
from tests.runs import PROJECT, SAMPLE_MODEL


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there many times: each is decoded over the complete image."""
    content = encode(Image.new("RGB", (64, 64), (9, 200, 40)), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * count + content[-2:]


BAD: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 422, "The file is empty"),
    "text": (b"hello", 415, "are not an image of a supported format"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", 415, "Expected JPEG, PNG, WebP, BMP or GIF"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "are not an image"),
    "truncated": (encode(Image.new("RGB", (300, 300), (9, 200, 40)), "PNG")[:200], 422, "corrupted or truncated"),
    "too many pixels": (encode(Image.new("1", (5100, 5000)), "PNG"), 413, "Expected at most 25 million"),
    "a bomb": (encode(Image.new("1", (20_000, 20_000)), "PNG"), 413, "pixels"),
    "a JPEG of many scans": (many_scans(300), 413, "has 310 scans"),
    "too many bytes": (b"\xff\xd8\xff" + bytes(1_200_000), 413, "at most 1.1 MB"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_refused_with_one_paragraph(name: str, service: Running) -> None:
    content, status, text = BAD[name]
    response = service.post(content)
    assert (response.status_code, list(response.json())) == (status, ["detail"])
    assert text in response.json()["detail"]
    assert "\n" not in response.json()["detail"]


def chunked(content: bytes) -> Iterator[bytes]:
    for at in range(0, len(content), 65_536):
        yield content[at : at + 65_536]


def test_a_body_that_does_not_say_its_length_is_limited_too(service: Running, exported: Exported) -> None:
    response = httpx.post(f"{service.url}/predict", content=chunked(bytes(1_200_000)))
    assert (response.status_code, "at most" in response.json()["detail"]) == (413, True)
    image = exported.images[0].read_bytes()
    assert httpx.post(f"{service.url}/predict", content=chunked(image)).status_code == 200


FORMS: dict[str, tuple[dict[str, Any], int, str]] = {
    "another field": ({"files": {"photo": b"x"}}, 422, "'photo' is no image"),
    "a text": ({"files": {"image": (None, "text")}}, 422, "'image' is no image"),
    "no boundary": ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 422, "boundary"),
    "garbage": (
        {"content": b"garbage", "headers": {"Content-Type": "multipart/form-data; boundary=a"}},
        422,
        "the form",
    ),
    "too many": ({"files": [("image", (f"{i}.jpg", b"x")) for i in range(33)]}, 413, "more than 32 images"),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_without_images_is_refused(name: str, service: Running) -> None:
    given, status, text = FORMS[name]
    response = httpx.post(f"{service.url}/predict", **given)
    assert (response.status_code, text in response.json()["detail"]) == (status, True), response.text


def test_of_several_images_a_bad_one_is_named_and_none_is_logged(service: Running, exported: Exported) -> None:
    files = [
        ("image", ("a.jpg", exported.images[0].read_bytes())),
        ("image", ("/home/of/somebody/b.jpg", b"hello")),
    ]
    response = httpx.post(f"{service.url}/predict", files=files, headers={"X-Request-ID": "one-is-bad"})
    assert response.status_code == 415
    assert response.json()["detail"].startswith("Image 2 of 2 (b.jpg): ")
    service.post(exported.images[0], X_Request_ID="after-it")
    log = service.output.parent / "log"
    wait(lambda: "after-it-0" in (read_log(log)["id"].to_pylist() if list(log.glob("*.parquet")) else []))
    assert not [one for one in read_log(log)["id"].to_pylist() if one.startswith("one-is-bad")]


def wait(ready: Any) -> None:

    deadline = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_request_id_is_checked(service: Running, exported: Exported) -> None:
    for bad in ("a b", "x" * 101, "a,b"):
        response = service.post(exported.images[0], X_Request_ID=bad)
        assert (response.status_code, "X-Request-ID" in response.json()["detail"]) == (422, True)


def test_more_than_it_takes_is_answered_with_503_and_when_to_come_back(exported: Exported, tmp_path: Path) -> None:
    words = ("--max-pending", "2", "--max-wait-ms", "300", "--max-batch", "64")
    with running(tmp_path / "out", exported.file, *words) as service:
        with ThreadPoolExecutor(8) as pool:
            responses = list(pool.map(service.post, exported.images[:8]))
        statuses = [response.status_code for response in responses]
        assert set(statuses) == {200, 503}
        busy = responses[statuses.index(503)]
        assert busy.headers["Retry-After"] == "1"
        assert "--max-pending 2" in busy.json()["detail"]
        assert service.post(exported.images[0]).status_code == 200


def test_images_are_bounded_too_not_only_requests_and_bytes() -> None:
    admission = Admission(4, 1000)
    alone = admission.hold(9)  # whatever it is
    with alone, pytest.raises(HTTPException) as refused, admission.hold(1):
        pass
    assert (refused.value.status_code, "9 images are being answered" in refused.value.detail) == (503, True)
    with admission.hold(3), admission.hold(1):
        assert admission.images == 4
    assert admission.images == 0


def test_memory_stays_bounded_under_large_images(exported: Exported, tmp_path: Path) -> None:
    """Thirty images of 24 megapixels at once: 72 MB each decoded, and no more of them in memory than are decoded at a time."""
    import psutil

    large = encode(Image.effect_noise((6000, 4000), 2).convert("RGB").quantize(2), "PNG")
    with running(tmp_path / "out", exported.file, "--decode-threads", "1") as service:
        service.post(large)
        before = psutil.Process(service.process.pid).memory_info().rss
        with ThreadPoolExecutor(30) as pool:
            assert {r.status_code for r in pool.map(service.post, [large] * 30)} == {200}
            peak = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{service.process.pid}/status").read_text())[1]) << 10  # type: ignore[index]
    print(f"{before >> 20} MB, at most {peak >> 20} MB")
    assert peak < 1 << 30


REFUSED: dict[str, tuple[list[str], dict[str, str], str]] = {
    "no model": ([], {}, "MODEL is missing"),
    "no file": (["/no/such.onnx"], {}, "There is no path model /no/such.onnx"),
    "the classifier": ([str(SAMPLE_MODEL)], {}, "is not a path model"),
    "no ONNX": ([str(PROJECT / "README.md")], {}, "cannot load"),
    "an unknown option": ([str(SAMPLE_MODEL), "--max-bach", "3"], {}, "--max-bach"),
    "a value out of range": ([str(SAMPLE_MODEL), "--max-batch", "0"], {}, "--max-batch should be greater than"),
    "an unknown variable": ([str(SAMPLE_MODEL)], {"CLUSTERPATHS_SERVICE_MAX_BACH": "3"}, "is no option of the path"),
    "a wrong variable": ([str(SAMPLE_MODEL)], {"CLUSTERPATHS_SERVICE_LOG_ROWS": "0"}, "--log-rows should be greater"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_at_the_start_is_one_paragraph(name: str, tmp_path: Path) -> None:
    words, environment, text = REFUSED[name]
    found = launch(tmp_path / "out", *words, **environment)
    found.client.close()
    assert (found.process.wait(60), text in found.said()) == (2, True), found.said()
    assert found.said().count("error:") == 1
    assert "Traceback" not in found.said()


def test_a_path_model_of_an_earlier_version_is_refused(exported: Exported, tmp_path: Path) -> None:
    proto = onnx.load(str(exported.file))
    for entry in proto.metadata_props:
        if entry.key == PATH_MODEL_KEY:
            note = json.loads(entry.value)
            entry.value = json.dumps({key: note[key] for key in note if key not in ("meaning", "reference")})
    onnx.save(proto, str(tmp_path / "old.onnx"))
    found = launch(tmp_path / "out", tmp_path / "old.onnx")
    found.client.close()
    assert found.process.wait(60) == 2
    assert "Export it again" in found.said()
