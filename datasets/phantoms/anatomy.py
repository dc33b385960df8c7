"""The anatomy of a synthetic lumbar spine: random sizes, curve and disease.

Frame: mm in the mid-sagittal plane, x to the back, y to the feet, origin at the centre of L3.
Points near the spine are also given as (s, u). Here s is the arc length from L3 towards the feet
along the line of body centres, and u the distance from that line towards the back.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.labels import LEVELS

_VERTEBRAE = ("T8", "T9", "T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5")
_SACRUM = ("S1", "S2", "S3", "S4", "S5")
_DISCS = tuple(f"{a}-{b}" for a, b in itertools.pairwise((*_VERTEBRAE, "S1")))
# Typical adult sizes in mm, top to bottom; heights along the spine, depths from front to back.
_HEIGHTS = (20.5, 21.5, 22.5, 23.5, 24.5, 25.5, 26.5, 27.0, 27.0, 27.0)
_DEPTHS = (26.5, 28.0, 29.5, 30.5, 32.0, 33.5, 35.0, 36.0, 36.5, 36.5)
_DISC_HEIGHTS = (4.5, 5.0, 5.5, 6.5, 8.0, 9.0, 9.5, 10.5, 11.0, 10.0)  # below each vertebra
_SACRAL_HEIGHTS = (27.0, 23.0, 19.0, 16.0, 14.0)
_SACRAL_DEPTHS = (31.0, 22.0, 15.0, 11.0, 8.0)
# Direction of the line of centres at each vertebra: degrees from straight down, to the back.
_ANGLES = (2.0, -2.0, -5.0, -8.0, -10.5, -12.0, -12.0, -9.0, -1.5, 12.0)
_SACRAL_ANGLES = (34.0, 45.0, 46.0, 36.0, 18.0)


@dataclass(frozen=True, slots=True)
class Body:
    """One vertebral body (or sacral segment).

    Attributes:
        name: ``T8`` … ``L5``, ``S1`` … ``S5``.
        centre: (x, y) mm.
        angle: direction of its axis in radians from straight down, positive to the back.
        height, depth: mm.
        wedge: fraction of the front height that is lost.
        lips: length in mm of the bony lips at the front and back corners (osteophytes).
        modic: signal change under the upper and the lower endplate, -1 dark … 1 bright, 0 none.
        notches: Schmorl's nodes: (endplate, -1 upper or 1 lower; u / depth; radius mm).
        degenerative: whether it is labelled v2.
    """

    name: str
    centre: tuple[float, float]
    angle: float
    height: float
    depth: float
    wedge: float = 0.0
    lips: tuple[float, float] = (0.0, 0.0)
    modic: tuple[float, float] = (0.0, 0.0)
    notches: tuple[tuple[int, float, float], ...] = ()
    degenerative: bool = False


@dataclass(frozen=True, slots=True)
class Disc:
    """One disc.

    Attributes:
        name: such as ``L4-L5``.
        centre: (x, y) mm.
        angle: direction of its axis, as in [Body][].
        height, depth: mm; the depth is that of the adjacent bodies.
        s: arc length of its centre.
        tags: pathology, ``v1`` … ``v5``.
        nucleus: brightness of the nucleus, 0 dark … 1 healthy.
        bulge: mm beyond the bodies at the back.
        bulge_front: mm beyond the bodies at the front.
        migration: mm by which a herniation has moved down.
    """

    name: str
    centre: tuple[float, float]
    angle: float
    height: float
    depth: float
    s: float
    tags: tuple[str, ...]
    nucleus: float
    bulge: float
    bulge_front: float
    migration: float


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A whole spine, lumbar (T8 to S5) or cervical (C2 to T4).

    Attributes:
        bodies: top to bottom.
        discs: top to bottom.
        line: (N, 3) dense samples of the line of centres: s, x, y.
        scale: body size, 1 for an average adult.
        conus_s: arc length of the end of the cord.
        sac_end_s: arc length of the end of the thecal sac.
    """

    bodies: tuple[Body, ...]
    discs: tuple[Disc, ...]
    line: FloatArray
    scale: float
    conus_s: float
    sac_end_s: float
    _tangent: FloatArray = field(init=False, repr=False)
    _places: tuple[float, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Compute once what each of thousands of shapes needs."""
        tangent = np.gradient(self.line[:, 1:], self.line[:, 0], axis=0)
        object.__setattr__(self, "_tangent", tangent)
        object.__setattr__(self, "_places", tuple(self.s_of(body.centre) for body in self.bodies))

    def place(self, s: npt.ArrayLike, u: npt.ArrayLike) -> FloatArray:
        """Map curve coordinates (s, u) to (N, 2) points in mm."""
        arc = np.asarray(s, dtype=np.float64)
        points = np.stack([np.interp(arc, self.line[:, 0], self.line[:, k]) for k in (1, 2)], -1)
        return points + np.asarray(u, dtype=np.float64)[..., None] * self._back(arc)

    def strip(self, s: FloatArray, near: npt.ArrayLike, far: npt.ArrayLike) -> FloatArray:
        """Return the (2 N, 2) outline in mm of a strip along the spine between two distances u."""
        return np.concatenate([self.place(s, near), self.place(s, far)[::-1]])

    def depth_at(self, s: float | FloatArray) -> FloatArray:
        """Return the depth of the bodies at arc lengths, mm."""
        return np.interp(np.asarray(s), self._places, [body.depth for body in self.bodies])

    def s_of(self, point: tuple[float, float]) -> float:
        """Return the arc length of the line's sample nearest to a point."""
        distance = np.hypot(self.line[:, 1] - point[0], self.line[:, 2] - point[1])
        return float(self.line[int(distance.argmin()), 0])

    def levels(self) -> list[tuple[str, tuple[float, float], tuple[str, ...]]]:
        """Return the eleven levels, top to bottom: name, centre (x, y) mm, pathology."""
        found = {disc.name: (disc.centre, disc.tags) for disc in self.discs}
        found |= {b.name: (b.centre, ("v2",) if b.degenerative else ("v1",)) for b in self.bodies}
        return [(level, *found[level]) for level in LEVELS]

    def _back(self, arc: FloatArray) -> FloatArray:
        along = np.stack([np.interp(arc, self.line[:, 0], self._tangent[:, k]) for k in (0, 1)], -1)
        along /= np.linalg.norm(along, axis=-1, keepdims=True)
        return np.stack([along[..., 1], -along[..., 0]], axis=-1)


@dataclass(frozen=True, slots=True)
class _DiscTraits:
    """Disease of one disc, as in [Disc][], before scaling; ``loss`` is the lost height fraction."""

    tags: tuple[str, ...]
    nucleus: float
    bulge: float
    bulge_front: float
    migration: float
    loss: float


@dataclass(frozen=True, slots=True)
class _BodyTraits:
    """Disease of one body, as in [Body][]."""

    lips: tuple[float, float] = (0.0, 0.0)
    modic: tuple[float, float] = (0.0, 0.0)
    wedge: float = 0.0
    degenerative: bool = False


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a random spine: size, lordosis, sacral slope, and disease that grows towards L5-S1."""
    scale = float(rng.uniform(0.88, 1.06))
    age = float(rng.beta(1.6, 1.6))
    discs = [_disease(rng, name, age) for name in _DISCS]
    bodies = [_body_disease(rng, age) for _ in _VERTEBRAE]
    heights, depths, angles = _sizes(rng, scale, [disc.loss for disc in discs])
    line, middles = line_of_centres(
        heights, angles, origin=2 * _VERTEBRAE.index("L3"), above=60.0, below=40.0
    )
    notches = _notches(rng, discs)
    names = (*_VERTEBRAE, *_SACRUM)
    made_bodies = []
    for n, name in enumerate(names):
        traits = bodies[n] if n < len(bodies) else _BodyTraits()
        nodes = notches[n] if n < len(notches) else ()
        made_bodies.append(
            Body(
                name, middles[2 * n][1:], angles[2 * n], heights[2 * n], depths[n], traits.wedge,
                traits.lips, traits.modic, nodes, traits.degenerative,
            )
        )  # fmt: skip
    made_discs = []
    for n, (name, disc) in enumerate(zip(_DISCS, discs, strict=True)):
        s, *centre = middles[2 * n + 1]
        depth = (depths[n] + depths[n + 1]) / 2
        made_discs.append(
            Disc(
                name, (centre[0], centre[1]), angles[2 * n + 1], heights[2 * n + 1], depth, s,
                disc.tags, disc.nucleus, disc.bulge * scale, disc.bulge_front * scale,
                disc.migration * scale,
            )
        )  # fmt: skip
    at = dict(zip(names, (middles[2 * n][0] for n in range(len(names))), strict=True))
    conus = at["L1"] + float(rng.normal(0, 10)) * scale
    sac_end = at["S2"] + float(rng.normal(2, 7)) * scale
    return Anatomy(tuple(made_bodies), tuple(made_discs), line, scale, conus, sac_end)


def line_of_centres(
    heights: Sequence[float],
    angles: Sequence[float],
    *,
    origin: int,
    above: float,
    below: float,
) -> tuple[FloatArray, list[tuple[float, float, float]]]:
    """Compute the curve through the centres of bodies and discs.

    Args:
        heights: mm, of alternating bodies and discs, top to bottom.
        angles: radians, of their axes.
        origin: index of the element in whose middle s, x and y are 0.
        above: mm by which the line extends above the topmost element.
        below: mm by which it extends below the lowest.

    Returns:
        (N, 3) dense samples of s, x, y in mm, and (s, x, y) of each element's middle.
    """
    ends = np.concatenate([[0.0], np.cumsum(heights)])
    middles = (ends[:-1] + ends[1:]) / 2
    s = np.arange(-above, ends[-1] + below, 0.5)
    turn = np.interp(s, middles, angles)
    xy = np.cumsum(np.stack([np.sin(turn), np.cos(turn)], axis=1) * 0.5, axis=0)
    xy -= [np.interp(middles[origin], s, xy[:, k]) for k in (0, 1)]
    x, y = (np.interp(middles, s, xy[:, k]) for k in (0, 1))
    places = zip((middles - middles[origin]).tolist(), x.tolist(), y.tolist(), strict=True)
    return np.column_stack([s - middles[origin], xy]), list(places)


def _sizes(
    rng: np.random.Generator, scale: float, losses: Sequence[float]
) -> tuple[list[float], list[float], list[float]]:
    """Heights and angles of alternating bodies and discs, and depths of bodies; mm and radians."""
    slender, tall_discs = rng.normal(1, 0.05), rng.normal(1, 0.08)
    tilt, curve, slope = rng.normal(0, 5.5), rng.normal(1, 0.35), rng.normal(0, 6.0)
    angles = tilt + curve * np.array(_ANGLES) + np.linspace(0, 1, len(_ANGLES)) ** 3 * slope / 2
    sacral = tilt + slope + (0.5 + 0.5 * curve) * np.array(_SACRAL_ANGLES)
    at_bodies = np.concatenate([angles + rng.normal(0, 0.8, len(angles)), sacral])
    bodies = [h * scale * rng.normal(1, 0.025) for h in (*_HEIGHTS, *_SACRAL_HEIGHTS)]
    gaps = [
        h * scale * tall_discs * rng.normal(1, 0.05) * (1 - loss)
        for h, loss in zip(_DISC_HEIGHTS, losses, strict=True)
    ] + [rng.uniform(2.0, 4.5) * scale, 1.6, 1.2, 1.0]
    depths = [d * scale * slender * rng.normal(1, 0.02) for d in (*_DEPTHS, *_SACRAL_DEPTHS)]
    at_gaps = (at_bodies[:-1] + at_bodies[1:]) / 2
    heights = [value for pair in zip(bodies, [*gaps, 0.0], strict=True) for value in pair][:-1]
    turns = [value for pair in zip(at_bodies, [*at_gaps, 0.0], strict=True) for value in pair][:-1]
    return heights, depths, [float(np.radians(turn)) for turn in turns]


def _disease(rng: np.random.Generator, name: str, age: float) -> _DiscTraits:
    lower = {"L3-L4": 0.12, "L4-L5": 0.25, "L5-S1": 0.22}.get(name, 0.0)
    sick = float(np.clip(0.15 + 0.6 * age**1.5 + lower, 0, 0.95))
    shares = np.array([1 - sick, 0.58 * sick, 0.29 * sick, 0.13 * sick])
    if name not in LEVELS:
        shares = np.array([1 - 0.3 * age, 0.3 * age, 0.0, 0.0])
    grade = int(rng.choice(4, p=shares / shares.sum()))
    tags: tuple[str, ...] = (f"v{grade + 1}",)
    if name in LEVELS and rng.random() < 0.05 + 0.07 * age:
        tags = ("v5",) if grade == 0 else (*tags, "v5")
    well = grade == 0
    return _DiscTraits(
        tags=tags,
        nucleus=float(rng.uniform(0.5, 1.0) if well else rng.beta(1.2, 5.0)),
        bulge=float(rng.uniform(*((0.0, 0.6), (1.2, 2.6), (3.2, 5.2), (6.0, 8.5))[grade])),
        bulge_front=float(rng.uniform(0.0, 0.8) if well else rng.uniform(0.8, 2.8)),
        migration=float(rng.uniform(3.0, 8.0) if grade == 3 else 0.0),
        loss=float(rng.uniform(0.0, 0.08) if well else rng.uniform(0.05, 0.38)),
    )


def _body_disease(rng: np.random.Generator, age: float) -> _BodyTraits:
    if rng.random() > 0.08 + 0.55 * age:
        return _BodyTraits()
    lipped, changed, wedged = (bool(draw) for draw in rng.random(3) < (0.75, 0.4, 0.3))
    lips, modic = (0.0, 0.0), (0.0, 0.0)
    if lipped or not (changed or wedged):
        lips = (float(rng.uniform(2.5, 6.0)), float(rng.uniform(0.5, 2.5)))
    if changed:
        upper, lower = rng.choice((-0.8, -0.5, 0.6, 0.9), 2)
        both = rng.random() < 0.4
        modic = (float(upper), float(lower) if both else 0.0)
    wedge = float(rng.uniform(0.12, 0.3)) if wedged else 0.0
    return _BodyTraits(lips, modic, wedge, degenerative=True)


def _notches(
    rng: np.random.Generator, discs: Sequence[_DiscTraits]
) -> list[tuple[tuple[int, float, float], ...]]:
    """Schmorl's nodes of each vertebra and of S1, from the affected discs."""
    found: list[list[tuple[int, float, float]]] = [[] for _ in range(len(discs) + 1)]
    for n, disc in enumerate(discs):
        if "v5" not in disc.tags:
            continue
        sides = [(n, 1), (n + 1, -1)]
        keep = int(rng.integers(3))  # the body above, the one below, or both
        for index, side in sides if keep == 2 else [sides[keep]]:
            where, radius = float(rng.uniform(-0.22, 0.22)), float(rng.uniform(3.2, 6.0))
            found[index].append((side, where, radius))
    return [tuple(notches) for notches in found]
