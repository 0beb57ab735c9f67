from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from clusterpaths.errors import ConfigError, DiskError
from clusterpaths.models.check import check_model
from clusterpaths.watching import arrivals
from clusterpaths.watching.announced import AnnouncedModels
from clusterpaths.watching.arrivals import (
    Arrival,
    NotYet,
    Outcome,
    Rejected,
    examine,
    examine_apart,
    model_name,
)
from clusterpaths.watching.folder import ModelFolder
from tests.clusterpaths.conftest import save_model, write_cnn


def write_runnable_only_on_paper(path: Path) -> Path:
    """The graph reads well; ONNX Runtime refuses it: 3 channels meet weights for 5."""
    model = onnx.load(str(write_cnn(path)))
    [weights] = [tensor for tensor in model.graph.initializer if tensor.name == "w1"]
    weights.CopyFrom(helper.make_tensor("w1", TensorProto.FLOAT, [4, 5, 3, 3], [0.0] * 180))
    return save_model(path, model.graph)


@pytest.mark.parametrize(("file", "name"), [("a.onnx", "a"), ("a_instrumented.onnx", "a"), ("a.b.onnx", "a.b")])
def test_a_model_is_called_after_its_file(file: str, name: str) -> None:
    assert model_name(Path("models") / file) == name


