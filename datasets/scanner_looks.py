"""Simulation of another scanner, coil or protocol for the same frame.

Every function takes a grey frame, uint8 (H, W), and returns a new one; only `cut_view` changes the
shape. `scanner_look` draws a random mixture for training. Networks trained on one scanner's frames
fail on others mostly because of brightness, then because of noise, sharpness and coil shading.
"""

from __future__ import annotations

import numpy as np

from spineline.datasets.common.arrays import Float32Array, FloatArray, PixelArray

_LEAST_ROWS = 64
"""Fewest rows that a cut leaves."""


def gamma(image: PixelArray, exponent: float) -> PixelArray:
    """Raise grey values to a power; exponents above 1 darken the mid-greys.

    >>> gamma(np.array([[0, 128, 255]], dtype=np.uint8), 2.0).tolist()
    [[0, 64, 255]]
    """
    return _mapped(image, (np.arange(256, dtype=np.float32) / 255) ** exponent)


def window(image: PixelArray, low: float, high: float) -> PixelArray:
    """Window the frame: ``low`` and ``high``, fractions of 255, become black and white."""
    return _mapped(image, (np.arange(256, dtype=np.float32) / 255 - low) / (high - low))


def coil_shading(
    image: PixelArray, centre_xy: tuple[float, float], reach: float, floor: float
) -> PixelArray:
    """Attenuate the signal with the distance from a surface coil.

    Args:
        image: uint8 (H, W).
        centre_xy: centre of the coil's field, as fractions of width and height.
        reach: standard deviation of the Gaussian fall-off, as a fraction of the height.
        floor: fraction of the signal that is left far away.
    """
    height, width = image.shape
    x = (np.arange(width, dtype=np.float32) - centre_xy[0] * width) / (reach * height)
    y = (np.arange(height, dtype=np.float32) - centre_xy[1] * height) / (reach * height)
    near = np.exp(-0.5 * y**2)[:, None] * np.exp(-0.5 * x**2)[None, :]
    return _to_uint8(image / np.float32(255) * (floor + (1 - floor) * near))


def fat_suppressed(image: PixelArray, amount: float) -> PixelArray:
    """Darken fat roughly as fat suppression does: broad bright areas, and grey marrow.

    Fluid keeps its brightness, because it lies in strips narrower than the blur that finds areas.

    Args:
        image: uint8 (H, W), a T2-weighted frame.
        amount: 0 changes nothing, 1 removes all of the fat's signal.
    """
    import cv2  # slow to import, and command settings import this module

    shares = image / np.float32(255)
    sigma = 0.04 * max(image.shape)
    broad = cv2.GaussianBlur(shares, (0, 0), sigma)
    fat = np.clip((broad - 0.25) / 0.35, 0, 1)
    marrow = shares ** np.float32(1 + 0.9 * amount)
    return _to_uint8(marrow * (1 - amount * fat))


def blur(image: PixelArray, sigma: float) -> PixelArray:
    """Apply a Gaussian blur of ``sigma`` pixels."""
    import cv2

    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.uint8)


def noise(image: PixelArray, sigma: float, rng: np.random.Generator) -> PixelArray:
    """Add Rician noise, as in magnitude images (Gudbjartsson and Patz 1995).

    Args:
        image: uint8 (H, W).
        sigma: noise in each of the two channels, as a fraction of 255.
        rng: source of all randomness.
    """
    real, imaginary = rng.normal(0, sigma, (2, *image.shape)).astype(np.float32)
    return _to_uint8(np.hypot(image / np.float32(255) + real, imaginary))


def anisotropic(image: PixelArray, factor: float, *, along_rows: bool) -> PixelArray:
    """Lower the resolution in one direction, and interpolate back as scanners do.

    Args:
        image: uint8 (H, W).
        factor: reduction of the number of pixels, above 1.
        along_rows: reduce the number of columns (left to right), else that of rows.
    """
    import cv2

    height, width = image.shape
    size = (
        (max(round(width / factor), 8), height)
        if along_rows
        else (width, max(round(height / factor), 8))
    )
    coarse = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    back = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(back, dtype=np.uint8)


