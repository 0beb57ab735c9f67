"""Names of data sets, and data sets of other packages: really installed ones, in a folder on sys.path."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clusterpaths.datasets import clear_caches, open_dataset, read_table
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.datasets.fingerprint import fingerprint
from clusterpaths.datasets.registry import SOURCES, fetch, find_source, known_names
from clusterpaths.errors import DatasetError
from clusterpaths.records import DatasetSpec

DOCS = Path(__file__).parents[3] / "docs" / "datasets.md"

GOOD = """
import numpy as np
from pathlib import Path
from PIL import Image
from clusterpaths.datasets import ExampleTable

class Two:
    name, notes = "whatever", ("Two images.",)
    def __init__(self, spec):
        self.root = Path(spec.root)
    def examples(self):
        return ExampleTable(np.arange(2), ("a", "b"), np.ones(2, np.int64), ("",) * 2, np.full(2, -1, np.int16))
    def read_image(self, file):
        if file not in "ab":
            raise FileNotFoundError(2, "no such image", file)
        return Image.new("RGB", (4, 4), {"a": "red", "b": "blue"}[file])
    def digest(self, file):
        return ord(file)
"""


def install(
    monkeypatch: pytest.MonkeyPatch, site: Path, code: str, name: str = "two", of: str = "Two", package: str = ""
) -> None:
    """Install a package that offers one data set, as pip would leave it on disk."""
    package = package or f"pkg_{re.sub(r'[^a-z0-9]', '_', site.name.lower())}"
    info = site / f"{package}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[clusterpaths.datasets]\n{name} = {package}:{of}\n")
    (site / f"{package}.py").write_text(code)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, package, raising=False)
    clear_caches()


def spec(name: str, root: Path | str = "somewhere") -> DatasetSpec:
    return DatasetSpec(name=name, root=str(root))


def test_builtin_names_and_which_need_a_root() -> None:
    assert known_names()[:5] == ("celeba", "folder", "torchvision:NAME", "arrays", "faces")
    assert {source.name for source in SOURCES if source.needs_root} == {"folder", "arrays"}
    assert find_source("torchvision:CIFAR10") is find_source("torchvision:MNIST")
    assert all(source.description for source in SOURCES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "celebA",
            "There is no data set called 'celebA'. Expected one of: celeba, folder, torchvision:NAME, arrays, faces",
        ),
        ("foldr", "Nearest: folder."),
        ("arrays:x", "There is no data set called 'arrays:x'"),
        ("torchvision", "'torchvision' does not name one of torchvision's data sets"),
        ("torchvision:", "Expected torchvision:NAME, such as torchvision:CIFAR10"),
        ("", "There is no data set called ''"),
    ],
)
def test_an_unknown_name_is_told_what_there_is(name: str, expected: str) -> None:
    with pytest.raises(DatasetError) as caught:
        open_dataset(spec(name))
    assert expected in str(caught.value)


def test_a_spec_with_labels_is_another_data_set_than_without(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "x.csv").write_text("a.png,cat\n")
    plain, labelled = (
        spec("folder", tmp_path),
        DatasetSpec(name="folder", root=str(tmp_path), labels=str(tmp_path / "x.csv")),
    )
    assert read_table(plain).labels.tolist() == [-1]
    assert read_table(labelled).labels.tolist() == [0]
    assert hash(plain) != hash(labelled)


def test_faces_are_the_drawn_sample_under_their_own_name(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no drawn faces \(no faces.json"):
        open_dataset(spec("faces", tmp_path))
    write_faces(tmp_path, 3)
    clear_caches()
    data = open_dataset(spec("faces", tmp_path))
    assert data.name == "faces"
    assert len(data.examples()) == 3
    said: list[str] = []
    fetch(spec("faces", tmp_path), said.append)
    assert said == [f"Using the faces that are in {tmp_path}"]


def test_yes_and_no_of_a_package_may_be_bool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = 'np.full(2, -1, np.int16), attributes={"round": np.array([True, False])})'
    install(monkeypatch, tmp_path / "bool", GOOD.replace("np.full(2, -1, np.int16))", given))
    assert open_dataset(spec("two")).examples().attributes["round"].tolist() == [1, -1]


def test_a_packages_data_set_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path / "good", GOOD)
    assert known_names()[-1] == "two"
    data = open_dataset(spec("two"))
    assert (data.name, data.root, data.notes) == ("two", Path("somewhere"), ("Two images.",))
    assert data.examples().files == ("a", "b")
    assert data.read_image("b").getpixel((0, 0)) == (0, 0, 255)
    assert len(fingerprint(data, data.examples())) == 64
    with pytest.raises(FileNotFoundError):  # about one image: extraction goes on without it
        data.read_image("c")
    fetch(spec("two"))  # nothing to do
    with pytest.raises(DatasetError, match="Nearest: two"):
        open_dataset(spec("twoo"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("import numpy as np", "import not_there_at_all"),
            "raised ModuleNotFoundError on import: No module named 'not_there_",
        ),
        (("class Two", "class Three"), "raised AttributeError on import: module 'pkg_bad' has no attribute 'Two'"),
        (
            ("self.root = ", "raise KeyError('secret')\n        self.root = "),
            "raised KeyError as it opened the data set: 'secret'",
        ),
        (
            ("return ExampleTable", "raise ValueError('odd\\n number')  #"),
            "raised ValueError in examples(): odd number.",
        ),
        (("return Image.new", "raise RuntimeError  #"), "raised RuntimeError in read_image('a'): no text"),
        (("return ord", "return str  #"), "raised TypeError in digest('a')"),
        (
            ("def digest", "def digets"),
            "gave a Two without digest. Expected all of root, notes, examples, read_image, digest",
        ),
        (("np.full(2,", "np.full(3,"), "gave a table of 2 files and 3 labels; expected one row per example"),
        (("np.full(2, -1", "np.full(2, 0"), "gave a table with labels up to 0 and 0 class names"),
        (('("a", "b")', '("a", "a")'), "gave a table that names a file twice"),
        (("np.arange(2)", "np.zeros(2)"), "gave a table whose ids do not rise"),
        (('("",) * 2', '("dev",) * 2'), "gave a table with the split 'dev'"),
        (("return ExampleTable", "return tuple"), "raised TypeError in examples()"),
        (("return ExampleTable", "return 5  #"), "gave a table that is a int; expected an ExampleTable"),
    ],
)
def test_a_package_that_raises_or_gives_nonsense_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], expected: str
) -> None:
    assert change[0] in GOOD
    install(monkeypatch, tmp_path / "bad", GOOD.replace(*change))

    def use_all_of_it() -> None:
        data = open_dataset(spec("two"))
        data.examples()
        data.read_image("a")
        data.digest("a")

    with pytest.raises(DatasetError) as caught:
        use_all_of_it()
    message = str(caught.value)
    assert expected in message
    assert "The data set 'two' (entry point pkg_bad:Two of pkg_bad 1.2)" in message
    assert "report it to its authors" in message or "Report it to the package's authors" in message


def test_an_error_of_ours_passes_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = "from clusterpaths.errors import DatasetError\ndef Two(spec):\n    raise DatasetError('No photos in it.')\n"
    install(monkeypatch, tmp_path / "own", own)
    with pytest.raises(DatasetError, match=r"^No photos in it\.$"):
        open_dataset(spec("two"))


def test_two_packages_of_one_name_are_refused_and_a_builtin_name_stays_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "one", GOOD)
    install(monkeypatch, tmp_path / "other", GOOD)
    with pytest.raises(
        DatasetError, match=r"offered by pkg_one 1\.2 \(pkg_one:Two\) and pkg_other 1\.2 \(pkg_other:Two\)"
    ):
        open_dataset(spec("two"))
    install(monkeypatch, tmp_path / "third", GOOD, name="folder")
    assert find_source("folder") in SOURCES
    assert known_names().count("folder") == 1


def test_the_code_in_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = DOCS.read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    entry = re.search(r'```toml\n\[project\.entry-points\."clusterpaths\.datasets"\]\n(.*?)```', text, re.DOTALL)[1]
    name, target = (part.strip() for part in entry.replace('"', "").split("="))
    package, _, of = target.partition(":")
    install(monkeypatch, tmp_path / "site", code, name, of, package)
    import io
    import zipfile

    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for file, colour in (("b.jpg", "blue"), ("a.jpg", "red")):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), colour).save(buffer, "JPEG")
            archive.writestr(file, buffer.getvalue())
        archive.writestr("readme.txt", "no image")
    data = open_dataset(spec(name, tmp_path / "photos.zip"))
    table = data.examples()
    assert table.files == ("a.jpg", "b.jpg")
    assert table.take(np.array([1])).files == ("b.jpg",)
    assert data.read_image("a.jpg").getpixel((4, 4))[0] > 200
    assert data.digest("a.jpg") != data.digest("b.jpg")
    assert len(fingerprint(data, table, full=True)) == 64
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    data._dataset._zip.close()


def test_every_builtin_data_set_is_in_the_documentation() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for name in known_names():
        if find_source(name) in SOURCES:
            assert f"| `{name}` |" in text
