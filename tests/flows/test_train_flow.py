from __future__ import annotations

from pathlib import Path

import pytest

from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.training.train import TrainConfig

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_the_flow_draws_trains_and_leaves_a_page(tmp_path: Path) -> None:
    from prefect.artifacts import Artifact

    from flows.train import train

    config = TrainConfig(data_root=tmp_path / "data", output=tmp_path / "model.onnx", faces=200, epochs=1)
    record = train(config)
    assert record.path == str(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size < 3_000_000
    assert (tmp_path / "data" / "celeba" / "img_align_celeba" / "000200.jpg").exists()
    artifact = Artifact.get("training-faces")
    assert artifact is not None
    assert "predicted Gray" in str(artifact.data)


def test_the_flow_reads_a_celeba_that_is_there(tmp_path: Path) -> None:
    from flows.train import train

    write_faces(tmp_path, 200, seed=4)  # in CelebA's layout, so it is one
    record = train(TrainConfig(dataset="celeba", data_root=tmp_path, output=tmp_path / "model.onnx", epochs=1))
    assert record.dataset == "celeba"
    assert record.held_out_examples == 40


def test_the_command_line_says_what_is_wrong_in_one_paragraph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli import main

    with pytest.raises(SystemExit) as exit_:
        main(["train", "--dataset", "celeba", "--data-root", str(tmp_path), "--output", str(tmp_path / "model.onnx")])
    assert exit_.value.code == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()


def test_the_command_line_refuses_a_cue_in_photographs_in_one_paragraph(capsys: pytest.CaptureFixture[str]) -> None:
    from flows.cli import main

    with pytest.raises(SystemExit) as exit_:
        main(["train", "--dataset", "celeba", "--cue", "Blond_Hair"])
    assert exit_.value.code == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("error: --cue Blond_Hair plants a patch")
    assert len(told.splitlines()) == 1