def grey_curve(image: PixelArray, rng: np.random.Generator, strength: float) -> PixelArray:
    """Apply a random smooth rising grey curve, which changes the contrast between tissues."""
    steps = np.exp(rng.normal(0, strength, 6))
    knots = np.concatenate([[0], np.cumsum(steps)]) / steps.sum()
    curve = np.interp(np.arange(256) / 255, np.linspace(0, 1, 7), knots)
    return _mapped(image, curve.astype(np.float32))


def scanner_look(image: PixelArray, rng: np.random.Generator) -> PixelArray:
    """Simulate another scanner at random; only grey values change.

    Contrast and shading come first. Then the brightest pixels become white, as in the window of
    every frame. Brightness, resolution and noise follow.

    Args:
        image: uint8 (H, W).
        rng: source of all randomness.
    """
    if rng.random() < 0.15:
        image = fat_suppressed(image, rng.uniform(0.4, 1))
    if rng.random() < 0.25:
        centre = (rng.uniform(0.3, 1), rng.uniform(0.2, 0.8))
        image = coil_shading(image, centre, rng.uniform(0.35, 0.8), rng.uniform(0.15, 0.7))
    if rng.random() < 0.35:
        image = grey_curve(image, rng, 0.35)
    image = window(image, 0.0, max(_percentile(image, 99.5), 1.0) / 255)
    image = gamma(image, float(np.exp(rng.uniform(np.log(0.45), np.log(1.9)))))
    if rng.random() < 0.4:
        image = window(image, rng.uniform(-0.05, 0.08), rng.uniform(0.65, 1.25))
    if rng.random() < 0.2:
        image = anisotropic(image, rng.uniform(1.3, 2.5), along_rows=bool(rng.random() < 0.5))
    if rng.random() < 0.2:
        image = blur(image, rng.uniform(0.4, 1.3) * max(image.shape) / 320)
    if rng.random() < 0.25:
        image = noise(image, rng.uniform(0.01, 0.06), rng)
    return image


def cut_view(
    image: PixelArray, box_xyxy: FloatArray, rng: np.random.Generator
) -> tuple[PixelArray, int, FloatArray]:
    """Cut rows off above (up to four structures), below (up to two) or at both ends of the view.

    Args:
        image: uint8 (H, W).
        box_xyxy: (N, 4) boxes of the structures, pixels of the frame.
        rng: source of all randomness.

    Returns:
        The remaining rows, the index of the first of them, and the boxes (N, 4) in their frame. A
        box whose centre was cut off lies outside it. Without boxes nothing is cut.
    """
    if not len(box_xyxy):
        return image, 0, box_xyxy
    y = np.sort((box_xyxy[:, 1] + box_xyxy[:, 3]) / 2)
    first, last = 0, image.shape[0]
    at_top, at_bottom = rng.random() < 0.6, rng.random() < 0.5
    lost_above, lost_below = rng.integers(0, 5), rng.integers(0, 3)
    share_above, share_below = rng.random(2)
    if at_top:
        first = _between(0 if lost_above == 0 else y[lost_above - 1], y[lost_above], share_above)
    if at_bottom:
        end = image.shape[0] if lost_below == 0 else y[-lost_below]
        last = _between(y[-1 - lost_below], end, 1 - share_below)
    if last - first < _LEAST_ROWS:
        return image, 0, box_xyxy
    return image[first:last], first, box_xyxy - np.array([0, first, 0, first])


def _between(low: float, high: float, share: float) -> int:
    return int(low + share * (high - low))


def _mapped(image: PixelArray, shares: Float32Array | FloatArray) -> PixelArray:
    """Replace each of the 256 grey values by a fraction of 255."""
    import cv2

    return np.asarray(cv2.LUT(image, _to_uint8(shares)), dtype=np.uint8)


def _percentile(image: PixelArray, percent: float) -> float:
    """The percentile of the grey values as from `numpy.percentile`, in a third of the time."""
    below = np.cumsum(np.bincount(image.ravel(), minlength=256))
    place = float((below[-1] - 1) * (percent / 100))
    rank = int(place)
    ranks = (rank, min(rank + 1, int(below[-1]) - 1))
    low, high = (int(np.searchsorted(below, each, side="right")) for each in ranks)
    share = place - rank  # rounded as numpy rounds
    return high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share


def _to_uint8(shares: Float32Array | FloatArray) -> PixelArray:
    """Convert fractions of 255 to uint8, clipped and rounded."""
    return np.clip(np.rint(shares * 255), 0, 255).astype(np.uint8)
