"""Rendering of a synthetic lumbar spine: sagittal slices in T2 or T1, transverse T2 slices."""

from __future__ import annotations

import itertools

import cv2
import numpy as np

from spineline.datasets.common.arrays import Float32Array, FloatArray
from spineline.datasets.phantoms.anatomy import Anatomy
from spineline.datasets.phantoms.canvas import Canvas, Contrast, Look, View, ellipse, local
from spineline.datasets.phantoms.spine import (
    coil_sensitivity,
    paint_body,
    paint_disc,
    paint_herniation,
)


def render_sagittal(
    anatomy: Anatomy, look: Look, view: View, *, contrast: Contrast = "t2", lateral_mm: float = 0.0
) -> Float32Array:
    """Render one sagittal slice.

    Args:
        anatomy: the anatomy.
        look: its appearance.
        view: its frame.
        contrast: ``t2`` or ``t1``.
        lateral_mm: distance of the slice from the midline; the canal leaves the slice at about 11.

    Returns:
        (rows, columns) float32, not negative, cerebrospinal fluid near 1 in T2.
    """
    canvas = Canvas(view, contrast, np.random.default_rng(look.seed))
    _paint_trunk(canvas, anatomy, look)
    _paint_viscera(canvas, anatomy, look)
    _paint_behind(canvas, anatomy, lateral_mm)
    _paint_canal(canvas, anatomy, lateral_mm)
    _paint_prevertebral(canvas, anatomy)
    for disc in anatomy.discs:
        paint_disc(canvas, disc)
    _paint_sacrum(canvas, anatomy, look)
    for body in anatomy.bodies[:11]:
        paint_body(canvas, body, look, lateral_mm)
    for disc in anatomy.discs:
        paint_herniation(canvas, disc, lateral_mm)
    noise_rng = np.random.default_rng([look.seed, round(lateral_mm * 10) + 10_000, len(contrast)])
    return canvas.finish(look, coil_sensitivity(anatomy, look, view), noise_rng)


def render_transverse(
    anatomy: Anatomy, look: Look, size: int, spacing_mm: float, below_l3_mm: float
) -> Float32Array:
    """Render a simple transverse T2 slice: trunk, body or disc, canal, process and muscles.

    Args:
        anatomy: gives the body's depth.
        look: gives fat, blur and noise.
        size: number of rows and columns.
        spacing_mm: size of a pixel, in both directions.
        below_l3_mm: position of the slice along the body.

    Returns:
        (size, size) float32; the vertebral body is in the middle, the back at the bottom.
    """
    view = View((size, size), spacing_mm, (size / 2, size * 0.55))
    canvas = Canvas(view, "t2", np.random.default_rng([look.seed, 7]))
    depth = float(anatomy.depth_at(below_l3_mm)) / 2
    canvas.fill(ellipse((0, -5), (140, 90), 0), "fat")
    canvas.fill(ellipse((0, -8), (122, 74), 0), "abdomen")
    for side in (-1, 1):
        canvas.fill(ellipse((side * 34, depth + 28), (26, 18), side * 0.2), "muscle")
        canvas.fill(ellipse((side * 36, -2), (15, 20), 0), "muscle")
    canvas.fill(ellipse((6, -depth - 12), (9, 9), 0), "vessel")
    canvas.fill(ellipse((0, 0), (depth * 1.35, depth), 0), "cortex")
    canvas.fill(ellipse((0, 0), (depth * 1.35 - 1.5, depth - 1.5), 0), "marrow", look.marrow)
    canvas.fill(ellipse((0, depth + 30), (4, 16), 0), "process")
    canvas.fill(ellipse((0, depth + 8), (10, 8), 0), "csf")
    noise = np.random.default_rng([look.seed, 8, round(below_l3_mm) + 1000])
    return canvas.finish(look, np.ones((size, size), np.float32), noise)


def _paint_trunk(canvas: Canvas, anatomy: Anatomy, look: Look) -> None:
    y, skin, fascia = _back_contour(anatomy, look)
    front, wall = _front_contour(look, y)

    def band(left: FloatArray, right: FloatArray) -> FloatArray:
        return np.concatenate([np.stack([left, y], 1), np.stack([right, y], 1)[::-1]])

    canvas.fill(band(front, skin), "fat")
    canvas.fill(band(front, wall), "fat_front")
    canvas.fill(band(wall, fascia), "abdomen")
    canvas.stroke(np.stack([wall, y], 1), "muscle", 6.0)
    canvas.stroke(np.stack([front, y], 1), "muscle", 1.5)
    canvas.stroke(np.stack([skin, y], 1), "muscle", 1.5)


