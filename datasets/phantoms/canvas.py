"""The canvas of synthetic slices: tissues painted as polygons in mm, then rendered to an image.

A canvas has twice the resolution of the image. Tissues are painted from the background to the
foreground. Texture, blur, the fall-off of a spine coil and Rician noise follow. Signals are
relative to cerebrospinal fluid in T2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import Float32Array, FloatArray

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
    """The frame in which an anatomy is drawn.

    Attributes:
        size_hw: rows and columns.
        spacing_mm: size of a pixel, in both directions.
        origin_xy: pixel of the anatomy's origin: the centre of L3, or of C5 in a neck.
    """

    size_hw: tuple[int, int]
    spacing_mm: float
    origin_xy: tuple[float, float]

    def to_pixels(self, points_mm: npt.ArrayLike) -> FloatArray:
        """Map points in mm to (N, 2) pixels (x, y)."""
        points = np.asarray(points_mm, dtype=np.float64).reshape(-1, 2)
        return points / self.spacing_mm + np.array(self.origin_xy)


@dataclass(frozen=True, slots=True)
class Look:
    """Appearance of a patient and a scanner in the image, drawn once per study.

    Attributes:
        back_fat_mm: thickness of the fat under the skin of the back, at T9, L3 and S3.
        front_mm: distance from L3 to the belly's skin.
        belly_fat_mm: thickness of the fat there.
        marrow: factor on the signal of bone marrow.
        coil_mm: reach of the coil from the back; larger is more uniform.
        coil_length_mm: half of its reach along the body.
        coil_centre_mm: its centre along the body, from L3.
        blur_px: width of the point spread in pixels.
        noise: standard deviation of the noise.
        seed: random seed of textures and viscera.
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
    """Draw a random look."""
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
        """Return the signal of a tissue in this contrast."""
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

    def finish(
        self, look: Look, coil: Float32Array, noise_rng: np.random.Generator
    ) -> Float32Array:
        """Apply texture, blur, downsampling, coil and noise."""
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

    def smooth_noise(self, grain_mm: float) -> Float32Array:
        """Return noise of unit variance with grains of about this width, in the canvas's size."""
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
    """Return (40, 2) points in mm of an ellipse, rotated by radians and optionally uneven."""
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
    """Return points in mm of coordinates relative to a body: u to the back, v down its axis."""
    u, v = np.asarray(u, dtype=np.float64), np.asarray(v, dtype=np.float64)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([centre[0] + c * u + s * v, centre[1] - s * u + c * v], axis=-1)
