"""What the service logs is what the monitor reads: the same windows as of the images themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.export.path_model import export_path_model
from clusterpaths.monitoring.config import MonitorConfig
from clusterpaths.monitoring.monitor import check_once, watch
from clusterpaths.monitoring.series import Series
from clusterpaths.sets.published import open_set
from tests.path_service import log_files, running
from tests.runs import SAMPLE_MODEL
from tests.watched import cache, made  # noqa: F401 - fixtures

NEW = 60


def test_a_log_of_the_service_gives_the_same_window_as_its_images(cache: Path, tmp_path: Path) -> None:  # noqa: F811
    published = open_set(cache / "Faces" / "set_01")
    export_path_model(published, SAMPLE_MODEL, tmp_path / "paths.onnx")
    images = sorted(write_faces(tmp_path / "new", NEW, seed=8).glob("**/*.jpg"))
    with running(tmp_path / "out", tmp_path / "paths.onnx", "--log-dir", tmp_path / "log") as service:
        for number, image in enumerate(images):
            assert service.post(image, X_Request_ID=f"first-{number}").json()["logged"]
        assert service.post(images[0], X_Request_ID="first-0").status_code == 200  # a retry
        assert service.stop() == 0
    assert log_files(tmp_path / "log")
    given = {"reference": "Faces", "cache_root": str(cache)}
    of_log = check_once(MonitorConfig(**given, logs=str(tmp_path / "log")))
    of_images = check_once(MonitorConfig(**given, data_root=str(images[0].parent)))
    assert (of_log.num_images, of_log.duplicates) == (NEW, 1)
    assert of_log.layers == of_images.layers
    assert [(one.index, one.window) for one in of_log.classes] == [(one.index, one.window) for one in of_images.classes]
    assert of_log.ood is not None
    assert of_images.ood is not None
    np.testing.assert_allclose(of_log.ood.window, of_images.ood.window, atol=1e-3)
    assert of_log.drifted == of_images.drifted
    (window,) = watch(MonitorConfig(**given, logs=str(tmp_path / "log"), series="service", window=str(NEW)))
    assert Series(published, "service").rows(1).names[0] == "first-0-0"
    assert window.num_images == NEW
