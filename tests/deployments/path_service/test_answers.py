"""The path service answers what the set says of its own images, in batches and one at a time, and refuses what is no image."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from clusterpaths.config import RunConfig
from clusterpaths.explore.index import SetIndex
from clusterpaths.export.note import PATH_MODEL_KEY
from clusterpaths.monitoring.log_format import COLUMNS
from clusterpaths.preprocessing.prepare import preset_preprocessing
from tests.path_service import OPTIONS, Exported, Running, encode, export, options_table, read_log, running
from tests.runs import PROJECT, SAMPLE_MODEL
from tests.wrapped_model import SIZE, wrap

NAMES = ["Bald", "Black", "Blond", "Brown", "Gray"]


def answers(service: Running, exported: Exported, clients: int = 16) -> list[dict[str, Any]]:
    """One per example, of one request each, many at a time."""
    with ThreadPoolExecutor(clients) as pool:
        responses = list(pool.map(service.post, exported.images))
    assert {response.status_code for response in responses} == {200}
    return [response.json()["images"][0] for response in responses]


def assert_equals_the_set(found: list[dict[str, Any]], exported: Exported) -> None:
    published = exported.published
    index = SetIndex(published)
    assert [one["path"] for one in found] == published.clusters.tolist()
    assert [one["prediction"]["index"] for one in found] == published.predictions.tolist()
    assert [one["prediction"]["name"] for one in found] == [NAMES[i] for i in published.predictions.tolist()]
    np.testing.assert_allclose([one["distances"] for one in found], published.distances, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose([one["ood_score"] for one in found], published.scores.ood, rtol=1e-2, atol=1e-2)
    of_example = published.paths.counts[published.paths.of_example]
    assert [one["path_count"] for one in found] == of_example.tolist()
    percentiles = [index.ood_percentile(one["ood_score"]) for one in found]
    np.testing.assert_allclose([one["ood_percentile"] for one in found], percentiles, atol=100 / len(found) + 0.1)
    for one in found:
        top = max(range(5), key=one["probabilities"].__getitem__)
        assert one["prediction"]["index"] == top
        assert one["confidence"] == one["probabilities"][top]
        assert sum(one["probabilities"]) == pytest.approx(1)


def test_many_clients_at_once_get_what_the_set_says_of_its_images(service: Running, exported: Exported) -> None:
    assert_equals_the_set(answers(service, exported), exported)
    singles = next(s for s in samples(service, "clusterpaths_batch_images_bucket") if s.labels["le"] == "1.0")
    assert singles.value < samples(service, "clusterpaths_batch_images_count")[0].value  # some came in batches


def test_the_decision_that_the_path_predicts_is_the_reports(service: Running, exported: Exported) -> None:
    note = json.loads(
        next(one.value for one in onnx.load(str(exported.file)).metadata_props if one.key == PATH_MODEL_KEY)
    )
    assert note["predictions"] is not None
    found = answers(service, exported)
    index = SetIndex(exported.published)
    best = index.path_predictions.best[exported.published.paths.of_example]
    assert [one["path_prediction"]["index"] for one in found] == best.tolist()
    assert [one["contrary"] for one in found] == (best != exported.published.predictions).tolist()


def test_noise_is_more_unusual_than_faces(service: Running, exported: Exported) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (218, 178, 3), dtype=np.uint8)
    one = service.post(encode(Image.fromarray(noise), "PNG")).json()["images"][0]
    faces = [found["ood_percentile"] for found in answers(service, exported)]
    assert one["ood_percentile"] > np.median(faces)
    assert (one["ood_percentile"] >= 95) == (one["verdict"] != "typical")
    assert (one["path_count"] > 0) == (one["path"] in exported.published.clusters.tolist())


def test_a_form_with_several_images_gives_each_in_order(service: Running, exported: Exported) -> None:
    some = exported.images[:5]
    files = [("image", (path.name, path.read_bytes(), "image/jpeg")) for path in some]
    answer = httpx.post(f"{service.url}/predict", files=files, headers={"X-Request-ID": "order-66"}).json()
    assert (answer["set"], answer["logged"]) == ("Faces/set_01", True)
    assert [one["file"] for one in answer["images"]] == [path.name for path in some]
    assert [one["id"] for one in answer["images"]] == [f"order-66-{i}" for i in range(5)]
    assert [one["image"] for one in answer["images"]] == [hashlib.sha256(p.read_bytes()).hexdigest() for p in some]
    assert [one["path"] for one in answer["images"]] == exported.published.clusters[:5].tolist()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_formats_and_modes_are_decoded_as_the_library_decodes_them(
    kind: str, mode: str, service: Running, exported: Exported, tmp_path: Path
) -> None:
    """The library's pixels through the service as a PNG without loss, and the file itself: the same answer."""
    from clusterpaths.datasets.decode import open_rgb

    with Image.open(exported.images[3]) as face:
        content = encode(face.convert(mode), kind)
    (tmp_path / "file").write_bytes(content)
    plain = encode(open_rgb(tmp_path / "file"), "PNG")
    one, other = (service.post(each).json()["images"][0] for each in (content, plain))
    assert {key: one[key] for key in ("path", "distances", "probabilities")} == {
        key: other[key] for key in ("path", "distances", "probabilities")
    }


