"""The path service's image: it holds what the service needs and nothing heavy. Nothing is built: that needs an engine."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import httpx
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from clusterpaths.config import RunConfig
from clusterpaths.datasets.drawn_faces.draw import write_faces
from deployments.path_service.__main__ import require_known
from tests.path_service import export, logged_ids, running
from tests.runs import PROJECT, SAMPLE_MODEL

FOLDER = PROJECT / "deployments" / "path_service"
HEAVY = {"torch", "torchvision", "scikit-learn", "scipy", "prefect", "zarr", "onnx", "pandas", "plotly"}


def required() -> set[str]:
    """Names of the packages in requirements.txt."""
    lines = (line.partition("#")[0].strip() for line in (FOLDER / "requirements.txt").read_text().splitlines())
    return {canonicalize_name(line) for line in lines if line}


def closure() -> set[str]:
    """With what they depend on, here."""
    found: set[str] = set()
    waiting = list(required())
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        needs = (Requirement(text) for text in distribution(name).requires or ())
        waiting += [canonicalize_name(n.name) for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]
    return found


def test_no_heavy_package_is_required_and_each_is_pinned() -> None:
    assert closure() & HEAVY == set()
    pins = re.findall(r"^([\w.-]+)==", (PROJECT / "constraints.txt").read_text(), re.M)
    assert closure() - {canonicalize_name(name) for name in pins} == set()


BLOCK = """
import json, os, sys

class Block:
    names = set(json.loads(os.environ["BLOCKED"]))

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)

sys.meta_path.insert(0, Block())
"""


def test_it_serves_with_the_images_packages_only(tmp_path: Path) -> None:
    """In the directories that the image copies, where every module of another package is missing."""
    photos = write_faces(tmp_path / "photos", 60, seed=5) / "img_align_celeba"
    config = RunConfig(
        model=SAMPLE_MODEL, data_root=photos.parent, cache_root=tmp_path / "cache", name="Faces", layers=("fc2",), k="3",
        evaluate=False,
    )  # fmt: skip
    exported = export(config, photos, tmp_path / "paths.onnx")
    app = tmp_path / "app"
    for name in copied():
        source, target = PROJECT / name, app / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target, dirs_exist_ok=True) if source.is_dir() else shutil.copy(source, target)
    (app / "sitecustomize.py").write_text(BLOCK)
    allowed = closure()
    blocked = [
        top
        for top, packages in packages_distributions().items()
        if not {canonicalize_name(package) for package in packages} & allowed and top not in sys.stdlib_module_names
    ]
    assert {"torch", "sklearn", "prefect", "onnx", "pytest"} <= set(blocked)
    blocked.remove("clusterpaths") if "clusterpaths" in blocked else None
    environment = {"BLOCKED": json.dumps(blocked), "PYTHONPATH": str(app)}
    with running(tmp_path / "out", exported.file, "--log-dir", tmp_path / "log", cwd=app, **environment) as service:
        content = exported.images[0].read_bytes()
        assert service.post(content).json()["images"][0]["path"] == exported.published.clusters[0].tolist()
        form = httpx.post(f"{service.url}/predict", files={"image": content})
        assert form.json()["images"][0]["path"] == exported.published.clusters[0].tolist()
        assert service.post(b"no image").status_code == 415
        assert {service.get(page).status_code for page in ("/", "/metrics", "/openapi.json", "/health")} == {200}
        assert service.stop() == 0
    assert len(logged_ids(tmp_path / "log")) == 2


def dockerfile() -> list[str]:
    return (FOLDER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()


def copied() -> list[str]:
    return [name for line in dockerfile() if line.startswith("COPY ") for name in line.split()[1:-1]]


def environment_of_image() -> dict[str, str]:
    lines = [line.removeprefix("ENV ") for line in dockerfile() if line.startswith("ENV ")]
    return dict(word.split("=", 1) for line in lines for word in shlex.split(line))


def test_what_the_image_sets_are_options() -> None:
    found = environment_of_image()
    assert found["CLUSTERPATHS_SERVICE_HOST"] == "0.0.0.0"
    require_known(found)
    (command,) = (json.loads(line.removeprefix("CMD ")) for line in dockerfile() if line.startswith("CMD "))
    assert command == ["python", "-m", "deployments.path_service"]
    assert any(line.startswith("USER ") for line in dockerfile())


def test_the_compose_service_mounts_its_log_and_waits_longer_than_its_grace() -> None:
    from deployments.path_service.settings import ServiceConfig

    compose = yaml.safe_load((PROJECT / "deployments" / "compose.yaml").read_text())
    service, worker = compose["services"]["path-service"], compose["services"]["worker"]
    mounted = dict(volume.split(":")[:2] for volume in service["volumes"])
    assert mounted["predictions"] == environment_of_image()["CLUSTERPATHS_SERVICE_LOG_DIR"]
    assert "predictions" in {volume.split(":")[0] for volume in worker["volumes"]} & set(compose["volumes"])
    require_known(service["environment"])
    assert int(service["stop_grace_period"].removesuffix("s")) > ServiceConfig().grace
