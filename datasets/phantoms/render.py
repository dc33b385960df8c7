"""Painting a synthetic spine: one sagittal slice (or a transverse one) as a T2 or T1 image.

Tissues are painted as polygons on a canvas of twice the resolution, from the back of the picture to
the front, then given texture, the falling-off of a spine coil, blur and Rician noise. Signals are
relative to cerebrospinal fluid in T2.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from spineline.datasets.phantoms.anatomy import Anatomy, Body, Disc

FloatArray = npt.NDArray[np.float64]
FloatImage = npt.NDArray[np.float32]
Contrast = Literal["t2", "t1"]

_OVERSAMPLING = 2

# Signal in T2 and in T1, and strength of the texture.
_TISSUES: dict[str, tuple[float, float, float]] = {
    "air": (0.0, 0.0, 0.0),
    "abdomen": (0.4, 0.42, 0.4),
    "viscera_dark": (0.12, 0.22, 0.35),
    "viscera_bright": (0.5, 0.32, 0.3),
    "gas": (0.03, 0.03, 0.2),
    "fat": (0.86, 0.95, 0.12),
    "fat_front": (0.66, 0.85, 0.12),
    "fat_deep": (0.58, 0.8, 0.3),
    "epidural_fat": (0.76, 0.9, 0.15),
    "muscle": (0.17, 0.3, 0.5),
    "interspinous": (0.2, 0.3, 0.3),
    "ligament": (0.07, 0.08, 0.1),
    "cortex": (0.06, 0.06, 0.1),
    "marrow": (0.47, 0.55, 0.16),
    "process": (0.44, 0.5, 0.3),
    "csf": (1.0, 0.14, 0.04),
    "cord": (0.5, 0.38, 0.05),
    "roots": (0.62, 0.28, 0.1),
    "annulus": (0.1, 0.24, 0.15),
    "vein": (0.85, 0.3, 0.1),
    "vessel": (0.06, 0.1, 0.3),
}


@dataclass(frozen=True, slots=True)
class View:
    """The frame an anatomy is seen in.

    Attributes:
        size_hw: rows and columns.
        spacing_mm: of a pixel, both ways.
        origin_xy: pixel at which the anatomy's origin lies: the centre of L3, in a neck of C5.
    """

    size_hw: tuple[int, int]
    spacing_mm: float
    origin_xy: tuple[float, float]

    def to_pixels(self, points_mm: npt.ArrayLike) -> FloatArray:
        """(N, 2) pixels (x, y) of points in mm."""
        points = np.asarray(points_mm, dtype=np.float64).reshape(-1, 2)
        return points / self.spacing_mm + np.array(self.origin_xy)


@dataclass(frozen=True, slots=True)
class Look:
    """What a patient's and a scanner's habits do to the picture; drawn once per study.

    Attributes:
        back_fat_mm: thickness of the fat under the skin of the back, at T9, L3 and S3.
        front_mm: distance from L3 to the belly's skin.
        belly_fat_mm: thickness of the fat there.
        marrow: factor on the signal of bone marrow.
        coil_mm: reach of the coil from the back; larger is more even.
        coil_length_mm: reach along the body, half of it.
        coil_centre_mm: its centre along the body, from L3.
        blur_px: width of the point spread in pixels.
        noise: standard deviation of the noise.
        seed: of textures and viscera.
    """

    back_fat_mm: tuple[float, float, float]
    front_mm: float
    belly_fat_mm: float
    marrow: float
    coil_mm: float
    coil_length_mm: float
    coil_centre_mm: float
    blur_px: float
    noise: float
    seed: int


def draw_look(rng: np.random.Generator) -> Look:
    """A random look."""
    stout = float(rng.beta(1.5, 2.2))
    fat = 4 + 26 * stout
    return Look(
        back_fat_mm=(
            fat * rng.uniform(0.3, 0.7), fat * rng.uniform(0.7, 1.1), fat * rng.uniform(0.9, 1.4)
        ),
        front_mm=float(rng.uniform(95, 120) + 45 * stout),
        belly_fat_mm=float(8 + 30 * stout * rng.uniform(0.6, 1.2)),
        marrow=float(rng.uniform(0.8, 1.25)),
        coil_mm=float(rng.uniform(90, 260)),
        coil_length_mm=float(rng.uniform(150, 260)),
        coil_centre_mm=float(rng.uniform(-10, 35)),
        blur_px=float(rng.uniform(0.45, 0.8)),
        noise=float(rng.uniform(0.006, 0.03)),
        seed=int(rng.integers(1 << 31)),
    )  # fmt: skip


def render_sagittal(
    anatomy: Anatomy, look: Look, view: View, *, contrast: Contrast = "t2", lateral_mm: float = 0.0
) -> FloatImage:
    """One sagittal slice.

    Args:
        anatomy: what to draw.
        look: how.
        view: where.
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