def test_an_image_lying_on_its_side_is_turned_by_its_exif_as_explain_does(service: Running, exported: Exported) -> None:
    with Image.open(exported.images[0]) as face:
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = encode(face.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif.tobytes())
        upright = encode(face, "PNG")
    assert [service.post(each).json()["images"][0]["path"] for each in (turned, upright)] == [
        exported.published.clusters[0].tolist()
    ] * 2


def test_it_says_what_it_serves(service: Running, exported: Exported) -> None:
    found, record = service.get("/").json(), exported.published.record
    assert (found["set"], found["fingerprint"]) == ("Faces/set_01", record.fingerprint)
    assert (found["sha256"], found["layers"]) == (record.model.sha256, list(record.layers))
    assert found["classes"] == NAMES
    assert found["preprocessing"]["size"] == [64, 64]
    assert service.get("/health").json() == {"status": "ready", "log": "writing", "queue": 0}
    assert service.get("/health/live").json() == {"status": "live"}
    assert service.get("/docs").status_code == 200
    document = service.get("/openapi.json").json()
    assert set(document["paths"]) == {"/", "/predict", "/health", "/health/live", "/health/ready", "/metrics"}
    assert set(document["paths"]["/predict"]["post"]["requestBody"]["content"]) == {"image/*", "multipart/form-data"}


def samples(service: Running, name: str) -> list[Any]:
    families = text_string_to_metric_families(service.get("/metrics").text)
    return [sample for family in families for sample in family.samples if sample.name == name]


def value(service: Running, name: str, **labels: str) -> float:
    return sum(s.value for s in samples(service, name) if labels.items() <= s.labels.items())


def test_metrics_count_what_was_answered(service: Running, exported: Exported) -> None:
    names = ("images_total", "log_rows_total", "ood_percentile_count", "unseen_paths_total")
    before = {name: value(service, f"clusterpaths_{name}") for name in names}
    refused = value(service, "clusterpaths_requests_total", status="415")
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    unseen = service.post(encode(Image.fromarray(noise), "PNG")).json()["images"][0]["path_count"] == 0
    service.post(exported.images[0])
    service.post(b"hello")
    after = {name: value(service, f"clusterpaths_{name}") for name in names}
    grown = {name: after[name] - before[name] for name in names}
    assert grown == {"images_total": 2, "log_rows_total": 2, "ood_percentile_count": 2, "unseen_paths_total": unseen}
    assert value(service, "clusterpaths_requests_total", status="415") == refused + 1
    assert value(service, "clusterpaths_log_ok") == 1
    stages = {s.labels["stage"] for s in samples(service, "clusterpaths_stage_seconds_count") if s.value}
    assert stages == {"read", "decode", "queue", "model", "log", "total"}
    assert samples(service, "clusterpaths_path_model")[0].labels["set"] == "Faces/set_01"


def test_predictions_are_in_the_sets_order_of_classes(photos: Path, tmp_path: Path) -> None:
    """Of a model whose outputs are in another order: answers, probabilities, and the log."""
    model = wrap(tmp_path / "order.onnx", preset_preprocessing("imagenet", SIZE), (3, 0, 4, 1, 2))
    config = RunConfig(
        model=model, data_root=photos.parent, cache_root=tmp_path, name="Faces", layers=("fc1", "fc2"), subset=200,
        evaluate=False,
    )  # fmt: skip
    exported = export(config, photos, tmp_path / "paths.onnx")
    assert exported.published.record.meaning.order == (3, 0, 4, 1, 2)
    with running(tmp_path / "out", exported.file, "--log-dir", tmp_path / "log") as service:
        found = answers(service, exported)
        assert service.get("/").json()["classes"] == NAMES
        assert_equals_the_set(found, exported)
        assert service.stop() == 0
    rows = read_log(tmp_path / "log")
    of = dict(zip(rows["id"].to_pylist(), rows["prediction"].to_pylist(), strict=True))
    assert [of[one["id"]] for one in found] == exported.published.predictions.tolist()
    labels = exported.published.labels
    assert np.mean([one["prediction"]["index"] for one in found] == labels) > 0.95


