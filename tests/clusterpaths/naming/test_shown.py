"""Names in the report, in CSV, in the path model; and of a set in object storage. Explanations: tests of explanation/."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import onnx
import pytest

from clusterpaths.config import RunConfig
from clusterpaths.explanation.explain import explain_image
from clusterpaths.explore.ask import ask_csv
from clusterpaths.explore.records import Question
from clusterpaths.export.note import PATH_MODEL_KEY
from clusterpaths.export.path_model import export_path_model
from clusterpaths.naming.annotations import ANNOTATIONS, edit
from clusterpaths.naming.resolve import all_path_names, names_of
from clusterpaths.pipeline import run
from clusterpaths.report.explanation import explanation_page, print_explanation
from clusterpaths.sets.published import PublishedSet
from tests.runs import SAMPLE_MODEL
from tests.server.made import draw_faces


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedSet:
    """A set of drawn faces with names by a person: of fc2's cluster 0, and of the most frequent path."""
    root = tmp_path_factory.mktemp("names")
    found = run(
        RunConfig(
            model=SAMPLE_MODEL,
            data_root=draw_faces(root / "data"),
            cache_root=root / "cache",
            workers=1,
            evaluate=False,
        )
    ).published
    assert found
    edit(found, "fc2/0", name="a name <of its own>", note="and a note", by="Ada")
    edit(found, frequent(found), name="the main road")
    return found


def frequent(published: PublishedSet) -> str:
    return "-".join(map(str, published.paths.paths[0].tolist()))


def test_the_report_has_every_name(published: PublishedSet) -> None:
    text = Path(published.report()).read_text()
    assert "<strong>a name &lt;of its own&gt;</strong> <small>by Ada</small><br>and a note" in text
    assert '<p class="named">the main road</p>' in text
    for layer in names_of(published.index).clusters[:-1]:
        for name in layer:
            if name.text not in ("", "empty"):
                assert f"<strong>{name.text}</strong>" in text


def test_csv_has_a_column_of_path_names(published: PublishedSet) -> None:
    index = published.index
    names = all_path_names(names_of(index), index)
    text = "".join(ask_csv(index, Question(), names))
    rows = list(csv.DictReader(io.StringIO(text)))
    way = {row["path_name"] for row in rows if "-".join(row[layer] for layer in index.layers) == frequent(published)}
    assert way == {"the main road"}
    assert len(rows) == len(index)
    assert "path_name" not in "".join(ask_csv(index, Question()))  # without names, the columns are as before


def test_the_path_model_has_the_names_in_its_metadata(published: PublishedSet, tmp_path: Path) -> None:
    export_path_model(published, SAMPLE_MODEL, tmp_path / "paths.onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "paths.onnx").metadata_props}
    names = json.loads(metadata[PATH_MODEL_KEY])["names"]
    assert names["fc2/0"] == "a name <of its own>"
    assert names[frequent(published)] == "the main road"
    assert set(names) >= {f"conv1/{c}" for c in range(5) if names_of(published.index).cluster("conv1", c).text}


def test_an_explanation_reads_the_path_in_words(published: PublishedSet) -> None:
    index = published.index
    row = int(index.on_path(0)[0])
    image = Path(published.record.data_root) / "celeba" / "img_align_celeba" / index.file(row)
    if not image.is_file():
        image = next(Path(published.record.data_root).rglob(index.file(row)))
    found = explain_image(image, published, SAMPLE_MODEL)
    assert found.path_name == "the main road"
    assert [one.name for one in found.layers] == [
        names_of(index).cluster(at, cluster).text for at, cluster in enumerate(found.path)
    ]
    text = io.StringIO()
    print_explanation(found, text)
    assert "In words     the main road" in text.getvalue()

    def unread(file: str) -> None:
        raise FileNotFoundError(file)

    from PIL import Image

    page = explanation_page(found, Image.new("RGB", (8, 8)), unread)  # type: ignore[arg-type]
    assert '<p class="named">the main road</p>' in page


def test_the_clustering_knows_nothing_of_names(published: PublishedSet) -> None:
    documents = {
        path.name: path.read_bytes() for path in published.path.iterdir() if path.suffix in (".json", ".parquet")
    }
    edit(published, "fc2/1", name="one more")
    after = {name: (published.path / name).read_bytes() for name in documents}
    assert {name for name in documents if after[name] != documents[name]} == {ANNOTATIONS}


def test_names_in_object_storage_are_shared_between_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore", reason="needs the extra [s3]")
    pytest.importorskip("moto", reason="needs moto's server")
    from clusterpaths.errors import EditConflictError
    from clusterpaths.naming.annotations import read_annotations
    from clusterpaths.sets.published import open_set
    from tests.clusterpaths.explore.small import write_small
    from tests.storage import BUCKET, running_storage

    made = write_small(tmp_path / "made")
    with running_storage(tmp_path, tmp_path / "mirror") as storage:
        for path in made.iterdir():
            storage.client().upload_file(str(path), BUCKET, f"results/Small/set_01/{path.name}")
        folder = f"s3://{BUCKET}/results/Small/set_01"
        edit(open_set(folder), "b/1", name="dogs", by="Ada")
        monkeypatch.setenv("CLUSTERPATHS_MIRROR", str(tmp_path / "another machine"))
        other = open_set(folder)
        with pytest.raises(EditConflictError, match="it is now 'dogs', by Ada"):
            edit(other, "b/1", name="wolves")
        edit(other, "b/2", name="cats")
        assert [one.name for one in read_annotations(other).entries] == ["dogs", "cats"]
