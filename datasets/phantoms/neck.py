"""A synthetic neck, C2 to T4: its anatomy, and sagittal slices without head and throat.

Frame: mm in the mid-sagittal plane, x to the back, y to the feet, origin at the centre of C5.
"""

from __future__ import annotations

import numpy as np

from spineline.datasets.common.arrays import Float32Array
from spineline.datasets.phantoms.anatomy import Anatomy, Body, Disc, line_of_centres
from spineline.datasets.phantoms.canvas import Canvas, Contrast, Look, View
from spineline.datasets.phantoms.spine import (
    coil_sensitivity,
    paint_body,
    paint_disc,
    paint_herniation,
)

_NAMES = ("C2", "C3", "C4", "C5", "C6", "C7", "T1", "T2", "T3", "T4")
# Typical adult sizes in mm, top to bottom; C2 without its dens.
_HEIGHTS = (19.0, 13.5, 13.5, 13.0, 13.5, 14.5, 16.5, 17.5, 18.0, 18.5)
_DEPTHS = (15.5, 16.0, 16.5, 17.0, 17.5, 17.5, 18.0, 19.0, 20.0, 21.0)
_DISC_HEIGHTS = (5.6, 5.8, 5.8, 5.8, 5.8, 5.4, 4.6, 4.2, 4.2)
# Direction of the line of centres at each vertebra: degrees from straight down, to the back.
_ANGLES = (-7.0, -4.0, 0.0, 5.0, 11.0, 17.0, 21.0, 21.0, 17.0, 12.0)
_CANAL_MM = 13.0
_BULGES = {"v1": (0.0, 0.3), "v2": (0.4, 1.0), "v3": (1.8, 2.8), "v4": (3.2, 4.6)}


def draw_neck(rng: np.random.Generator) -> Anatomy:
    """Draw a random neck: size, lordosis, and disease that is most common at C5-C6."""
    scale, age = float(rng.uniform(0.9, 1.08)), float(rng.beta(1.6, 1.6))
    tilt, curve = rng.normal(0, 4.0), rng.normal(1, 0.25)
    angles = np.radians(tilt + curve * np.array(_ANGLES) + rng.normal(0, 0.8, len(_ANGLES)))
    traits = [_disc_traits(rng, n, age) for n in range(len(_DISC_HEIGHTS))]
    heights = [h * scale * rng.normal(1, 0.025) for h in _HEIGHTS]
    depths = [d * scale * rng.normal(1, 0.02) for d in _DEPTHS]
    gaps = [
        h * scale * rng.normal(1, 0.05) * (1 - loss)
        for h, (*_, loss) in zip(_DISC_HEIGHTS, traits, strict=True)
    ]
    in_turn = [v for pair in zip(heights, [*gaps, 0.0], strict=True) for v in pair][:-1]
    turns = np.interp(np.arange(len(in_turn)), np.arange(0, len(in_turn), 2), angles)
    line, middles = line_of_centres(
        in_turn, turns.tolist(), origin=2 * _NAMES.index("C5"), above=110.0, below=60.0
    )
    lipped = rng.random(len(_NAMES)) < 0.35 * age
    lips = [
        (float(rng.uniform(1, 2.5)), float(rng.uniform(0.5, 1.5))) if has else (0.0, 0.0)
        for has in lipped
    ]
    bodies = tuple(
        Body(name, middles[2 * n][1:], float(angles[n]), heights[n], depths[n], lips=lips[n])
        for n, name in enumerate(_NAMES)
    )
    discs = tuple(
        Disc(
            f"{_NAMES[n]}-{_NAMES[n + 1]}", middles[2 * n + 1][1:],
            float((angles[n] + angles[n + 1]) / 2), gaps[n], (depths[n] + depths[n + 1]) / 2,
            middles[2 * n + 1][0], (tag,), nucleus, bulge * scale, 0.4 * bulge * scale, migration,
        )
        for n, (tag, nucleus, bulge, migration, _) in enumerate(traits)
    )  # fmt: skip
    return Anatomy(bodies, discs, line, scale, conus_s=1e3, sac_end_s=1e3)