def _back_contour(anatomy: Anatomy, look: Look) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Rows y in mm, and x of the skin of the back and of the fascia under its fat."""
    y = np.linspace(-320, 320, 129)
    s = np.linspace(anatomy.line[0, 0], anatomy.line[-1, 0] - 20, 160)
    points = anatomy.place(s, anatomy.depth_at(s) / 2 + _reach_behind(anatomy, s))
    order = np.argsort(points[:, 1], kind="stable")
    fascia = np.interp(y, points[order, 1], points[order, 0])
    fascia = cv2.GaussianBlur(fascia.reshape(-1, 1), (1, 25), 0, sigmaY=4.0).ravel()
    fat = np.interp(y, (-130.0, 0.0, 110.0), look.back_fat_mm)
    return y, fascia + fat, fascia


def _reach_behind(anatomy: Anatomy, s: FloatArray) -> FloatArray:
    """Distance from the back of the bodies to the fascia of the back, mm."""
    reach = np.array([44.0, 56.0, 53.0, 36.0, 18.0]) * anatomy.scale
    return np.interp(s, (-150.0, 0.0, 70.0, 105.0, 150.0), reach)


def _front_contour(look: Look, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(look.seed + 1)
    a, b = rng.uniform(-12, 12, 2)
    fold = rng.uniform(0, 22) * np.exp(-(((y - rng.uniform(10, 70)) / 9) ** 2))
    skin = -look.front_mm + a * np.sin(y / 70) + b * np.cos(y / 110) + fold
    return skin, skin + look.belly_fat_mm * (1 + 0.2 * np.sin(y / 45 + a))


def _paint_viscera(canvas: Canvas, anatomy: Anatomy, look: Look) -> None:
    """Bowel, vessels, liver or stomach above, bladder and rectum below, as unspecific shapes."""
    rng = canvas.rng
    for _ in range(int(rng.integers(16, 30))):
        x = rng.uniform(-look.front_mm + look.belly_fat_mm + 8, -28)
        y = rng.uniform(-170, 130)
        kind = ("viscera_dark", "viscera_bright", "gas", "fat_deep")[
            int(rng.choice(4, p=(0.38, 0.2, 0.12, 0.3)))
        ]
        outline = ellipse(
            (x, y), (rng.uniform(4, 15), rng.uniform(7, 30)), rng.uniform(-0.5, 0.5),
            rng.uniform(-0.12, 0.12, 3),
        )  # fmt: skip
        canvas.blend(outline, canvas.tissue(kind) * rng.uniform(0.8, 1.25), rng.uniform(0.6, 2.5))
    top = ellipse((-75 + rng.uniform(-15, 15), -150), (55, rng.uniform(45, 75)), 0.1)
    canvas.blend(top, canvas.tissue("viscera_dark") * rng.uniform(0.5, 1.2), 8.0)
    s = anatomy.line[:, 0]
    below = anatomy.place(s[s > 95], -anatomy.depth_at(s[s > 95]) / 2)
    pelvis = np.concatenate([below, [[-40, 260], [-75, 130]]])
    canvas.blend(pelvis, canvas.tissue("fat_deep"), 4.0)
    for _ in range(int(rng.integers(2, 5))):
        centre = (rng.uniform(-55, 45), rng.uniform(125, 190))
        dark = rng.random() < 0.65
        outline = ellipse(centre, (rng.uniform(8, 20), rng.uniform(8, 18)), rng.uniform(-1, 1))
        canvas.blend(outline, canvas.tissue("gas" if dark else "viscera_bright"), 1.0)


def _paint_behind(canvas: Canvas, anatomy: Anatomy, lateral_mm: float) -> None:
    """Muscle and ligament behind the canal, spinous processes (laminae beside the midline)."""
    rng, scale = canvas.rng, anatomy.scale
    s = np.arange(-260.0, anatomy.sac_end_s + 60, 2.0)
    front, _ = _canal(anatomy, s)
    behind = front + _canal_width(anatomy, s)
    outer = np.maximum(anatomy.depth_at(s) / 2 + _reach_behind(anatomy, s) - 1, behind + 2)
    strip = anatomy.strip(s, behind, outer)
    off = abs(lateral_mm) > 6
    canvas.fill(strip, "muscle" if off else "interspinous")
    _paint_streaks(canvas, anatomy, s, behind, outer)
    for body in anatomy.bodies[:10]:
        arc = anatomy.s_of(body.centre)
        lumbar = body.name.startswith("L")
        drop = (9.0 if lumbar else 19.0) * scale
        long = (33.0 if lumbar else 28.0) * scale * (0.45 if off else rng.uniform(0.8, 1.05))
        tall = (18.0 if lumbar else 9.0) * scale * rng.uniform(0.8, 1.15) * (1.4 if off else 1.0)
        if body.name == "L5":
            long, tall = long * 0.8, tall * 0.8
        root = float(np.interp(arc, s, behind)) + 2.5
        slope = 0.1 if lumbar else 0.45
        u = np.array([0.0, 0.15, 0.4, 0.75, 0.95, 1.03, 0.98, 0.75, 0.4, 0.15])
        v = np.array([-0.1, -0.3, -0.4, -0.5, -0.42, 0.05, 0.42, 0.52, 0.4, 0.22])
        v = v + rng.uniform(-0.06, 0.06, len(v))
        outline = anatomy.place(arc + drop + v * tall + u * long * slope, root + u * long)
        canvas.blend(outline, canvas.tissue("cortex"), 0.8)
        inner = anatomy.place(
            arc + drop + v * (tall - 3) + u * long * slope, root + 1.5 + u * (long - 3)
        )
        canvas.blend(inner, canvas.tissue("process") * float(rng.uniform(0.85, 1.3)), 0.7)
        gap = arc + drop + 0.75 * tall + 4
        fat = anatomy.place(
            gap + np.array([-6, -1, 6, 2.0]), root - 2.5 + np.array([0.0, 8.0, 0.5, -0.5])
        )
        canvas.blend(fat, canvas.tissue("epidural_fat"), 0.8)


def _paint_streaks(
    canvas: Canvas, anatomy: Anatomy, s: FloatArray, behind: FloatArray, outer: FloatArray
) -> None:
    """Fat between the fibres of muscle and ligament behind the canal."""
    rng = canvas.rng
    for _ in range(int(rng.integers(6, 20))):
        n = int(rng.integers(len(s)))
        u = behind[n] + (outer[n] - behind[n]) * rng.uniform(0.1, 0.95)
        length, slope, thick = rng.uniform(4, 14), rng.uniform(-0.6, 0.6), rng.uniform(0.8, 3.0)
        arc = s[n] + np.array([-length, 0.0, length, 0.0])
        offset = np.array([-slope * length, -thick, slope * length, thick])
        signal = canvas.tissue("fat_deep") * rng.uniform(0.5, 1.2)
        canvas.blend(anatomy.place(arc, u + offset), signal, rng.uniform(0.6, 1.6))


def _paint_canal(canvas: Canvas, anatomy: Anatomy, lateral_mm: float) -> None:
    s = np.arange(-260.0, anatomy.sac_end_s + 70, 1.5)
    front, back = _canal(anatomy, s)
    wall = anatomy.depth_at(s) / 2
    width = _canal_width(anatomy, s)
    beyond = width * np.clip((anatomy.sac_end_s + 45 - s) / 50.0, 0.15, 1)
    outline = anatomy.strip(s, wall, np.maximum(front + beyond, back) + 1.0)
    inside = 1 - (abs(lateral_mm) / 11.0) ** 2
    canvas.fill(outline, "epidural_fat", 0.85 if inside > 0 else 0.6)
    canvas.stroke(anatomy.place(s, front + beyond + 0.8), "muscle", 1.3)
    if inside <= 0:
        _paint_pedicles(canvas, anatomy)
        return
    keep = s < anatomy.sac_end_s
    s, front, back = s[keep], front[keep], back[keep]
    middle, half = (front + back) / 2, (back - front) / 2 * np.sqrt(inside)
    for disc in anatomy.discs:  # bulging discs dent the sac
        dent = max(disc.bulge - 1.0, 0.0) * np.exp(-(((s - disc.s) / (0.7 * disc.height + 2)) ** 2))
        middle, half = middle + dent / 2, np.maximum(half - dent / 2, 0.5)
    sac = anatomy.strip(s, middle - half, middle + half)
    canvas.stroke(sac, "ligament", 1.4, closed=True)
    canvas.fill(sac, "csf")
    _paint_cord(canvas, anatomy, s, middle, half, inside)


def _canal(anatomy: Anatomy, s: FloatArray) -> tuple[FloatArray, FloatArray]:
    """U of the front and of the back of the thecal sac; equal beyond its end."""
    scale = anatomy.scale
    lower = np.interp(s, (0.0, 80.0, 115.0, 150.0), (1.2, 2.0, 4.5, 5.0)) * scale
    front = anatomy.depth_at(s) / 2 + lower
    taper = np.sqrt(np.clip((anatomy.sac_end_s - s) / 45.0, 0, 1))
    return front, front + _canal_width(anatomy, s) * taper


def _canal_width(anatomy: Anatomy, s: FloatArray) -> FloatArray:
    """Width of the thecal sac where nothing narrows it, mm."""
    width = np.array([13.5, 15.0, 14.0, 11.5]) * anatomy.scale
    return np.interp(s, (-200.0, -60.0, 20.0, 90.0), width)


def _paint_cord(
    canvas: Canvas, anatomy: Anatomy, s: FloatArray, middle: FloatArray, half: FloatArray,
    inside: float,
) -> None:  # fmt: skip
    taper = np.clip((anatomy.conus_s - s) / 28.0, 0, 1) ** 0.7
    cord = 0.5 * half * taper * inside
    upper = s < anatomy.conus_s
    if upper.sum() > 2 and inside > 0.5:
        centre = middle + 0.1 * half
        shape = anatomy.strip(s[upper], (centre - cord)[upper], (centre + cord)[upper])
        canvas.blend(shape, canvas.tissue("cord"), 0.6)
    rng = canvas.rng
    for share in rng.uniform(0.15, 0.75, int(rng.integers(3, 7))):  # roots lie at the back
        low, high = anatomy.conus_s - 15, anatomy.sac_end_s - rng.uniform(15, 60)
        part = (s > low) & (s < high)
        if part.sum() > 2:
            u = (middle + share * half)[part]
            thin = anatomy.strip(s[part], u - 0.45, u + 0.45)
            canvas.blend(thin, canvas.tissue("roots"), 0.5)


def _paint_pedicles(canvas: Canvas, anatomy: Anatomy) -> None:
    for body in anatomy.bodies[:10]:
        near, far = 0.4 * body.depth, 0.5 * body.depth + 14
        top, low = -0.38 * body.height, 0.05 * body.height
        outline = local(body.centre, body.angle, [near, far, far, near], [top, top - 3, low, low])
        canvas.stroke(outline, "cortex", 1.6, closed=True)
        canvas.fill(outline, "process")


def _paint_prevertebral(canvas: Canvas, anatomy: Anatomy) -> None:
    rng = canvas.rng
    s = anatomy.line[:, 0]
    s = s[(s > -240) & (s < 120)]
    front = -anatomy.depth_at(s) / 2
    ragged = 2.5 * np.interp(s, s[::24], rng.standard_normal(len(s[::24])))
    strip = anatomy.strip(s, front - 1.0, front - 6.0 - np.abs(ragged))
    canvas.blend(strip, canvas.tissue("fat_deep") * 0.9, 1.0)
    if rng.random() < 0.7:  # a vessel with flowing blood has no signal
        end, gap, width = rng.uniform(20, 70), rng.uniform(6, 11), rng.uniform(7, 14)
        short = s[(s < end) & (s > -220)]
        edge = -anatomy.depth_at(short) / 2 - gap
        sway = 3 * np.sin(short / 37 + rng.uniform(0, 6))
        tube = anatomy.strip(short, edge + sway, edge + sway - width)
        canvas.blend(tube, canvas.tissue("vessel") * rng.uniform(1, 3), 1.0)
    canvas.stroke(anatomy.place(s, front - 0.3), "ligament", 1.2)


def _paint_sacrum(canvas: Canvas, anatomy: Anatomy, look: Look) -> None:
    """The fused segments below S1, with the remnants of their discs as dark lines."""
    segments = anatomy.bodies[10:]
    places = [anatomy.s_of(body.centre) for body in segments]
    s = np.linspace(places[0], places[-1] + segments[-1].height / 2, 60)
    half = anatomy.depth_at(s) / 2
    for margin, tissue, factor in ((0.0, "cortex", 1.0), (1.0, "marrow", 0.92 * look.marrow)):
        canvas.fill(anatomy.strip(s, margin - half, half - margin), tissue, factor)
    for n, (upper, lower) in enumerate(itertools.pairwise(segments)):
        middle = (places[n] + places[n + 1] + (upper.height - lower.height) / 2) / 2
        gap = places[n + 1] - lower.height / 2 - (places[n] + upper.height / 2)
        reach = float(anatomy.depth_at(middle)) * (0.44 if n == 0 else 0.34)
        thick = max(gap * (0.4 if n == 0 else 0.3), 0.5)
        u = np.array([-reach, 0.0, reach, reach, 0.0, -reach])
        v = np.array([-0.7, -1.0, -0.7, 0.7, 1.0, 0.7]) * thick
        canvas.blend(anatomy.place(middle + v, u), canvas.tissue("annulus"), 0.3)