class Canvas:
    """A signal and a texture-strength plane of twice the view's resolution, painted in mm."""

    def __init__(self, view: View, contrast: Contrast, rng: np.random.Generator) -> None:
        self.view = view
        self.column = 0 if contrast == "t2" else 1
        self.rng = rng
        size = (view.size_hw[0] * _OVERSAMPLING, view.size_hw[1] * _OVERSAMPLING)
        self.signal = np.zeros(size, np.float32)
        self.texture = np.zeros(size, np.float32)

    def tissue(self, name: str) -> float:
        """The signal of a tissue in this contrast."""
        return _TISSUES[name][self.column]

    def fill(self, points_mm: npt.ArrayLike, tissue: str, factor: float = 1.0) -> None:
        """Fill a polygon with a tissue."""
        corners = [self._fixed(points_mm)]
        cv2.fillPoly(self.signal, corners, self.tissue(tissue) * factor, shift=4)
        cv2.fillPoly(self.texture, corners, _TISSUES[tissue][2], shift=4)

    def stroke(
        self, points_mm: npt.ArrayLike, tissue: str, width_mm: float, *, closed: bool = False
    ) -> None:
        """Draw a line of a tissue."""
        width = max(1, round(width_mm / self.view.spacing_mm * _OVERSAMPLING))
        corners = [self._fixed(points_mm)]
        cv2.polylines(self.signal, corners, closed, self.tissue(tissue), width, shift=4)
        cv2.polylines(self.texture, corners, closed, _TISSUES[tissue][2], width, shift=4)

    def blend(self, points_mm: npt.ArrayLike, signal: float, softness_mm: float) -> None:
        """Blend a signal into a polygon with a soft edge."""
        corners = self._fixed(points_mm)
        margin = 3 * softness_mm / self.view.spacing_mm * _OVERSAMPLING
        low = np.maximum(np.floor(corners.min(axis=0) / 16 - margin).astype(int), 0)
        high = np.ceil(corners.max(axis=0) / 16 + margin).astype(int) + 1
        patch = self.signal[low[1] : high[1], low[0] : high[0]]
        if patch.size == 0:
            return
        mask = np.zeros(patch.shape, np.float32)
        cv2.fillPoly(mask, [corners - (low * 16).astype(np.int32)], 1.0, shift=4)
        sigma = max(softness_mm / self.view.spacing_mm * _OVERSAMPLING, 0.3)
        mask = cv2.GaussianBlur(mask, (0, 0), sigma)
        patch += mask * (signal - patch)

    def finish(self, look: Look, coil: FloatImage, noise_rng: np.random.Generator) -> FloatImage:
        """Texture, blur, downsampling, coil and noise."""
        grain = (
            0.3 * self.smooth_noise(2.0) + 0.45 * self.smooth_noise(5.0)
            + 0.55 * self.smooth_noise(14.0)
        )  # fmt: skip
        signal = self.signal * np.maximum(1 + self.texture * grain, 0.05)
        signal = cv2.GaussianBlur(signal, (0, 0), look.blur_px * _OVERSAMPLING)
        height, width = self.view.size_hw
        small = cv2.resize(signal, (width, height), interpolation=cv2.INTER_AREA) * coil
        real, imaginary = noise_rng.normal(0, look.noise, (2, height, width)).astype(np.float32)
        return np.hypot(small + real, imaginary).astype(np.float32)

    def smooth_noise(self, grain_mm: float) -> FloatImage:
        """Noise of unit variance whose grains are about so many mm wide, at the canvas's size."""
        step = grain_mm / self.view.spacing_mm * _OVERSAMPLING
        height, width = self.signal.shape
        small = (max(2, round(height / step)), max(2, round(width / step)))
        coarse = self.rng.standard_normal(small).astype(np.float32)
        return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)

    def _fixed(self, points_mm: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Points as OpenCV's fixed-point numbers (4 fractional bits) on the fine canvas."""
        pixels = (self.view.to_pixels(points_mm) + 0.5) * _OVERSAMPLING - 0.5
        return np.round(np.clip(pixels, -20_000, 20_000) * 16).astype(np.int32)


def ellipse(
    centre: tuple[float, float],
    radii: tuple[float, float],
    angle: float,
    wobble: FloatArray | None = None,
) -> FloatArray:
    """(40, 2) points mm of an ellipse, turned by an angle in radians, at will uneven."""
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = np.ones_like(t)
    if wobble is not None:
        for n, amplitude in enumerate(wobble, 2):
            radius += amplitude * np.sin(n * t + 7 * amplitude)
    x, y = radii[0] * np.cos(t) * radius, radii[1] * np.sin(t) * radius
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([centre[0] + c * x - s * y, centre[1] + s * x + c * y], axis=1)


def local(
    centre: tuple[float, float], angle: float, u: npt.ArrayLike, v: npt.ArrayLike
) -> FloatArray:
    """Points mm of coordinates beside a body: u to the back, v down its axis."""
    u, v = np.asarray(u, dtype=np.float64), np.asarray(v, dtype=np.float64)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([centre[0] + c * u + s * v, centre[1] - s * u + c * v], axis=-1)


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
    """From the back of the bodies to the fascia of the back, mm."""
    reach = np.array([44.0, 56.0, 53.0, 36.0, 18.0]) * anatomy.scale
    return np.interp(s, (-150.0, 0.0, 70.0, 105.0, 150.0), reach)


def _canal_width(anatomy: Anatomy, s: FloatArray) -> FloatArray:
    """Of the thecal sac, where nothing narrows it, mm."""
    width = np.array([13.5, 15.0, 14.0, 11.5]) * anatomy.scale
    return np.interp(s, (-200.0, -60.0, 20.0, 90.0), width)


def _front_contour(look: Look, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(look.seed + 1)
    a, b = rng.uniform(-12, 12, 2)
    fold = rng.uniform(0, 22) * np.exp(-(((y - rng.uniform(10, 70)) / 9) ** 2))
    skin = -look.front_mm + a * np.sin(y / 70) + b * np.cos(y / 110) + fold
    return skin, skin + look.belly_fat_mm * (1 + 0.2 * np.sin(y / 45 + a))


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


def _paint_viscera(canvas: Canvas, anatomy: Anatomy, look: Look) -> None:
    """Bowel, vessels, liver or stomach above, bladder and rectum below: shapes without a claim."""
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


def _paint_prevertebral(canvas: Canvas, anatomy: Anatomy) -> None:
    rng = canvas.rng
    s = anatomy.line[:, 0]
    s = s[(s > -240) & (s < 120)]
    front = -anatomy.depth_at(s) / 2
    ragged = 2.5 * np.interp(s, s[::24], rng.standard_normal(len(s[::24])))
    strip = np.concatenate([
        anatomy.place(s, front - 1.0), anatomy.place(s, front - 6.0 - np.abs(ragged))[::-1]
    ])  # fmt: skip
    canvas.blend(strip, canvas.tissue("fat_deep") * 0.9, 1.0)
    if rng.random() < 0.7:  # a vessel with flowing blood has no signal
        end, gap, width = rng.uniform(20, 70), rng.uniform(6, 11), rng.uniform(7, 14)
        short = s[(s < end) & (s > -220)]
        edge = -anatomy.depth_at(short) / 2 - gap
        sway = 3 * np.sin(short / 37 + rng.uniform(0, 6))
        tube = np.concatenate([
            anatomy.place(short, edge + sway), anatomy.place(short, edge + sway - width)[::-1]
        ])  # fmt: skip
        canvas.blend(tube, canvas.tissue("vessel") * rng.uniform(1, 3), 1.0)
    canvas.stroke(anatomy.place(s, front - 0.3), "ligament", 1.2)


def _canal(anatomy: Anatomy, s: FloatArray) -> tuple[FloatArray, FloatArray]:
    """U of the front and of the back of the thecal sac; equal where it has ended."""
    scale = anatomy.scale
    lower = np.interp(s, (0.0, 80.0, 115.0, 150.0), (1.2, 2.0, 4.5, 5.0)) * scale
    front = anatomy.depth_at(s) / 2 + lower
    taper = np.sqrt(np.clip((anatomy.sac_end_s - s) / 45.0, 0, 1))
    return front, front + _canal_width(anatomy, s) * taper


def _paint_behind(canvas: Canvas, anatomy: Anatomy, lateral_mm: float) -> None:
    """Muscle and ligament behind the canal, spinous processes (beside the midline: laminae)."""
    rng, scale = canvas.rng, anatomy.scale
    s = np.arange(-260.0, anatomy.sac_end_s + 60, 2.0)
    front, _ = _canal(anatomy, s)
    behind = front + _canal_width(anatomy, s)
    outer = np.maximum(anatomy.depth_at(s) / 2 + _reach_behind(anatomy, s) - 1, behind + 2)
    strip = np.concatenate([anatomy.place(s, behind), anatomy.place(s, outer)[::-1]])
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
    outline = np.concatenate([
        anatomy.place(s, wall), anatomy.place(s, np.maximum(front + beyond, back) + 1.0)[::-1]
    ])  # fmt: skip
    inside = 1 - (abs(lateral_mm) / 11.0) ** 2
    canvas.fill(outline, "epidural_fat", 0.85 if inside > 0 else 0.6)
    canvas.stroke(anatomy.place(s, front + beyond + 0.8), "muscle", 1.3)
    if inside <= 0:
        _paint_pedicles(canvas, anatomy)
        return
    keep = s < anatomy.sac_end_s
    s, front, back = s[keep], front[keep], back[keep]
    middle, half = (front + back) / 2, (back - front) / 2 * np.sqrt(inside)
    for disc in anatomy.discs:  # the sac gives way to what bulges into it
        dent = max(disc.bulge - 1.0, 0.0) * np.exp(-(((s - disc.s) / (0.7 * disc.height + 2)) ** 2))
        middle, half = middle + dent / 2, np.maximum(half - dent / 2, 0.5)
    sac = np.concatenate([anatomy.place(s, middle - half), anatomy.place(s, middle + half)[::-1]])
    canvas.stroke(sac, "ligament", 1.4, closed=True)
    canvas.fill(sac, "csf")
    _paint_cord(canvas, anatomy, s, middle, half, inside)


def _paint_cord(
    canvas: Canvas, anatomy: Anatomy, s: FloatArray, middle: FloatArray, half: FloatArray,
    inside: float,
) -> None:  # fmt: skip
    taper = np.clip((anatomy.conus_s - s) / 28.0, 0, 1) ** 0.7
    cord = 0.5 * half * taper * inside
    upper = s < anatomy.conus_s
    if upper.sum() > 2 and inside > 0.5:
        shape = np.concatenate([
            anatomy.place(s[upper], (middle + 0.1 * half - cord)[upper]),
            anatomy.place(s[upper], (middle + 0.1 * half + cord)[upper])[::-1],
        ])  # fmt: skip
        canvas.blend(shape, canvas.tissue("cord"), 0.6)
    rng = canvas.rng
    for share in rng.uniform(0.15, 0.75, int(rng.integers(3, 7))):  # roots lie at the back
        low, high = anatomy.conus_s - 15, anatomy.sac_end_s - rng.uniform(15, 60)
        part = (s > low) & (s < high)
        if part.sum() > 2:
            u = (middle + share * half)[part]
            thin = np.concatenate([
                anatomy.place(s[part], u - 0.45), anatomy.place(s[part], u + 0.45)[::-1]
            ])  # fmt: skip
            canvas.blend(thin, canvas.tissue("roots"), 0.5)


def _paint_pedicles(canvas: Canvas, anatomy: Anatomy) -> None:
    for body in anatomy.bodies[:10]:
        near, far = 0.4 * body.depth, 0.5 * body.depth + 14
        top, low = -0.38 * body.height, 0.05 * body.height
        outline = local(body.centre, body.angle, [near, far, far, near], [top, top - 3, low, low])
        canvas.stroke(outline, "cortex", 1.6, closed=True)
        canvas.fill(outline, "process")


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


def paint_body(canvas: Canvas, body: Body, look: Look, lateral_mm: float) -> None:
    """A vertebral body with endplates, vein, Schmorl's nodes and changes of its marrow."""
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


def _paint_sacrum(canvas: Canvas, anatomy: Anatomy, look: Look) -> None:
    """The fused segments below S1, with the remnants of their discs as dark lines."""
    segments = anatomy.bodies[10:]
    places = [anatomy.s_of(body.centre) for body in segments]
    s = np.linspace(places[0], places[-1] + segments[-1].height / 2, 60)
    half = anatomy.depth_at(s) / 2
    for margin, tissue, factor in ((0.0, "cortex", 1.0), (1.0, "marrow", 0.92 * look.marrow)):
        ring = [anatomy.place(s, margin - half), anatomy.place(s, half - margin)[::-1]]
        canvas.fill(np.concatenate(ring), tissue, factor)
    for n, (upper, lower) in enumerate(itertools.pairwise(segments)):
        middle = (places[n] + places[n + 1] + (upper.height - lower.height) / 2) / 2
        gap = places[n + 1] - lower.height / 2 - (places[n] + upper.height / 2)
        reach = float(anatomy.depth_at(middle)) * (0.44 if n == 0 else 0.34)
        thick = max(gap * (0.4 if n == 0 else 0.3), 0.5)
        u = np.array([-reach, 0.0, reach, reach, 0.0, -reach])
        v = np.array([-0.7, -1.0, -0.7, 0.7, 1.0, 0.7]) * thick
        canvas.blend(anatomy.place(middle + v, u), canvas.tissue("annulus"), 0.3)


def paint_disc(canvas: Canvas, disc: Disc) -> None:
    """Annulus with its bulges, and nucleus with its cleft; the bodies are painted over its rims."""
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
    """What reaches into the canal: a protrusion, or an extrusion that has moved down."""
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
    peak = (down / (reach + down)) * 0.5  # the summit sinks with what has moved
    profile = np.cos(np.pi / 2 * np.clip((t - peak) / (1 + np.sign(t - peak) * -peak), -1, 1))
    u = disc.depth / 2 - 1.5 + (size + 1.5) * np.maximum(profile, 0) ** 0.8
    rim = local(disc.centre, disc.angle, u, v)
    inside = local(disc.centre, disc.angle, u - 0.9, v * 0.92)
    root = local(disc.centre, disc.angle, [disc.depth / 2 - 3.0] * 2, [v[-1] * 0.5, v[0] * 0.5])
    canvas.blend(np.concatenate([rim, root]), canvas.tissue("ligament"), 0.4)
    canvas.blend(
        np.concatenate([inside, root]), canvas.tissue("annulus") * (2.0 if extruded else 1.3), 0.5
    )


def coil_sensitivity(anatomy: Anatomy, look: Look, view: View) -> FloatImage:
    """Sensitivity of a coil at the back: (rows, columns), 1 at the canal behind L3."""
    rows, columns = view.size_hw
    x = (np.arange(columns) - view.origin_xy[0]) * view.spacing_mm
    y = (np.arange(rows) - view.origin_xy[1]) * view.spacing_mm
    across = np.exp(-np.clip(60 - x, -40, 400) / look.coil_mm)
    across /= np.exp(-np.clip(60 - 22.0 * anatomy.scale, -40, 400) / look.coil_mm)
    along = np.exp(-0.5 * ((y - look.coil_centre_mm) / look.coil_length_mm) ** 4)
    return (along[:, None] * across[None, :]).astype(np.float32)


def render_transverse(
    anatomy: Anatomy, look: Look, size: int, spacing_mm: float, below_l3_mm: float
) -> FloatImage:
    """A simple transverse T2 slice: trunk, body or disc, canal, process and muscles.

    Args:
        anatomy: gives the body's depth.
        look: gives fat, blur and noise.
        size: rows and columns.
        spacing_mm: of a pixel, both ways.
        below_l3_mm: place of the slice along the body.

    Returns:
        (size, size) float32; the spine's body is in the middle, the back at the bottom.
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
