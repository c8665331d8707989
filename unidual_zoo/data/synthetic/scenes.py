"""Drawn objects, backgrounds and clutter: the pictures of the embedded data.

An object is a list of shapes, each `(method of ImageDraw, colour, coordinates, keyword arguments)`. Coordinates run
from -1 to 1, x to the right and y down; objects with a front look to the left. Colours are parts of a palette drawn at
random, so that shape alone tells what an object is.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLING = 4

_Shape = tuple[str, str, tuple[float, ...], dict]


def _polygon(colour: str, *points: float) -> _Shape:
    return "polygon", colour, points, {}


def _ellipse(colour: str, *box: float) -> _Shape:
    return "ellipse", colour, box, {}


def _box(colour: str, *box: float) -> _Shape:
    return "rectangle", colour, box, {}


def _line(colour: str, width: float, *points: float) -> _Shape:
    return "line", colour, points, {"width": width, "joint": "curve"}


def _arc(colour: str, width: float, start: float, end: float, *box: float) -> _Shape:
    return "arc", colour, box, {"width": width, "start": start, "end": end}


def _half(colour: str, start: float, end: float, *box: float) -> _Shape:
    return "chord", colour, box, {"start": start, "end": end}


OBJECTS: Mapping[str, tuple[_Shape, ...]] = {
    "bird": (
        _polygon("trim", 0.35, -0.02, 0.98, -0.28, 0.92, 0.16, 0.4, 0.28),
        _line("dark", 0.08, -0.08, 0.4, -0.12, 0.85),
        _line("dark", 0.08, 0.14, 0.4, 0.16, 0.85),
        _ellipse("main", -0.5, -0.3, 0.6, 0.5),
        _ellipse("main", -0.8, -0.72, -0.2, -0.12),
        _polygon("trim", -0.76, -0.5, -1.0, -0.36, -0.74, -0.28),
        _polygon("dark", -0.12, -0.1, 0.62, -0.62, 0.36, 0.2),
        _ellipse("light", -0.68, -0.58, -0.5, -0.4),
        _ellipse("dark", -0.65, -0.54, -0.56, -0.45),
    ),
    "boat": (
        _line("dark", 0.09, 0.05, 0.4, 0.05, -0.95),
        _polygon("light", -0.03, -0.85, -0.03, 0.25, -0.75, 0.25),
        _polygon("trim", 0.13, -0.7, 0.13, 0.25, 0.65, 0.25),
        _polygon("main", -0.98, 0.38, 0.95, 0.38, 0.62, 0.85, -0.55, 0.85),
    ),
    "car": (
        _polygon("main", -0.5, -0.02, -0.3, -0.46, 0.42, -0.46, 0.72, -0.02),
        _polygon("light", -0.38, -0.05, -0.24, -0.36, 0.02, -0.36, 0.02, -0.05),
        _polygon("light", 0.1, -0.05, 0.1, -0.36, 0.38, -0.36, 0.56, -0.05),
        _polygon("main", -0.98, 0.12, -0.86, -0.04, 0.9, -0.04, 0.98, 0.1, 0.98, 0.38, -0.98, 0.38),
        _ellipse("dark", -0.72, 0.14, -0.26, 0.6),
        _ellipse("dark", 0.3, 0.14, 0.76, 0.6),
        _ellipse("trim", -0.59, 0.27, -0.39, 0.47),
        _ellipse("trim", 0.43, 0.27, 0.63, 0.47),
        _box("trim", -0.98, 0.12, -0.84, 0.24),
    ),
    "cup": (
        _arc("main", 0.17, 0, 360, 0.25, -0.35, 0.95, 0.4),
        _polygon("main", -0.75, -0.55, 0.55, -0.55, 0.4, 0.75, -0.6, 0.75),
        _ellipse("trim", -0.75, -0.72, 0.55, -0.38),
        _ellipse("dark", -0.65, -0.66, 0.45, -0.44),
        _polygon("trim", -0.69, 0.02, 0.49, 0.02, 0.45, 0.3, -0.66, 0.3),
    ),
    "fish": (
        _polygon("trim", 0.5, 0.0, 0.98, -0.5, 0.86, 0.0, 0.98, 0.5),
        _polygon("trim", -0.25, -0.35, 0.3, -0.7, 0.4, -0.2),
        _polygon("trim", -0.1, 0.35, 0.25, 0.62, 0.32, 0.2),
        _ellipse("main", -0.95, -0.46, 0.66, 0.46),
        _arc("dark", 0.06, 290, 70, -0.85, -0.36, -0.35, 0.36),
        _ellipse("light", -0.77, -0.24, -0.51, 0.02),
        _ellipse("dark", -0.71, -0.18, -0.59, -0.06),
    ),
    "house": (
        _box("dark", 0.34, -0.92, 0.56, -0.35),
        _box("main", -0.72, -0.15, 0.72, 0.88),
        _polygon("trim", -0.98, -0.12, 0.0, -0.95, 0.98, -0.12),
        _box("dark", -0.16, 0.3, 0.2, 0.88),
        _box("light", -0.56, 0.08, -0.28, 0.38),
        _box("light", 0.34, 0.08, 0.6, 0.38),
    ),
    "key": (
        _line("main", 0.17, -0.15, 0.0, 0.96, 0.0),
        _line("main", 0.15, 0.58, 0.0, 0.58, 0.36),
        _line("main", 0.15, 0.87, 0.0, 0.87, 0.42),
        _arc("main", 0.2, 0, 360, -0.98, -0.44, -0.1, 0.44),
        _arc("trim", 0.06, 0, 360, -0.98, -0.44, -0.1, 0.44),
    ),
    "mushroom": (
        _polygon("light", -0.24, 0.0, 0.24, 0.0, 0.36, 0.9, -0.36, 0.9),
        _half("main", 180, 360, -0.95, -0.9, 0.95, 1.05),
        _ellipse("trim", -0.62, -0.36, -0.3, -0.08),
        _ellipse("trim", -0.14, -0.72, 0.2, -0.42),
        _ellipse("trim", 0.34, -0.32, 0.68, -0.06),
    ),
    "tree": (
        _polygon("dark", -0.14, 0.1, 0.14, 0.1, 0.2, 0.95, -0.2, 0.95),
        _ellipse("main", -0.85, -0.4, 0.1, 0.42),
        _ellipse("main", -0.1, -0.4, 0.85, 0.42),
        _ellipse("main", -0.52, -0.95, 0.52, 0.1),
        _ellipse("trim", -0.45, -0.2, -0.27, -0.02),
        _ellipse("trim", 0.05, -0.6, 0.23, -0.42),
        _ellipse("trim", 0.35, -0.05, 0.53, 0.13),
    ),
    "umbrella": (
        _line("dark", 0.1, 0.0, -0.95, 0.0, 0.72),
        _arc("dark", 0.1, 0, 180, -0.05, 0.5, 0.4, 0.95),
        _half("main", 180, 360, -0.95, -0.82, 0.95, 0.82),
        _half("trim", 180, 360, -0.35, -0.82, 0.35, 0.82),
        _half("shade", 180, 360, -0.95, -0.16, -0.33, 0.16),
        _half("shade", 180, 360, -0.33, -0.18, 0.33, 0.18),
        _half("shade", 180, 360, 0.33, -0.16, 0.95, 0.16),
    ),
}


def draw_object(name: str, *, side: int, rng: np.random.Generator, facing: str = "left") -> np.ndarray:
    """An object in random colours and proportions -> (side, side, 4) uint8 RGBA; `facing` is "left" or "right"."""
    slim = rng.uniform(-0.3, 0.3)
    stretch = 0.97 * np.exp([min(slim, 0), min(-slim, 0)])
    palette = _palette(rng)
    canvas, draw = _canvas(side, side)
    for shape in OBJECTS[name]:
        _draw_shape(draw, shape, palette, stretch, centre=(side / 2, side / 2), side=side)
    picture = _pixels(canvas)
    return picture[:, ::-1].copy() if facing == "right" else picture


def draw_clutter(size: tuple[int, int], *, num_shapes: int, rng: np.random.Generator) -> np.ndarray:
    """Strokes, discs and fragments of objects -> (H, W, 4) uint8 RGBA of `size` (H, W), transparent elsewhere."""
    height, width = size
    canvas, draw = _canvas(height, width)
    fragments = [shape for shapes in OBJECTS.values() for shape in shapes]
    for _ in range(num_shapes):
        side = min(size) * rng.uniform(0.15, 0.6)
        centre = rng.uniform((0, 0), (width, height))
        shape = _stroke(rng) if rng.random() < 0.5 else fragments[rng.integers(len(fragments))]
        _draw_shape(
            draw, shape, _palette(rng), rng.choice((-1, 1), 2) * rng.uniform(0.6, 1, 2), centre=centre, side=side
        )
    return _pixels(canvas)


def draw_background(size: tuple[int, int], *, rng: np.random.Generator) -> np.ndarray:
    """A gradient between two colours under a soft or grainy texture -> (H, W, 3) uint8 of `size` (H, W)."""
    height, width = size
    first, last = (np.array(_colour(rng), np.float32) for _ in range(2))
    direction = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    ramp = 0.5 + 0.35 * (np.cos(direction) * x + np.sin(direction) * y)
    cells = rng.integers(3, 30, 2)
    texture = Image.fromarray(rng.uniform(-1, 1, cells).astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    ramp = np.clip(ramp + rng.uniform(0.1, 0.5) * np.asarray(texture), 0, 1)[..., None]
    return (first * (1 - ramp) + last * ramp).round().astype(np.uint8)


def _stroke(rng: np.random.Generator) -> _Shape:
    """A bent line of random course and width."""
    return _line("main", rng.uniform(0.05, 0.25), *rng.uniform(-1, 1, 6))


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    hue, saturation, value = rng.uniform((0, 0.1, 0.25), (1, 0.9, 0.95))
    return _rgb(hue, saturation, value)


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _palette(rng: np.random.Generator) -> dict[str, tuple[int, int, int]]:
    """Random colours of an object's parts: two free ones, a darker shade of the first, near black, near white."""
    hue, saturation, value = rng.uniform((0, 0.2, 0.4), (1, 1, 1))
    return {
        "main": _rgb(hue, saturation, value),
        "shade": _rgb(hue, saturation, 0.6 * value),
        "trim": _colour(rng),
        "dark": _rgb(rng.random(), 0.4, rng.uniform(0.05, 0.3)),
        "light": _rgb(rng.random(), 0.15, rng.uniform(0.8, 1)),
    }