@pytest.mark.parametrize("look", [examine, examine_apart])
def test_a_whole_model_arrives_with_the_sha256_that_a_run_records(
    look: Callable[..., Arrival | Rejected | NotYet], tmp_path: Path
) -> None:
    path = write_cnn(tmp_path / "net.onnx", external="net.onnx.data")
    assert look(path) == Arrival(path=str(path), name="net", sha256=check_model(path).sha256)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_text("hello world"), "It looks like text"),
        (write_runnable_only_on_paper, "cannot be run|cannot load"),
    ],
)
def test_what_will_never_be_a_model_is_rejected_at_once(
    make: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    make(tmp_path / "x.onnx")
    outcome = examine(tmp_path / "x.onnx")
    assert isinstance(outcome, Rejected)
    assert any(words in outcome.reason for words in reason.split("|"))
    assert len(outcome.sha256) == 64


def cut_off(path: Path) -> None:
    path.write_bytes(write_cnn(path).read_bytes()[:-100])


def without_weights(path: Path) -> None:
    write_cnn(path, external="weights").with_name("weights").unlink()


def with_short_weights(path: Path) -> None:
    weights = write_cnn(path, external="weights").with_name("weights")
    weights.write_bytes(weights.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.touch, "holds no graph"),
        (cut_off, "is not an ONNX model"),
        (without_weights, "does not exist"),
        (with_short_weights, "is too short"),
    ],
)
def test_what_may_be_on_its_way_is_waited_for_and_then_rejected(
    make: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    make(tmp_path / "x.onnx")
    assert isinstance(examine(tmp_path / "x.onnx"), NotYet)
    outcome = examine(tmp_path / "x.onnx", patient=False)
    assert isinstance(outcome, Rejected)
    assert reason in outcome.reason


def test_a_file_that_brings_its_process_down_or_holds_it_up_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_cnn(tmp_path / "x.onnx")
    slow = examine_apart(path, timeout=0.01)
    assert isinstance(slow, Rejected)
    assert "within" in slow.reason
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho it broke >&2\nkill -SEGV $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(arrivals.sys, "executable", str(program))
    dead = examine_apart(path)
    assert isinstance(dead, Rejected)
    assert "ended with signal 11: it broke" in dead.reason


class Looks:
    """A folder, a clock that stands still unless told, and how often a file was examined."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.now, self.examined = 0.0, 0
        self.known = AnnouncedModels(folder / ".announced.json")
        self.models = ModelFolder(folder, self.known, settle=2, patience=10, examine=self._examine)

    def _examine(self, path: Path, *, patient: bool) -> Arrival | Rejected | NotYet:
        self.examined += 1
        return examine(path, patient=patient)

    def after(self, seconds: float) -> list[Outcome]:
        self.now += seconds
        return list(self.models.look(self.now))


@pytest.fixture
def looks(tmp_path: Path) -> Looks:
    return Looks(tmp_path / "models")


def test_a_file_is_examined_once_and_only_when_it_held_still(looks: Looks, tmp_path: Path) -> None:
    content = write_cnn(tmp_path / "x.onnx").read_bytes()
    target = looks.models.folder / "x.onnx"
    for end in (1000, 5000, len(content)):
        target.write_bytes(content[:end])
        assert looks.after(0) == looks.after(1.75) == []
    assert looks.examined == 0
    [arrived] = looks.after(0.25)
    assert isinstance(arrived, Arrival)
    assert not looks.models.busy
    assert looks.after(100) == looks.after(100) == []
    assert looks.examined == 1


def test_weights_are_waited_for_from_their_own_last_change(looks: Looks, tmp_path: Path) -> None:
    made = write_cnn(tmp_path / "x.onnx", external="x.onnx.data")
    weights = (tmp_path / "x.onnx.data").read_bytes()
    shutil.copy(made, looks.models.folder)
    assert looks.after(0) == looks.after(2) == looks.after(2) == looks.after(7) == []
    (looks.models.folder / "x.onnx.data").write_bytes(weights[:500])
    assert looks.after(0) == looks.after(9) == []
    (looks.models.folder / "x.onnx.data").write_bytes(weights)
    assert looks.after(0) == looks.after(1.75) == []
    [arrived] = looks.after(0.25)
    assert arrived.sha256 == check_model(made).sha256


def test_a_file_that_changes_while_it_is_examined_is_examined_again(looks: Looks, tmp_path: Path) -> None:
    path = write_cnn(looks.models.folder / "x.onnx", seed=1)

    def change_meanwhile(path: Path, *, patient: bool) -> Arrival | Rejected | NotYet:
        found = examine(path, patient=patient)
        if looks.examined == 0:
            write_cnn(path, seed=2)
        looks.examined += 1
        return found

    looks.models = ModelFolder(path.parent, looks.known, settle=2, patience=10, examine=change_meanwhile)
    assert looks.after(0) == looks.after(2) == looks.after(0) == []
    [arrived] = looks.after(2)
    assert arrived.sha256 == check_model(path).sha256


def test_one_file_that_cannot_be_examined_does_not_hide_the_next(looks: Looks) -> None:
    for file in ("a.onnx", "b.onnx"):
        write_cnn(looks.models.folder / file, seed=ord(file[0]))

    def trip(path: Path, *, patient: bool) -> Arrival | Rejected | NotYet:
        if path.name == "a.onnx":
            raise KeyError("a bug")
        return examine(path, patient=patient)

    looks.models = ModelFolder(looks.models.folder, looks.known, settle=2, examine=trip)
    assert looks.after(0) == []
    first, second = looks.after(2)
    assert isinstance(first, Rejected)
    assert "KeyError" in first.reason
    assert isinstance(second, Arrival)


def test_only_what_still_lies_there_unchanged_is_current(looks: Looks) -> None:
    path = write_cnn(looks.models.folder / "x.onnx")
    looks.after(0)
    [arrived] = looks.after(2)
    assert looks.models.is_current(arrived)
    path.unlink()
    assert not looks.models.is_current(arrived)


def test_known_content_is_not_examined_again_under_any_name_nor_after_a_restart(looks: Looks) -> None:
    path = write_cnn(looks.models.folder / "x.onnx")
    (looks.models.folder / "y.onnx").write_text("broken")
    looks.after(0)
    found = looks.after(2)
    assert looks.known.unknown([*found, *found]) == found
    looks.known.add(found)
    assert looks.known.unknown(found) == []
    examined = looks.examined
    looks.models = ModelFolder(path.parent, AnnouncedModels(looks.known.path), settle=2, examine=looks._examine)
    path.touch()
    shutil.copy(path, path.with_name("z.onnx"))
    assert looks.after(0) == looks.after(2) == looks.after(10) == []
    assert looks.examined == examined
    (looks.models.folder / "y.onnx").write_text("broken in another way")
    looks.after(0)
    [changed] = looks.after(2)
    assert looks.known.unknown([changed]) == [changed]


def test_a_first_start_takes_what_is_there_for_known_and_half_a_file_for_what_it_is(
    looks: Looks, tmp_path: Path
) -> None:
    write_cnn(looks.models.folder / "old.onnx", seed=1)
    content = write_cnn(tmp_path / "new.onnx", seed=2).read_bytes()
    (looks.models.folder / "new.onnx").write_bytes(content[:-50])
    looks.known.add(looks.models.survey(), announced=False, watched=True)
    assert looks.after(0) == looks.after(100) == []
    (looks.models.folder / "new.onnx").write_bytes(content)
    looks.after(0)
    [arrived] = looks.after(2)
    assert arrived.name == "new"


def test_an_event_keeps_its_id_until_it_is_known(tmp_path: Path) -> None:
    known = AnnouncedModels(tmp_path / "state.json")
    one = Arrival(path="/m/a.onnx", name="a", sha256="1" * 64)
    with known.locked():
        assert known.event_id(one) == AnnouncedModels(known.path).event_id(one)
    assert known.event_id(one) != known.event_id(one.model_copy(update={"sha256": "2" * 64}))
    known.add([one], watched=True)
    stored = json.loads(known.path.read_text())
    assert stored["watched"] is True
    assert stored["models"]["1" * 64]["announced"] is True


def test_a_damaged_state_is_told_and_kept(tmp_path: Path) -> None:
    path = tmp_path / ".announced.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match="Remove it to start over"):
        AnnouncedModels(path).read()
    assert path.read_text() == "{"


def test_a_state_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    known = AnnouncedModels(tmp_path / "file" / ".announced.json")
    with pytest.raises(DiskError, match="--state"), known.locked():
        pass
