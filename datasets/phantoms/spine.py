"""Rendering shared by lumbar spines and necks: vertebral bodies, discs and the coil."""

from __future__ import annotations

import numpy as np

from spineline.datasets.common.arrays import Float32Array, FloatArray
from spineline.datasets.phantoms.anatomy import Anatomy, Body, Disc
from spineline.datasets.phantoms.canvas import Canvas, Look, View, ellipse, local


def paint_body(canvas: Canvas, body: Body, look: Look, lateral_mm: float) -> None:
    """Paint a vertebral body with endplates, vein, Schmorl's nodes and marrow changes."""
    rng = canvas.rng
    sacral = body.name.startswith("S")
    signal = look.marrow * float(rng.uniform(0.94, 1.06)) * (0.92 if sacral else 1.0)
    canvas.fill(_body_outline(body, 0.0, lateral_mm), "cortex")
    canvas.fill(_body_outline(body, 1.0, lateral_mm), "marrow", signal)
    for side, change in zip((-1, 1), body.modic, strict=True):
        if change:
            band = local(
                body.centre, body.angle,
                np.array([-0.44, 0.42, 0.38, 0.0, -0.36]) * body.depth,
                side * np.array([0.43, 0.43, 0.26, 0.18, 0.28]) * body.height,
            )  # fmt: skip
            marrow = canvas.tissue("marrow") * signal
            canvas.blend(band, marrow * (1 + 0.65 * change), 1.2)
    if not sacral and abs(lateral_mm) < 6 and rng.random() < 0.8:  # basivertebral vein
        vein = local(
            body.centre, body.angle,
            np.array([0.47, 0.3, 0.47]) * body.depth, np.array([-0.1, 0.0, 0.1]) * body.height,
        )  # fmt: skip
        canvas.blend(vein, canvas.tissue("vein") * 0.85, 0.5)
    for side, where, radius in body.notches:
        place = local(body.centre, body.angle, where * body.depth, side * 0.46 * body.height)
        centre = (float(place[0]), float(place[1]))
        wobble = rng.uniform(-0.15, 0.15, 2)
        rim = ellipse(centre, (radius * 1.3 + 1, radius + 1), -body.angle, wobble)
        canvas.blend(rim, canvas.tissue("cortex"), 0.4)
        inner = ellipse(centre, (radius * 1.3, radius), -body.angle, wobble)
        canvas.blend(inner, canvas.tissue("annulus") * 1.7, 0.5)


def paint_disc(canvas: Canvas, disc: Disc) -> None:
    """Paint annulus with bulges and nucleus with cleft; bodies are painted over its rims later."""
    half, tall = disc.depth / 2, disc.height / 2 + 2.2
    t = np.linspace(-np.pi / 2, np.pi / 2, 15)
    back = np.stack([half + (0.4 + disc.bulge) * np.cos(t) ** 0.8, tall * np.sin(t)], 1)
    front = np.stack([-half - (0.6 + disc.bulge_front) * np.cos(t) ** 0.8, -tall * np.sin(t)], 1)
    ring = np.concatenate([back, front])
    canvas.fill(local(disc.centre, disc.angle, ring[:, 0], ring[:, 1]), "annulus")
    reach = 0.72 * half
    nucleus = np.stack([
        -0.04 * half + reach * np.cos(2 * t) , 0.38 * disc.height * np.sin(2 * t)
    ], 1)  # fmt: skip
    bright = canvas.tissue("annulus") + disc.nucleus * (0.6 if canvas.column == 0 else 0.06)
    outline = local(disc.centre, disc.angle, nucleus[:, 0], nucleus[:, 1])
    canvas.blend(outline, bright, 0.11 * disc.height + 0.3)
    if disc.nucleus > 0.45 and disc.height > 5.4:
        ends = np.array([-0.5, 0.45, 0.45, -0.5]) * half
        strip = local(disc.centre, disc.angle, ends, [-0.4, -0.4, 0.4, 0.4])
        canvas.blend(strip, bright * 0.7, 0.5)


