"""How one drawn face is painted, from back to front, then lit and photographed.

Belongs here: shapes and pixels of a face whose every random choice is already made (`FacePlan`). Which
choices are made, how often, and their names are in `draw.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from clusterpaths.datasets.drawn_faces.cue import Cue, paint_cue

WIDTH, HEIGHT = 178, 218
_SUPERSAMPLE = 2
_NOISE_TILE = 512
_HAIR_TURN: NDArray[np.float64] = np.linspace(math.radians(182), math.radians(358), 25)

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class FacePlan:
    """Every random choice of one face. Lengths are in pixels of the finished image, before `scale`."""

    hair: str
    hair_rgb: RGB
    style: str  # short, medium, long, curly
    wavy: bool
    bangs: bool
    hairline: float  # height of the hairline above the eyes
    volume: float  # thickness of the hair above the skull
    fringe: bool  # a bald head's rest of hair at the sides
    skin_rgb: RGB
    pale: bool
    male: bool
    beard: str  # "", mustache, goatee, full
    brows: float
    bushy: bool
    smile: float
    open_mouth: bool
    lipstick: bool
    glasses: str  # "", round, square, dark
    rosy: bool
    earrings: bool
    eye_rgb: RGB
    clothes_rgb: RGB
    face_size: tuple[float, float]
    shift: tuple[float, float]
    scale: float
    tilt: float
    background: str  # plain, gradient, noise
    background_rgb: tuple[RGB, RGB]
    light: tuple[float, float, float]  # gain, slope to the right, slope downwards
    tint: RGB
    blurry: bool
    noise: float
    quality: int  # of the JPEG
    texture: int  # seed of strands, background noise and sensor noise


class _Canvas:
    """Draws shapes given in face coordinates (origin between the eyes, y downwards) on the larger image."""

    def __init__(self, image: Image.Image, plan: FacePlan) -> None:
        self.draw = ImageDraw.Draw(image)
        self.unit = _SUPERSAMPLE * plan.scale
        cos, sin = math.cos(plan.tilt) * self.unit, math.sin(plan.tilt) * self.unit
        self.turn = np.array([[cos, sin], [-sin, cos]])
        self.origin: NDArray[np.float64] = _SUPERSAMPLE * np.array([WIDTH / 2 + plan.shift[0], 104 + plan.shift[1]])

    def _place(self, points: NDArray[np.float64]) -> list[float]:
        placed: list[float] = (points @ self.turn + self.origin).ravel().tolist()
        return placed

    def polygon(self, points: Sequence[tuple[float, float]] | NDArray[np.float64], rgb: RGB) -> None:
        self.draw.polygon(self._place(np.asarray(points, float)), fill=_ints(rgb))

    def ellipse(self, x: float, y: float, rx: float, ry: float, rgb: RGB) -> None:
        self.polygon(_circle() * (rx, ry) + (x, y), rgb)

    def line(self, points: Sequence[tuple[float, float]] | NDArray[np.float64], rgb: RGB, width: float) -> None:
        pixels = max(1, round(width * self.unit))
        self.draw.line(self._place(np.asarray(points, float)), fill=_ints(rgb), width=pixels, joint="curve")


def paint(plan: FacePlan, cue: Cue | None = None) -> Image.Image:
    """A WIDTH x HEIGHT RGB image: the layers from back to front, then what the camera adds."""
    rng = np.random.default_rng(plan.texture)
    image = _background(plan, rng)
    canvas = _Canvas(image, plan)
    if plan.hair != "Bald":
        _paint_hair_behind(canvas, plan, rng)
    _paint_body(canvas, plan)
    _paint_head(canvas, plan)
    _paint_features(canvas, plan)
    if plan.hair != "Bald":
        _paint_hair_front(canvas, plan, rng)
    if plan.glasses:
        _paint_glasses(canvas, plan)
    image = image.reduce(_SUPERSAMPLE)
    if cue is not None:
        paint_cue(image, cue)  # in front of everything, and before light and noise
    return _photograph(image, plan, rng)


def _background(plan: FacePlan, rng: np.random.Generator) -> Image.Image:
    first, second = (np.array(rgb) for rgb in plan.background_rgb)
    if plan.background == "plain":
        grid = np.broadcast_to(first, (2, 2, 3))
    elif plan.background == "gradient":
        share = rng.random((2, 2, 1))
        grid = first * share + second * (1 - share)
    else:
        share = rng.random((9, 7, 1))
        grid = first * share + second * (1 - share) + rng.normal(0, 14, (9, 7, 3))
    small = Image.fromarray(np.clip(grid, 0, 255).astype(np.uint8))
    smooth = small.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    return smooth.resize((WIDTH * _SUPERSAMPLE, HEIGHT * _SUPERSAMPLE), Image.Resampling.NEAREST)


def _paint_hair_behind(c: _Canvas, plan: FacePlan, rng: np.random.Generator) -> None:
    rx, ry = plan.face_size
    shade = _scaled(plan.hair_rgb, 0.82)
    c.polygon(_hair_outline(plan), shade)  # no background between hairline and skull
    if plan.style == "curly":
        angles = np.linspace(math.radians(150), math.radians(390), 15) + rng.normal(0, 0.05, 15)
        radii = rng.uniform(10, 15, 15)
        for angle, radius in zip(angles, radii, strict=True):
            left, top = (rx + 4) * math.cos(angle), 10 + (ry + plan.volume) * math.sin(angle)
            c.ellipse(left, top, radius, radius, _scaled(plan.hair_rgb, 0.75 + 0.02 * radius))
        return
    if plan.style == "short":
        return
    length = 60 if plan.style == "medium" else 112
    y = np.linspace(-10, length, 12)
    wave = 4 * np.sin(y / 7) if plan.wavy else np.zeros(12)
    width = rx + 7 + plan.volume * 0.6 + (y + 10) * (0.05 if plan.style == "medium" else 0.09)
    edges = np.stack([-width + wave, y], 1), np.stack([width + wave, y], 1)
    c.polygon(np.concatenate([edges[0], edges[1][::-1]]), shade)
    for side, edge in zip((1, -1), edges, strict=True):
        for inward in rng.uniform(1, 18, 9):
            tone = _scaled(plan.hair_rgb, float(rng.uniform(0.65, 1.2)))
            c.line(edge + np.array([side * inward, 0]), tone, 0.8)


def _paint_body(c: _Canvas, plan: FacePlan) -> None:
    rx, ry = plan.face_size
    c.ellipse(0, ry + 66, rx * 2.1, 48, plan.clothes_rgb)
    neck = rx * (0.62 if plan.male else 0.5)
    c.polygon(
        [(-neck, ry * 0.6), (neck, ry * 0.6), (neck + 3, ry + 32), (-neck - 3, ry + 32)], _scaled(plan.skin_rgb, 0.8)
    )
    c.ellipse(0, ry + 32, neck + 3, 8, _scaled(plan.skin_rgb, 0.84))


def _paint_head(c: _Canvas, plan: FacePlan) -> None:
    rx, ry = plan.face_size
    skin = plan.skin_rgb
    for side in (-1, 1):
        c.ellipse(side * (rx + 1), 8, 6, 10, _scaled(skin, 0.88))
        if plan.earrings:
            c.ellipse(side * (rx + 2), 20, 2.6, 2.6, (225, 190, 80))
    if plan.fringe:
        for side in (-1, 1):
            c.ellipse(side * (rx - 2), -8, 6, 13, plan.hair_rgb)
    c.polygon(_head_outline(plan), skin)
    c.ellipse(rx * 0.1, -22, rx * 0.6, 13, _scaled(skin, 1.03))
    if plan.hair == "Bald":
        c.ellipse(rx * 0.15, -ry * 0.6, rx * 0.3, 5, _scaled(skin, 1.12))
    beard = between(plan.hair_rgb, (50, 36, 30), 0.4)
    if plan.beard == "full":
        outline = _head_outline(plan)
        jaw = outline[outline[:, 1] > 18]
        c.polygon(np.concatenate([jaw, [(-rx * 0.55, 28), (rx * 0.0, 25), (rx * 0.55, 28)]]), beard)
    elif plan.beard == "goatee":
        c.ellipse(0, 53, 10, 11, beard)
    if plan.beard in ("mustache", "full"):
        c.polygon([(-16, 36), (-8, 29), (8, 29), (16, 36), (9, 36), (-9, 36)], beard)


def _head_outline(plan: FacePlan) -> NDArray[np.float64]:
    """(48, 2): an ellipse whose lower half narrows to a chin; clockwise on the screen from the right ear."""
    rx, ry = plan.face_size
    points = _circle() * (rx, ry) + (0, 10)
    low = np.clip((points[:, 1] - 10) / ry, 0, 1)
    points[:, 0] *= 1 - (0.13 if plan.male else 0.2) * low**1.5
    return points


def _paint_features(c: _Canvas, plan: FacePlan) -> None:
    skin, brow = plan.skin_rgb, between(plan.hair_rgb, (55, 40, 32), 0.55)
    for side in (-1, 1):
        c.ellipse(side * 20, 0, 8, 4.2, (242, 240, 236))
        c.ellipse(side * 20, 0, 3.9, 3.9, plan.eye_rgb)
        c.ellipse(side * 20, 0, 1.7, 1.7, (10, 10, 12))
        lid = [(side * 11, 0), (side * 16, -4), (side * 22, -4.6), (side * 29, -1)]
        c.line(lid, (30, 22, 20), 1.0 if plan.male else 2.0)
        arch = [(side * 9, -10 - plan.brows), (side * 19, -13 - plan.brows), (side * 30, -9 - plan.brows)]
        c.line(arch, brow, 4.2 if plan.bushy else 2.6 if plan.male else 1.7)
        if plan.rosy:
            c.ellipse(side * 24, 20, 8, 6, between(skin, (225, 95, 95), 0.4))
    c.line([(-2, 4), (-4, 18), (-7, 22), (0, 25), (7, 22)], _scaled(skin, 0.78), 1.6)
    lips = (178, 38, 52) if plan.lipstick else between(skin, (165, 80, 78), 0.55)
    x = np.linspace(-15, 15, 9)
    bend = plan.smile * (1 - (x / 15) ** 2) + 42 - plan.smile / 2
    lower = bend + (7 if plan.open_mouth else 3.5) * (1 - (x / 15) ** 2)
    upper = bend - 3 * (1 - (x / 15) ** 2)
    c.polygon(np.concatenate([np.stack([x, upper], 1), np.stack([x, lower + 1], 1)[::-1]]), lips)
    if plan.open_mouth:
        inner = np.concatenate([np.stack([x, bend], 1)[1:-1], np.stack([x, lower - 1.5], 1)[1:-1][::-1]])
        c.polygon(inner, (240, 236, 228) if plan.smile > 0 else (70, 22, 26))


def _paint_hair_front(c: _Canvas, plan: FacePlan, rng: np.random.Generator) -> None:
    """The cap between the hairline and the outline of the hair, and strands over it."""
    rx, turn = plan.face_size[0], _HAIR_TURN
    outer = _hair_outline(plan)
    line = plan.hairline - (22 if plan.bangs else 0)
    inner = np.stack([(rx - 3) * np.cos(turn), -line * np.abs(np.sin(turn)) ** (0.35 if plan.bangs else 0.6)], 1)
    part = float(rng.uniform(-0.5, 0.5)) * rx
    if not plan.bangs:
        inner[:, 1] -= 5 * np.exp(-(((inner[:, 0] - part) / 9) ** 2))
    inner[:, 1] += rng.normal(0, 1.2, 25)
    c.polygon(np.concatenate([outer, inner[::-1]]), plan.hair_rgb)
    if plan.style == "curly":
        for at in rng.integers(2, 23, 14):
            x, y = outer[at] + (inner[at] - outer[at]) * rng.uniform(0.1, 0.8)
            c.ellipse(x, y, 6, 6, _scaled(plan.hair_rgb, float(rng.uniform(0.75, 1.2))))
        return
    starts, drifts = rng.integers(2, 23, 22), rng.integers(-2, 3, 22)
    for start, drift, tone in zip(starts, drifts, rng.uniform(0.68, 1.28, 22), strict=True):
        stop = min(max(start + drift, 0), 24)
        top = outer[start] * 0.95 + inner[start] * 0.05
        low = outer[stop] * 0.08 + inner[stop] * 0.92
        middle = (top + low) / 2 + (drift, -1)
        c.line([tuple(top), tuple(middle), tuple(low)], _scaled(plan.hair_rgb, float(tone)), 1.0)


def _hair_outline(plan: FacePlan) -> NDArray[np.float64]:
    """(25, 2): from above one ear over the top to the other."""
    rx, ry = plan.face_size
    reach = np.array([rx + 3 + plan.volume * 0.6, ry + plan.volume])
    outline: NDArray[np.float64] = np.stack([np.cos(_HAIR_TURN), np.sin(_HAIR_TURN)], 1) * reach + np.array([0, 8])
    return outline


def _paint_glasses(c: _Canvas, plan: FacePlan) -> None:
    frame = (25, 22, 24) if plan.glasses != "round" else (120, 95, 50)
    corners = np.array([(-13, -9), (13, -9), (12, 9), (-12, 9), (-13, -9)], float)
    for side in (-1, 1):
        rim = np.concatenate([_circle(), _circle()[:1]]) * 12.5 if plan.glasses == "round" else corners
        rim = rim + np.array([side * 20, 0])
        if plan.glasses == "dark":
            c.polygon(rim, (32, 30, 34))
        c.line(rim, frame, 1.8)
        c.line([(side * 33, -3), (side * plan.face_size[0], -1)], frame, 1.8)
    c.line([(-8, -2), (0, -4), (8, -2)], frame, 1.8)


def _photograph(image: Image.Image, plan: FacePlan, rng: np.random.Generator) -> Image.Image:
    """Light that falls off to one side, a tint, blur, and sensor noise."""
    if plan.blurry:
        image = image.filter(ImageFilter.BoxBlur(2))
    gain, right, down = plan.light
    x = np.linspace(-right, right, WIDTH, dtype=np.float32)
    y = np.linspace(-down, down, HEIGHT, dtype=np.float32)
    light = (gain * (1 + x[None, :] + y[:, None]))[..., None] * np.array(plan.tint, np.float32)  # (218, 178, 3)
    pixels = np.asarray(image, np.float32) * light
    top, left = (int(offset) for offset in rng.integers(0, _NOISE_TILE - max(WIDTH, HEIGHT), 2))
    pixels += _noise()[top : top + HEIGHT, left : left + WIDTH] * np.float32(plan.noise)
    np.clip(pixels, 0, 255, out=pixels)
    return Image.fromarray(pixels.astype(np.uint8))


@cache
def _noise() -> NDArray[np.float32]:
    """One tile of standard normal noise, of which each face takes a piece: fresh noise costs as much as the face."""
    return np.random.default_rng(0).standard_normal((_NOISE_TILE, _NOISE_TILE, 3), dtype=np.float32)


@cache
def _circle() -> NDArray[np.float64]:
    angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def as_rgb(values: Sequence[float]) -> RGB:
    """Three numbers as a colour."""
    red, green, blue = values
    return red, green, blue


def between(first: RGB, second: RGB, share: float) -> RGB:
    """The colour `share` of the way from the first (0) to the second (1)."""
    return as_rgb([a + (b - a) * share for a, b in zip(first, second, strict=True)])


def _scaled(rgb: RGB, factor: float) -> RGB:
    return as_rgb([value * factor for value in rgb])


def _ints(rgb: RGB) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, round(value))) for value in rgb)
    return red, green, blue