def render_neck(
    anatomy: Anatomy, look: Look, view: View, *, contrast: Contrast = "t2", lateral_mm: float = 0.0
) -> Float32Array:
    """Render one sagittal slice of a neck; see ``render_sagittal`` for arguments and result."""
    canvas = Canvas(view, contrast, np.random.default_rng(look.seed))
    _paint_surroundings(canvas, anatomy, look, midline=abs(lateral_mm) < 9)
    _paint_canal(canvas, anatomy, lateral_mm)
    for disc in anatomy.discs:
        paint_disc(canvas, disc)
    for body in anatomy.bodies:
        paint_body(canvas, body, look, lateral_mm)
    for disc in anatomy.discs:
        paint_herniation(canvas, disc, lateral_mm)
    noise = np.random.default_rng([look.seed, 11, round(lateral_mm * 10) + 10_000, len(contrast)])
    return canvas.finish(look, coil_sensitivity(anatomy, look, view), noise)


def _disc_traits(
    rng: np.random.Generator, n: int, age: float
) -> tuple[str, float, float, float, float]:
    """Tag (v2 degenerative, v3 protrusion, v4 extrusion), nucleus, bulge, migration, loss."""
    commonness = (0.1, 0.2, 0.35, 0.5, 0.4, 0.15, 0.05, 0.05, 0.05)[n]
    sick = float(np.clip(0.05 + 0.55 * age + commonness - 0.15, 0.03, 0.9))
    tag = str(rng.choice(list(_BULGES), p=[1 - sick, 0.4 * sick, 0.4 * sick, 0.2 * sick]))
    well = tag == "v1"
    nucleus = float(rng.uniform(0.45, 0.9) if well else rng.beta(1.2, 6.0))
    migration = float(rng.uniform(0, 4)) if tag == "v4" else 0.0
    loss = float(rng.uniform(0, 0.06) if well else rng.uniform(0.1, 0.4))
    return tag, nucleus, float(rng.uniform(*_BULGES[tag])), migration, loss


def _paint_surroundings(canvas: Canvas, anatomy: Anatomy, look: Look, *, midline: bool) -> None:
    """Skin, fat and muscle in front of and behind the spine, and the airway in the midline."""
    scale, fat = anatomy.scale, 3 + 0.25 * look.belly_fat_mm
    s = np.arange(-180.0, 180.0, 3.0)
    wall = anatomy.depth_at(s) / 2
    front, back = -wall - 48 * scale, wall + 48 * scale
    canvas.fill(anatomy.strip(s, front, back), "fat")
    canvas.fill(anatomy.strip(s, front + 0.6 * fat, -wall), "abdomen", 0.75)
    canvas.fill(anatomy.strip(s, wall, back - fat), "muscle", 1.15)
    airway = anatomy.strip(s, -wall - 20 * scale, -wall - 7 * scale)
    canvas.blend(airway, canvas.tissue("gas" if midline else "muscle"), 1.0)
    canvas.stroke(anatomy.place(s, -wall - 0.3), "ligament", 1.0)


def _paint_canal(canvas: Canvas, anatomy: Anatomy, lateral_mm: float) -> None:
    """Fluid and cord; bulging discs dent the sac."""
    inside = 1 - (abs(lateral_mm) / 9.0) ** 2
    if inside <= 0:
        return
    s = np.arange(-180.0, 150.0, 1.0)
    front = anatomy.depth_at(s) / 2 + 0.8
    back = front + _CANAL_MM * anatomy.scale - 0.8
    for disc in anatomy.discs:
        nearness = np.exp(-(((s - disc.s) / (0.7 * disc.height + 1.5)) ** 2))
        front = front + max(disc.bulge - 0.6, 0.0) * nearness
    middle, half = (front + back) / 2, (back - front) / 2 * np.sqrt(inside)
    sac = anatomy.strip(s, middle - half, middle + half)
    canvas.stroke(sac, "ligament", 1.4, closed=True)
    canvas.fill(sac, "csf")
    cord = np.minimum(0.29 * _CANAL_MM * anatomy.scale, 0.92 * half) * inside
    canvas.blend(anatomy.strip(s, middle - cord, middle + cord), canvas.tissue("cord"), 0.6)