@pytest.mark.parametrize("batch", [1, 4])
def test_a_path_model_with_a_fixed_batch_answers_the_same(batch: int, exported: Exported, tmp_path: Path) -> None:
    """Batches of one size only; the last one is filled up."""
    proto = onnx.load(str(exported.file))
    for entry in (*proto.graph.input, *proto.graph.output):
        entry.type.tensor_type.shape.dim[0].dim_value = batch
    fixed = tmp_path / "fixed.onnx"
    onnx.save(proto, str(fixed))
    with running(tmp_path / "out", fixed) as service:
        found = answers(service, exported)
    assert_equals_the_set(found, exported)


def test_an_output_that_is_not_finite_is_refused_for_that_image_alone(exported: Exported, tmp_path: Path) -> None:
    """Of a path model whose OOD score is the root of the real one: NaN where that is negative."""
    proto = onnx.load(str(exported.file))
    node = next(node for node in proto.graph.node if "ood_score" in node.output)
    node.output[0] = "real_score"
    proto.graph.node.append(onnx.helper.make_node("Sqrt", ["real_score"], ["ood_score"]))
    onnx.save(proto, str(tmp_path / "root.onnx"))
    words = ("--log-dir", tmp_path / "log", "--max-wait-ms", "50")
    with running(tmp_path / "out", tmp_path / "root.onnx", *words) as service, ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(service.post, exported.images))
        service.stop()
    negative = exported.published.scores.ood < 0
    assert 0 < negative.sum() < len(negative)
    assert [response.status_code for response in responses] == np.where(negative, 422, 200).tolist()
    assert "not finite" in responses[int(negative.argmax())].json()["detail"]
    assert read_log(tmp_path / "log").num_rows == (~negative).sum()


def test_a_model_without_classes_has_no_prediction(photos: Path, tmp_path: Path) -> None:
    config = RunConfig(
        model=SAMPLE_MODEL, data_root=photos.parent, cache_root=tmp_path, name="Faces", layers=("fc2",), subset=60,
        logits="none", evaluate=False,
    )  # fmt: skip
    exported = export(config, photos, tmp_path / "paths.onnx")
    with running(tmp_path / "out", exported.file, "--log-dir", tmp_path / "log") as service:
        one = service.post(exported.images[0]).json()["images"][0]
        assert service.get("/").json()["classes"] == []
        service.stop()
    assert one["path"] == exported.published.clusters[0].tolist()
    assert (one["prediction"], one["confidence"], one["probabilities"]) == (None, None, [])
    assert (one["path_prediction"], one["contrary"]) == (None, False)
    (row,) = read_log(tmp_path / "log").to_pylist()
    assert row["prediction"] == -1
    assert np.isnan(row["confidence"])


def test_without_a_log_the_answer_says_so(exported: Exported, tmp_path: Path) -> None:
    with running(tmp_path / "out", exported.file) as service:
        assert service.post(exported.images[0]).json()["logged"] is False
        assert service.get("/health").json()["log"] == "none"


def test_options_are_read_from_the_environment(exported: Exported, tmp_path: Path) -> None:
    environment = {"CLUSTERPATHS_SERVICE_MODEL": str(exported.file), "CLUSTERPATHS_SERVICE_MAX_IMAGES": "3"}
    with running(tmp_path / "out", **environment) as service:
        assert service.get("/").json()["max_images"] == 3


def test_nothing_heavy_is_imported() -> None:
    """onnxruntime and numpy are the numeric stack."""
    code = (
        "import sys, deployments.path_service.__main__; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    loaded = set(shown.stdout.split())
    assert {"onnxruntime", "numpy", "fastapi", "pyarrow"} <= loaded
    assert (
        loaded & {"torch", "sklearn", "scipy", "prefect", "zarr", "onnx", "pandas", "jinja2", "tasks", "flows"} == set()
    )


def test_the_documentation_shows_the_options_and_the_answers_fields(service: Running, exported: Exported) -> None:
    page = (PROJECT / "docs" / "path_service.md").read_text()
    found = OPTIONS.search(page)
    assert found is not None
    assert found[2] == options_table(), "run python -m tests.path_service"
    (shown,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    answer = service.post(exported.images[0]).json()
    assert list(json.loads(shown)) == list(answer)
    assert list(json.loads(shown)["images"][0]) == list(answer["images"][0])
    columns = re.findall(r"^\| `(\w+)` \| (?:timestamp|string|list|float|int)", page, re.M)
    assert columns == COLUMNS.names
    metrics = page.partition("## Metrics")[2].partition("## Options")[0]
    families = text_string_to_metric_families(service.get("/metrics").text)
    names = {f"{one.name}_total" if one.type == "counter" else one.name for one in families}
    named = set(re.findall(r"`(clusterpaths_\w+)`", metrics))
    assert named == {name for name in names if name.startswith("clusterpaths_") and not name.endswith("_created")}
