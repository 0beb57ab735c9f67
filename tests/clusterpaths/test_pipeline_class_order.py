"""A model without class names whose classes are in another order than the data set's: from the check to the pages."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from clusterpaths.cache.predictions import are_stored
from clusterpaths.config import RunConfig
from clusterpaths.datasets.decode import open_rgb
from clusterpaths.explanation.explain import explain_image
from clusterpaths.explore.index import SetIndex, right_share
from clusterpaths.export.path_model import export_path_model
from clusterpaths.models.class_names import CLASSES_KEY
from clusterpaths.preprocessing.prepare import fit, normalise, preset_preprocessing
from clusterpaths.sets.published import PublishedSet, open_set
from tests.runs import Run, run_pipeline
from tests.wrapped_model import SIZE, wrap

NAMES = ("Bald", "Black", "Blond", "Brown", "Gray")
ORDER = (3, 0, 4, 1, 2)  # class of each output


@pytest.fixture
def options(photos: Path, tmp_path: Path) -> dict[str, Any]:
    """200 faces with their hair colours, and the sample model with its outputs in another order, without names."""
    model = wrap(tmp_path / "order.onnx", preset_preprocessing("imagenet", SIZE), ORDER)
    return {"model": model, "data_root": photos.parent, "cache_root": tmp_path, "name": "faces", "layers": "fc1,fc2",
            "subset": 200, "evaluate": False}  # fmt: skip


def run(**options: Any) -> Run:
    return run_pipeline(RunConfig(**options))


def right(found: PublishedSet) -> float:
    index = SetIndex(found)
    share = right_share(index, np.arange(found.num_examples))
    assert share is not None
    assert share.share is not None
    return share.share


def test_the_order_is_found_and_used_everywhere(options: dict[str, Any], photos: Path, tmp_path: Path) -> None:
    made = run(**options)
    found = open_set(made.folder)
    warned = [line for line in made.log if line.startswith("WARNING") and "another order than the data set's" in line]
    assert len(warned) == 1
    assert found.record.outputs is not None
    assert found.record.outputs.order == ORDER
    assert found.record.class_names == NAMES
    assert "Brown, Bald, Gray, Black, Blond" in found.record.about_class_names
    assert right(found) > 0.95
    assert found.record.about_class_names in html.unescape((made.folder / "report.html").read_text())

    # the stored predictions are by the outputs' own index, also where the first rows would be the same in another order
    same_there = found.record.outputs.model_copy(update={"order": tuple(range(5))})
    assert not are_stored(found.cache, same_there)
    assert are_stored(found.cache, found.record.outputs.model_copy(update={"order": ()}))

    # ONNX Runtime is the judge of one image's class, under the name that its order gives it
    example = int(np.flatnonzero(found.labels == 3)[0])
    image = photos / found.files[example].as_py()
    rows = onnxruntime.InferenceSession(str(options["model"])).run(
        ["logits"],
        {"input": normalise(fit(open_rgb(image), found.record.preprocessing)[None], found.record.preprocessing)},
    )[0]
    shares = np.exp(rows[0]) / np.exp(rows[0]).sum()
    expected = {NAMES[ORDER[output]]: share for output, share in enumerate(shares.tolist())}
    assert max(expected, key=expected.__getitem__) == "Brown"
    shown = {one.name: one.share for one in SetIndex(found).top_scores(example)}
    assert shown == pytest.approx(expected, abs=1e-4)
    explained = explain_image(image, found, options["model"])
    assert {one.name: one.probability for one in explained.classes} == pytest.approx(expected, abs=1e-4)

    # the path model's outputs stay in the model's own order, and so do the names in its metadata
    export_path_model(found, options["model"], tmp_path / "path_model.onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(str(tmp_path / "path_model.onnx")).metadata_props}
    assert json.loads(metadata[CLASSES_KEY]) == [NAMES[label] for label in ORDER]


def test_without_the_check_the_names_are_said_to_be_assumed_and_with_it_nothing_is_extracted_again(
    options: dict[str, Any],
) -> None:
    made = run(**options, check_preprocessing=False)
    assumed = open_set(made.folder)
    assert assumed.record.class_names == NAMES
    assert "its own order, which was not checked" in assumed.record.about_class_names
    assert assumed.record.about_class_names in html.unescape((made.folder / "report.html").read_text())
    assert right(assumed) < 0.5
    again = run(**options)
    found = open_set(again.folder)
    assert found.record.set != assumed.record.set
    assert right(found) > 0.95
    assert not any("to extract in" in line and "0 to extract" not in line for line in again.log)
    back = run(**options, check_preprocessing=False)
    assert open_set(back.folder).record.set == assumed.record.set


def test_names_that_the_model_has_are_its_own(options: dict[str, Any]) -> None:
    proto = onnx.load(str(options["model"]))
    onnx.helper.set_model_props(proto, {CLASSES_KEY: json.dumps([NAMES[label] for label in ORDER])})
    onnx.save(proto, str(options["model"]))
    found = open_set(run(**options).folder)
    assert found.record.outputs is not None
    assert found.record.outputs.order == ()
    assert found.record.about_class_names == ""
    assert found.record.class_names == tuple(NAMES[label] for label in ORDER)


def test_an_order_that_is_unclear_leaves_numbers(options: dict[str, Any], tmp_path: Path) -> None:
    """The fifth output is the fourth one again: no example goes to it, so nothing says what it stands for."""
    options["model"] = wrap(tmp_path / "twice.onnx", preset_preprocessing("imagenet", SIZE), (3, 0, 4, 1, 1))
    made = run(**options)
    found = open_set(made.folder)
    assert (found.record.class_names, found.record.label_names) == ((), NAMES)
    assert found.record.class_name(0) == "class 0"
    assert "named by numbers" in found.record.about_class_names
    assert any(line.startswith("WARNING") and "named by numbers" in line for line in made.log)
    assert (SetIndex(found).right == -1).all()
