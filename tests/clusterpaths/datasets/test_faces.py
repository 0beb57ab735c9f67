from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clusterpaths.datasets.drawn_faces import draw as faces
from clusterpaths.datasets.drawn_faces.draw import ATTRIBUTES, HAIR, draw_face, write_faces
from clusterpaths.errors import ConfigError, DatasetError


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_first_five_of_five_are_the_first_five_of_forty(tmp_path: Path) -> None:
    few, many = write_faces(tmp_path / "few", 5), write_faces(tmp_path / "many", 40)
    for number in range(1, 6):
        name = f"img_align_celeba/{number:06d}.jpg"
        assert (few / name).read_bytes() == (many / name).read_bytes()
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        head = 2 if "attr" in name else 0
        assert (few / name).read_text().splitlines()[head:] == (many / name).read_text().splitlines()[head:][:5]


def test_another_seed_draws_other_faces() -> None:
    assert draw_face(0, 3)[0].tobytes() != draw_face(1, 3)[0].tobytes()


def test_layout_is_celebas_and_rows_agree_with_the_drawing(tmp_path: Path) -> None:
    folder = write_faces(tmp_path, 20, seed=3)
    assert folder == tmp_path / "celeba"
    count, names, *rows = (folder / "list_attr_celeba.txt").read_text().splitlines()
    assert (int(count), tuple(names.split()), len(rows)) == (20, ATTRIBUTES, 20)
    for index, row in enumerate(rows):
        file, *values = row.split()
        image, attributes = draw_face(3, index)
        assert file == f"{index + 1:06d}.jpg"
        assert dict(zip(ATTRIBUTES, map(int, values), strict=True)) == attributes
        assert (image.size, image.mode) == ((178, 218), "RGB")
    partition = [line.split() for line in (folder / "list_eval_partition.txt").read_text().splitlines()]
    assert [file for file, _ in partition] == [row.split()[0] for row in rows]
    assert [split for _, split in partition] == ["0"] * 8 + ["1", "2"] + ["0"] * 8 + ["1", "2"]


def test_every_face_has_exactly_one_hair_colour_and_all_of_them_occur() -> None:
    drawn = [faces._attributes(faces._plan(0, index)) for index in range(300)]
    assert all(sum(attributes[hair] == 1 for hair in HAIR) == 1 for attributes in drawn)
    assert all(sum(attributes[hair] == 1 for attributes in drawn) > 20 for hair in HAIR)
    assert {value for attributes in drawn for value in attributes.values()} == {1, -1}


def test_hair_colour_cannot_be_read_from_the_mean_colour() -> None:
    # nearest class mean of the mean colour, fitted and scored on the same faces: an optimistic bound
    colours, labels = [], []
    for index in range(300):
        image, attributes = draw_face(0, index)
        colours.append(np.asarray(image, float).mean((0, 1)))
        labels.append(next(i for i, hair in enumerate(HAIR) if attributes[hair] == 1))
    X, y = np.array(colours), np.array(labels)
    means = np.array([X[y == label].mean(0) for label in range(len(HAIR))])
    nearest = ((X[:, None] - means) ** 2).sum(2).argmin(1)
    assert (nearest == y).mean() < 0.5


def test_what_is_whole_is_kept_and_what_lost_files_is_drawn_again(tmp_path: Path) -> None:
    folder = write_faces(tmp_path, 6)
    before = _files(folder)
    calls: list[tuple[int, int]] = []
    write_faces(tmp_path, 6, progress=lambda done, total: calls.append((done, total)))
    assert calls == []
    (folder / "img_align_celeba" / "000004.jpg").unlink()
    write_faces(tmp_path, 6, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 6) for done in range(1, 7)]
    assert _files(folder) == before


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_interrupted_leaves_nothing_and_the_next_run_is_right(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise interruption

    with pytest.raises(interruption):
        write_faces(tmp_path / "a", 6, progress=stop)
    assert [path.name for path in (tmp_path / "a").iterdir() if path.is_dir()] == []
    assert _files(write_faces(tmp_path / "a", 6)) == _files(write_faces(tmp_path / "b", 6))


def test_what_a_killed_run_left_is_no_obstacle(tmp_path: Path) -> None:
    left = tmp_path / "a" / ".celeba.partial" / "img_align_celeba"
    left.mkdir(parents=True)
    (left / "000009.jpg").write_bytes(b"half")
    assert _files(write_faces(tmp_path / "a", 3)) == _files(write_faces(tmp_path / "b", 3))
    assert not left.exists()


def test_other_faces_are_never_replaced(tmp_path: Path) -> None:
    before = _files(write_faces(tmp_path, 3, seed=0))
    with pytest.raises(DatasetError, match="count 3, seed 0, version 1; expected faces drawn with count 4, seed 0"):
        write_faces(tmp_path, 4, seed=0)
    assert _files(tmp_path / "celeba") == before


def test_a_folder_that_was_not_drawn_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "celeba" / "img_align_celeba").mkdir(parents=True)
    (tmp_path / "celeba" / "img_align_celeba" / "000001.jpg").write_bytes(b"a real photograph")
    with pytest.raises(DatasetError, match=r"no readable faces\.json"):
        write_faces(tmp_path, 3)
    assert _files(tmp_path / "celeba") == {"img_align_celeba/000001.jpg": b"a real photograph"}


@pytest.mark.parametrize("count", [0, -1, 1_000_000])
def test_a_count_out_of_range_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(ConfigError, match=f"between 1 and 999999, got {count}"):
        write_faces(tmp_path, count)
    assert list(tmp_path.iterdir()) == []


def test_the_record_says_what_was_drawn(tmp_path: Path) -> None:
    folder = write_faces(tmp_path, 2, seed=9)
    assert json.loads((folder / "faces.json").read_text()) == {"count": 2, "seed": 9, "version": 1}
