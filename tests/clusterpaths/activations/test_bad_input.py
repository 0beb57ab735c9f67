"""What cannot be used is refused in one paragraph that says what, the actual value and what to do; and nothing is published."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.activations import find
from clusterpaths.cache import arrays as cache_arrays
from clusterpaths.commands.activations import main
from clusterpaths.errors import ConfigError, DatasetError, ExtractionError, InputError
from clusterpaths.running.report import Outcome
from tests.clusterpaths.activations.conftest import COUNT, Arrays, write_examples, write_hdf5, write_npy

Cluster = Callable[..., Outcome]


@pytest.fixture
def given(tmp_path: Path, arrays: Arrays) -> Path:
    """A directory with conv1.npy and fc2.npy, to be spoilt."""
    (tmp_path / "given").mkdir()
    write_npy(tmp_path / "given", arrays)
    return tmp_path / "given"


def values(arrays: Arrays, **changes: Any) -> Any:
    return np.array(arrays["fc2"], **changes)


def not_finite(given: Path, arrays: Arrays) -> None:
    spoilt = values(arrays)
    spoilt[[5, 9], 2] = np.nan
    np.save(given / "fc2.npy", spoilt)


def beyond_float32(given: Path, arrays: Arrays) -> None:
    spoilt = values(arrays, dtype=np.float64)
    spoilt[3] = 1e300
    np.save(given / "fc2.npy", spoilt)


def objects(given: Path, arrays: Arrays) -> None:
    np.save(given / "fc2.npy", values(arrays, dtype=object), allow_pickle=True)


def objects_in_an_archive(given: Path, arrays: Arrays) -> None:
    np.savez(given / "other.npz", fc3=values(arrays, dtype=object))


def a_pickle(given: Path, arrays: Arrays) -> None:
    (given / "fc2.npy").write_bytes(pickle.dumps(values(arrays)))


def texts(given: Path, arrays: Arrays) -> None:
    np.save(given / "fc2.npy", values(arrays).astype(str))


def one_axis(given: Path, arrays: Arrays) -> None:
    np.save(given / "fc2.npy", arrays["fc2"][:, 0])


def no_rows(given: Path, arrays: Arrays) -> None:
    np.save(given / "fc2.npy", arrays["fc2"][:0])


def fewer_rows(given: Path, arrays: Arrays) -> None:
    np.save(given / "fc2.npy", arrays["fc2"][:70])
    np.save(given / "labels.npy", np.zeros(80, int))


def truncated(given: Path, arrays: Arrays) -> None:
    content = (given / "fc2.npy").read_bytes()
    (given / "fc2.npy").write_bytes(content[: len(content) // 2])


def truncated_safetensors(given: Path, arrays: Arrays) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    content = numpy.save({"fc3": arrays["fc2"]})
    (given / "more.safetensors").write_bytes(content[:-100])


def other_chunks(given: Path, arrays: Arrays) -> None:
    (given / "fc3").mkdir()
    np.save(given / "fc3" / "part_0.npy", arrays["fc2"][:50])
    np.save(given / "fc3" / "part_1.npy", arrays["fc2"][50:, :3])


def reserved(given: Path, arrays: Arrays) -> None:
    np.save(given / "label.npy", arrays["fc2"])


def repeated_ids(given: Path, arrays: Arrays) -> None:
    np.save(given / "ids.npy", np.arange(COUNT) // 2)


def a_table_of_other_ids(given: Path, arrays: Arrays) -> None:
    (given / "examples.csv").write_text("id,label\n" + "\n".join(f"{i + 1},x" for i in range(COUNT)))


def a_table_without_the_column(given: Path, arrays: Arrays) -> None:
    (given / "labels.csv").write_text("labels\n" + "x\n" * COUNT)


def predictions_with_three_axes(given: Path, arrays: Arrays) -> None:
    np.save(given / "predictions.npy", np.zeros((COUNT, 2, 2)))


BAD: list[tuple[Callable[[Path, Arrays], None], str]] = [
    (not_finite, r"fc2 has values that are not finite.*2 in 2 of the 160 examples.*first in example 5.*--layers"),
    (beyond_float32, r"fc2 has values that are not finite.*beyond float32.*example 3"),
    (objects, r"fc2.npy cannot be read.*Python objects.*unpickling can run any code"),
    (objects_in_an_archive, r"fc3.*other.npz cannot be read.*pickled Python objects"),
    (a_pickle, r"fc2.npy cannot be read.*pickle"),
    (texts, r"fc2 .*is <U\d+ of shape \(160, 7\)\. Expected real numbers"),
    (one_axis, r"fc2 .*is float32 of shape \(160,\)\. Expected \(examples, values\).*--labels or --predictions"),
    (no_rows, r"fc2 .*of shape \(0, 7\)"),
    (fewer_rows, r"numbers of examples differ: conv1 160, fc2 70, labels.npy 80\."),
    (truncated, r"fc2.npy cannot be read"),
    (truncated_safetensors, r"more.safetensors cannot be read.*incomplete"),
    (other_chunks, r"fc3 have different shapes of one example: part_0.npy \(7,\), part_1.npy \(3,\)"),
    (reserved, r"cannot be called 'label'"),
    (repeated_ids, r"ids are int64 of shape \(160,\), 80 different ones"),
    (a_table_of_other_ids, r"column id of the examples.*1 are missing \(0\), 1 are of no row \(160\)"),
    (a_table_without_the_column, r"columns labels, and no column label\. Nearest: labels"),
    (predictions_with_three_axes, r"predictions are float64 of shape \(160, 2, 2\)"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_bad_input_is_one_paragraph(
    spoil: Callable[[Path, Arrays], None], message: str, given: Path, arrays: Arrays, cluster: Cluster, tmp_path: Path
) -> None:
    spoil(given, arrays)

    with pytest.raises(InputError) as error:
        cluster(given)

    assert re.search(message, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "cache" / "mine" / "manifest.json").exists()


def test_a_layer_that_is_not_there_has_its_nearest_proposed(given: Path, cluster: Cluster) -> None:
    with pytest.raises(DatasetError, match=r"no layer 'conv_1'\. Nearest: conv1\. Layers that are there: conv1, fc2"):
        cluster(given, layers=["conv_1"])


def test_hdf5_without_the_layer(tmp_path: Path, arrays: Arrays, cluster: Cluster) -> None:
    write_hdf5(tmp_path, arrays)
    with pytest.raises(DatasetError, match=r"all.h5 has no layer 'fc'\. Nearest: fc2"):
        cluster(tmp_path / "all.h5", layers=["fc"])


def test_hdf5_without_h5py_says_the_pip_line(
    tmp_path: Path, arrays: Arrays, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hdf5(tmp_path, arrays)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"pip install 'clusterpaths\[hdf5\]'"):
        cluster(tmp_path / "all.h5")


def test_examples_of_a_layer_that_lacks_some(tmp_path: Path, arrays: Arrays, cluster: Cluster) -> None:
    (tmp_path / "given").mkdir()
    write_examples(tmp_path / "given", arrays)
    (tmp_path / "given" / "fc2" / "3.npy").rename(tmp_path / "given" / "fc2" / "500.npy")
    with pytest.raises(DatasetError, match=r"fc2 lacks 1 \(3 …\); conv1 lacks 1 \(500 …\)"):
        cluster(tmp_path / "given")
    (tmp_path / "given" / "fc2" / "500.npy").unlink()
    with pytest.raises(DatasetError, match=r"differ: conv1 160, fc2 159"):
        cluster(tmp_path / "given")


def test_an_example_of_another_shape_in_the_middle(tmp_path: Path, arrays: Arrays, cluster: Cluster) -> None:
    (tmp_path / "given").mkdir()
    write_examples(tmp_path / "given", arrays)
    np.save(tmp_path / "given" / "fc2" / "30.npy", np.zeros(3, np.float32))
    with pytest.raises(ExtractionError, match=r"30.npy has the shape \(3,\), others \(7,\)"):
        cluster(tmp_path / "given")


def test_nothing_there(tmp_path: Path, cluster: Cluster) -> None:
    with pytest.raises(DatasetError, match=r"gone does not exist"):
        cluster(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"no activations in .*empty"):
        cluster(tmp_path / "empty")


def test_the_command_ends_with_one_paragraph(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(given), "--cache-root", str(tmp_path / "cache"), "--layers", "fc3"])

    assert end.value.code == 2
    *announced, error = capsys.readouterr().err.rstrip().rsplit("\n", 1)
    assert error.startswith("error: ")
    assert "  layers fc3; k 5" in announced[0]


def test_a_missing_directory_is_told_before_what_will_be_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "gone")])

    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"\nerror: {tmp_path / 'gone'} does not exist.")


def test_the_command_without_a_directory_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([])

    assert end.value.code == 2
    assert "DIR is missing. Expected DIR before the options" in capsys.readouterr().err


def test_the_command_shows_its_stages_the_result_and_the_next_step(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(given), "--cache-root", str(tmp_path / "cache"), "--k", "2"])

    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert shown.out == ""
    assert lines[0] == f"Cluster paths of the activations in {given}"
    stages = [line[:20].strip() for line in lines[3:]]
    assert stages[: stages.index("")] == ["check", "fit", "assign", "trace", "publish", "evaluate", "report"]
    assert "set                 given/set_01" in lines
    assert lines[-1].endswith(f"clusterpaths serve --cache-root {tmp_path / 'cache'}")


def test_natural_order() -> None:
    assert sorted(["conv10", "conv2", "features_100-120", "features_5-10"], key=find.natural) == [
        "conv2", "conv10", "features_5-10", "features_100-120",
    ]  # fmt: skip


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    """1.0 is 0x3F80, -2.5 is 0xC020: the upper halves of their float32 bits."""
    header = b'{"x":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]}}'
    bits = np.array([0x3F80, 0xC020], "<u2").tobytes()
    (tmp_path / "b.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bits)

    assert cache_arrays.open_array("safetensors", str(tmp_path / "b.safetensors"), "x")[0:2].tolist() == [[1.0], [-2.5]]
