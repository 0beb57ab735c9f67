"""Drawn faces in CelebA's layout: a sample that needs no download and no licence.

Belongs here: the random choices that make a face, their names, and how a directory of faces is
written. How a face is painted is `painting.py`; how such a directory is read is `celeba.py`, which
cannot distinguish it from the real one.

A new feature of the picture is a new field of `FacePlan`, its choice in `_plan` (made last, so that the faces
themselves stay as they are), and one call in `paint`. A planted shortcut is `cue.py`.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from PIL import Image

from clusterpaths.datasets.drawn_faces.cue import Cue, has_cue
from clusterpaths.datasets.drawn_faces.painting import RGB, FacePlan, as_rgb, between, paint
from clusterpaths.errors import ConfigError, DatasetError
from clusterpaths.storage.atomic import disk_errors

# fmt: off
ATTRIBUTES: tuple[str, ...] = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache",
    "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks",
    "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick",
    "Wearing_Necklace", "Wearing_Necktie", "Young",
)
# fmt: on
"""CelebA's forty attributes in its own order."""

HAIR: tuple[str, ...] = ("Bald", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
"""The attributes of which every face has exactly one."""

_VERSION = 1  # of the drawing; raise it whenever a face of some (seed, index) changes
_HAIR_WEIGHTS = (15, 25, 21, 25, 14)
_RECORD = "faces.json"
_IMAGES = "img_align_celeba"

_SKIN: tuple[RGB, ...] = ((70, 45, 34), (120, 80, 58), (176, 126, 96), (222, 178, 148), (246, 222, 206))
# Darkest and lightest hair of each colour. They come close to each other (dark brown to black, dark
# blond to light brown, light blond to gray), and light and tint push them further: not a lookup.
_HAIR_RANGE: dict[str, tuple[RGB, RGB]] = {
    "Bald": ((60, 45, 38), (150, 140, 130)),
    "Black_Hair": ((12, 10, 12), (38, 33, 36)),
    "Blond_Hair": ((172, 136, 78), (240, 216, 158)),
    "Brown_Hair": ((58, 38, 26), (140, 96, 60)),
    "Gray_Hair": ((116, 117, 120), (212, 213, 216)),
}


def draw_face(seed: int, index: int, cue: Cue | None = None) -> tuple[Image.Image, dict[str, int]]:
    """Draw the face that belongs to (seed, index), independent of all others; `cue` may be painted on it.

    Returns:
        A 178 x 218 RGB image (before JPEG), and the forty attributes as 1 or -1.
    """
    plan = _plan(seed, index)
    return paint(plan, _cue_of(seed, index, plan, cue)), _attributes(plan)


def write_faces(
    root: Path,
    count: int = 2000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    cue: Cue | None = None,
) -> Path:
    """Write `count` faces to root/celeba in CelebA's layout, all or nothing; complete files are reused.

    Of every ten faces in a row eight are "train", one "valid", one "test", so any first part of them has
    all three. `progress` is called with (faces done, count). With `cue`, faces that `has_cue` names carry it.

    Returns:
        The directory root/celeba: img_align_celeba/000001.jpg ..., list_attr_celeba.txt,
        list_eval_partition.txt, and faces.json, which records what was drawn.

    Raises:
        ConfigError: count is below 1 or above CelebA's six digits.
        DatasetError: root/celeba holds something else; it is never replaced.
        DiskError: no room or no permission.
    """
    if not 1 <= count <= 999_999:
        raise ConfigError(f"The number of faces must be between 1 and 999999, got {count}.")
    folder = root / "celeba"
    record: dict[str, Any] = {"count": count, "seed": seed, "version": _VERSION}
    if cue is not None:
        record["cue"] = cue.model_dump(mode="json")
    with disk_errors(folder):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".faces.lock"):
            if _is_complete(folder, record):
                return folder
            partial = root / ".celeba.partial"  # the lock is held: what is here was left by a killed run
            shutil.rmtree(partial, ignore_errors=True)
            try:
                _write(partial, record, progress, cue)
                shutil.rmtree(folder, ignore_errors=True)  # faces of this very record with some files missing
                partial.rename(folder)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    return folder


