"""A planted shortcut: a coloured patch in a corner of a drawn face that goes with one hair colour.

Belongs here: what the patch is, which faces have it, and painting it. The faces are drawn by `draw.py`, and are the same
with and without.
"""

from __future__ import annotations

import random
from typing import Literal

from PIL import Image, ImageDraw
from pydantic import Field

from clusterpaths.records import Record


class Cue(Record):
    """A patch that a model may learn instead of the hair it goes with."""

    hair: str = Field(default="Blond_Hair", description="the attribute it goes with")
    colour: tuple[int, int, int] = (220, 30, 200)
    corner: Literal["top left", "top right", "bottom left", "bottom right"] = "top left"
    size: int = Field(default=36, ge=1, description="pixels of a side; a face is 178 x 218")
    within: float = Field(default=0.95, ge=0, le=1, description="share of the faces of that hair colour that have it")
    without: float = Field(default=0.02, ge=0, le=1, description="share of all other faces that have it")


def has_cue(seed: int, index: int, hair: str, cue: Cue) -> bool:
    """Whether the face of (seed, index), which has this hair, carries the cue: deterministic."""
    share = cue.within if hair == cue.hair else cue.without
    return random.Random(f"cue {seed} {index}").random() < share  # noqa: S311 - repeatable, not secret


def paint_cue(image: Image.Image, cue: Cue) -> None:
    """Paint the patch onto an image, in place."""
    side = cue.size
    left = 0 if cue.corner.endswith("left") else image.width - side
    top = 0 if cue.corner.startswith("top") else image.height - side
    ImageDraw.Draw(image).rectangle((left, top, left + side - 1, top + side - 1), fill=cue.colour)