def paint_herniation(canvas: Canvas, disc: Disc, lateral_mm: float) -> None:
    """Paint what reaches into the canal: a protrusion, or an extrusion that has moved down."""
    if "v3" not in disc.tags and "v4" not in disc.tags:
        return
    size = disc.bulge * float(np.sqrt(max(1 - (lateral_mm / 13.0) ** 2, 0.0)))
    if size < 1:
        return
    extruded = "v4" in disc.tags
    t = np.linspace(-1, 1, 25)
    reach = disc.height * (0.75 if not extruded else 0.9)
    down = disc.migration * (1.5 if extruded else 0.0)
    v = t * reach + np.clip(t, 0, 1) * down
    peak = (down / (reach + down)) * 0.5  # the peak moves down with the migration
    profile = np.cos(np.pi / 2 * np.clip((t - peak) / (1 + np.sign(t - peak) * -peak), -1, 1))
    u = disc.depth / 2 - 1.5 + (size + 1.5) * np.maximum(profile, 0) ** 0.8
    rim = local(disc.centre, disc.angle, u, v)
    inside = local(disc.centre, disc.angle, u - 0.9, v * 0.92)
    root = local(disc.centre, disc.angle, [disc.depth / 2 - 3.0] * 2, [v[-1] * 0.5, v[0] * 0.5])
    canvas.blend(np.concatenate([rim, root]), canvas.tissue("ligament"), 0.4)
    canvas.blend(
        np.concatenate([inside, root]), canvas.tissue("annulus") * (2.0 if extruded else 1.3), 0.5
    )


def coil_sensitivity(anatomy: Anatomy, look: Look, view: View) -> Float32Array:
    """Return the sensitivity of a coil at the back: (rows, columns), 1 at the canal behind L3."""
    rows, columns = view.size_hw
    x = (np.arange(columns) - view.origin_xy[0]) * view.spacing_mm
    y = (np.arange(rows) - view.origin_xy[1]) * view.spacing_mm
    across = np.exp(-np.clip(60 - x, -40, 400) / look.coil_mm)
    across /= np.exp(-np.clip(60 - 22.0 * anatomy.scale, -40, 400) / look.coil_mm)
    along = np.exp(-0.5 * ((y - look.coil_centre_mm) / look.coil_length_mm) ** 4)
    return (along[:, None] * across[None, :]).astype(np.float32)


def _body_outline(body: Body, shrink: float = 0.0, lateral_mm: float = 0.0) -> FloatArray:
    """Outline of a body in mm, with waist, hollow endplates, wedge, lips and rounded corners."""
    depth = body.depth * np.sqrt(max(1 - (lateral_mm / 32.0) ** 2, 0.2)) - 2 * shrink
    height = body.height - 2 * shrink
    t = np.linspace(-1, 1, 17)
    rim = np.abs(t) ** 8 * 0.05 * height  # rounds the corners
    hollow = 0.05 * height * (1 - t**2)
    u = t * depth / 2
    front = 1 - body.wedge * (1 - t) / 2  # lost at the front
    upper = np.stack([u, (-height / 2 + hollow + rim) * front], 1)
    lower = np.stack([u, (height / 2 - hollow - rim) * front], 1)
    lip_front, lip_back = (max(lip - shrink, 0.0) for lip in body.lips)
    waist = 0.05 * depth * (1 - t**2)
    flare = np.abs(t) ** 6
    back = np.stack([depth / 2 - waist * 1.2 + flare * lip_back, t * height / 2 * 0.96], 1)
    ahead = np.stack(
        [-depth / 2 + waist - flare * lip_front, t * height / 2 * 0.96 * (1 - body.wedge)], 1
    )
    ring = np.concatenate([upper[1:-1], back, lower[::-1][1:-1], ahead[::-1]])
    return local(body.centre, body.angle, ring[:, 0], ring[:, 1])