def _canvas(height: int, width: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("RGBA", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    return canvas, ImageDraw.Draw(canvas)


def _pixels(canvas: Image.Image) -> np.ndarray:
    """A supersampled canvas -> (H, W, 4) uint8; Pillow averages RGBA weighted by alpha."""
    return np.asarray(canvas.reduce(SUPERSAMPLING))


def _draw_shape(
    draw: ImageDraw.ImageDraw,
    shape: _Shape,
    palette: Mapping[str, tuple[int, int, int]],
    stretch: np.ndarray,
    *,
    centre: Sequence[float] | np.ndarray,
    side: float,
) -> None:
    """Draw a shape whose coordinates -1..1 span `side` pixels around `centre` (x, y), scaled by `stretch` (x, y)."""
    method, colour, coordinates, options = shape
    points = SUPERSAMPLING * (np.asarray(centre) + side / 2 * stretch * np.reshape(coordinates, (-1, 2)))
    if len(points) == 2 and method != "line":  # the corners of a box; a mirrored one has to be put in order again
        points = np.sort(points, axis=0)
    if "width" in options:
        options = options | {"width": max(1, round(options["width"] * side / 2 * SUPERSAMPLING))}
    getattr(draw, method)(points.ravel().tolist(), fill=palette[colour], **options)