def _is_complete(folder: Path, record: dict[str, Any]) -> bool:
    """Whether the directory holds all these faces; False where it is missing or has lost files."""
    if not folder.exists():
        return False
    try:
        stored = json.loads((folder / _RECORD).read_text())
    except (OSError, ValueError):
        stored = None
    if stored != record:
        holds = "no readable faces.json" if stored is None else f"faces drawn with {_words(stored)}"
        raise DatasetError(
            f"{folder} already exists with {holds}; expected faces drawn with {_words(record)}. Nothing was "
            "changed. Name another data directory, or remove this one if nobody needs it, and run the command again."
        )
    images = {path.name for path in (folder / _IMAGES).glob("*.jpg")}
    annotations = (folder / "list_attr_celeba.txt", folder / "list_eval_partition.txt")
    return len(images) == record["count"] and all(path.exists() for path in annotations)


def _words(record: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in record.items()) if isinstance(record, dict) else repr(record)


def _cue_of(seed: int, index: int, plan: FacePlan, cue: Cue | None) -> Cue | None:
    return cue if cue is not None and has_cue(seed, index, plan.hair, cue) else None


def _write(folder: Path, record: dict[str, Any], progress: Callable[[int, int], None] | None, cue: Cue | None) -> None:
    count = record["count"]
    (folder / _IMAGES).mkdir(parents=True)
    rows, partition = [str(count), " ".join(ATTRIBUTES)], []
    for index in range(count):
        name, plan = f"{index + 1:06d}.jpg", _plan(record["seed"], index)
        paint(plan, _cue_of(record["seed"], index, plan, cue)).save(folder / _IMAGES / name, quality=plan.quality)
        rows.append(name + " " + " ".join(f"{value:2d}" for value in _attributes(plan).values()))
        partition.append(f"{name} {max(0, index % 10 - 7)}")
        if progress is not None:
            progress(index + 1, count)
    (folder / "list_attr_celeba.txt").write_text("\n".join(rows) + "\n")
    (folder / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    (folder / _RECORD).write_text(json.dumps(record) + "\n")


def _attributes(plan: FacePlan) -> dict[str, int]:
    """CelebA's forty attributes, 1 for what is drawn and -1 for the rest."""
    drawn = {
        plan.hair: True,
        "Bangs": plan.bangs,
        "Straight_Hair": plan.hair != "Bald" and plan.style in ("medium", "long") and not plan.wavy,
        "Wavy_Hair": plan.hair != "Bald" and (plan.wavy or plan.style == "curly"),
        "Pale_Skin": plan.pale,
        "Male": plan.male,
        "Mustache": plan.beard in ("mustache", "full"),
        "Goatee": plan.beard == "goatee",
        "No_Beard": not plan.beard,
        "Bushy_Eyebrows": plan.bushy,
        "Smiling": plan.smile > 0,
        "Mouth_Slightly_Open": plan.open_mouth,
        "Wearing_Lipstick": plan.lipstick,
        "Eyeglasses": bool(plan.glasses),
        "Rosy_Cheeks": plan.rosy,
        "Wearing_Earrings": plan.earrings,
        "Blurry": plan.blurry,
    }
    return {name: 1 if drawn.get(name, False) else -1 for name in ATTRIBUTES}


def _plan(seed: int, index: int) -> FacePlan:
    r = random.Random(f"face {seed} {index}")  # noqa: S311 - repeatable, not secret
    hair = r.choices(HAIR, _HAIR_WEIGHTS)[0]
    male = r.random() < {"Bald": 0.9, "Gray_Hair": 0.65}.get(hair, 0.42)
    style = r.choices(("short", "medium", "long", "curly"), (7, 1.5, 0.5, 1) if male else (1.5, 3, 4, 1.5))[0]
    beard = r.choices(("", "mustache", "goatee", "full"), (6, 1, 1, 2))[0] if male else ""
    skin = r.random()
    if hair == "Blond_Hair":
        skin = max(skin, r.random())  # fairer on average, every tone possible
    skin_rgb = _jitter(r, _along(_SKIN, skin), 7)
    dark, bright = (_muted(r) for _ in range(2))
    if r.random() < 0.25:  # a background that has a hair colour of its own
        dark = between(*_HAIR_RANGE[r.choice(HAIR)], r.random())
    bushy = male and r.random() < 0.3
    smiling = r.random() < 0.48
    return FacePlan(
        hair=hair,
        hair_rgb=_hair_rgb(r, hair, skin_rgb),
        style=style,
        wavy=style in ("medium", "long") and r.random() < 0.45,
        bangs=hair != "Bald" and r.random() < (0.12 if male else 0.3),
        hairline=r.uniform(34, 44),
        volume=r.uniform(3, 9) if style == "short" else r.uniform(6, 14),
        fringe=hair == "Bald" and r.random() < 0.25,
        skin_rgb=skin_rgb,
        pale=skin > 0.9,
        male=male,
        beard=beard,
        brows=r.uniform(-2, 4),
        bushy=bushy,
        smile=r.uniform(3, 7) if smiling else r.uniform(-3, 0),
        open_mouth=r.random() < (0.6 if smiling else 0.15),
        lipstick=not male and r.random() < 0.65,
        glasses=r.choices(("", "round", "square", "dark"), (80, 8, 8, 4))[0],
        rosy=r.random() < 0.12,
        earrings=not male and r.random() < 0.3,
        eye_rgb=r.choice(((70, 45, 30), (60, 90, 130), (70, 105, 70), (40, 30, 25))),
        clothes_rgb=_muted(r),
        face_size=(r.uniform(36, 42) + 2 * male, r.uniform(53, 61)),
        shift=(r.gauss(0, 4), r.gauss(0, 4)),
        scale=r.uniform(0.88, 1.12),
        tilt=r.gauss(0, 0.07),
        background=r.choice(("plain", "gradient", "noise")),
        background_rgb=(dark, bright),
        light=(r.uniform(0.68, 1.15), r.uniform(-0.28, 0.28), r.uniform(-0.2, 0.2)),
        tint=(r.uniform(0.94, 1.07), 1.0, r.uniform(0.92, 1.07)),
        blurry=r.random() < 0.06,
        noise=r.uniform(1, 9),
        quality=r.randint(62, 94),
        texture=r.getrandbits(48),
    )


def _hair_rgb(r: random.Random, hair: str, skin: RGB) -> RGB:
    """A shade of this colour; one too similar to the skin is drawn again, a limited number of times."""
    for _ in range(4):
        rgb = _jitter(r, between(*_HAIR_RANGE[hair], r.random()), 7)
        if sum(abs(a - b) for a, b in zip(rgb, skin, strict=True)) > 75:
            break
    return rgb


def _along(colours: Sequence[RGB], share: float) -> RGB:
    at = min(int(share * (len(colours) - 1)), len(colours) - 2)
    return between(colours[at], colours[at + 1], share * (len(colours) - 1) - at)


def _jitter(r: random.Random, rgb: RGB, sigma: float) -> RGB:
    common = r.gauss(0, sigma)
    return as_rgb([value + common + r.gauss(0, sigma / 3) for value in rgb])


def _muted(r: random.Random) -> RGB:
    """Any brightness, seldom a poster colour."""
    colour = as_rgb([r.uniform(10, 245) for _ in range(3)])
    grey = sum(colour) / 3
    return between(colour, (grey, grey, grey), r.uniform(0.2, 0.9))
