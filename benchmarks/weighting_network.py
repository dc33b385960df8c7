"""Train the network that tells T2 from T1 (`spineline.pipeline.inference.t2_weighting`).

    python benchmarks/weighting_network.py data=DATASET masks=MASKS weights=FILE.safetensors

DATASET is a converted data set with points of the levels, as `benchmarks/default_weights.py` makes
it (``data-all``); only its part ``train`` is learnt from. MASKS holds masks of some of its images,
by the names of their studies: canal, discs and vertebrae.

No T1 image is needed: in half of the strips, the tissues are painted as T1 shows them, with the
canal darker than the bodies, discs a little darker, and fat and marrow brighter. The canal is that
of the mask, or else the bright band behind the bodies. Some T2 strips are painted with a bright
canal by the same strokes, so that painting itself says nothing. Drawn spines of both weightings
count too, and every strip is shown as another scanner might.

The table gives the share of strips on the wrong side of some limits: out of fold by patient, and
on the part ``test``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import harness
import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

from spineline.datasets.common.arrays import Float32Array, FloatArray
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import markdown_table
from spineline.datasets.dataset import load_dataset
from spineline.datasets.images import read_image, read_uint8_image, window_to_uint8
from spineline.datasets.labels import LEVELS
from spineline.datasets.phantoms.phantom import draw_phantom, record_of, sagittal_values
from spineline.datasets.scanner_looks import fat_suppressed
from spineline.datasets.splits import Part
from spineline.datasets.straighten import Distortion, StripSpec, prolonged, straighten
from spineline.datasets.types import ImageRecord
from spineline.pipeline.inference.t2_weighting import LAYERS, SEEN, STRIP, relative_to_bodies, run

FINE = StripSpec(rank_px=2 * STRIP.rank_px, half_width=STRIP.half_width)
"""Strips are drawn and painted twice as fine as the network sees them."""

CANAL, DISC, VERTEBRA = 150, 29, 76  # grey values of the masks
LIMITS = (-3.0, -2.0, -1.5, -1.0, 0.0)
LONGEST = 11  # ranks of a strip
DRAWN = 60  # phantoms


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightingSettings(harness.BenchSettings):
    data: Path = key("data set with points of the levels")
    masks: Path = key("folder of masks by the images' names")
    folds: int = key("folds by patient of the part train", default=3, minimum=2)
    steps: int = key("of a training", default=2400, minimum=1)
    weights: Path | None = key("file to write the network of all folds to", default=None)


@dataclass(frozen=True, slots=True)
class Example:
    """A spine: its T2 image, tissues and, if it was drawn, its T1 image.

    Attributes:
        patient: of the image.
        image: uint8 (H, W).
        curve_xy: (K, 2) a point per rank.
        first: rank of the first point; discs have even ranks.
        mask: uint8 (H, W) grey values of tissues, or None.
        t1: uint8 (H, W), or None.
    """

    patient: str
    image: np.ndarray
    curve_xy: FloatArray
    first: int
    mask: np.ndarray | None = None
    t1: np.ndarray | None = None


class Network(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.third = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.last = nn.Linear(4 * width * (SEEN.stop - SEEN.start) // 4, 1)

    def forward(self, strips: torch.Tensor) -> torch.Tensor:
        maps = strips[:, None]
        for n, layer in enumerate(LAYERS):
            maps = nn.functional.avg_pool2d(maps, 2) if n else maps
            maps = torch.relu(getattr(self, layer)(maps))
        features = nn.functional.dropout(maps.mean(dim=2).flatten(1), 0.3, self.training)
        odds: torch.Tensor = self.last(features)[:, 0]
        return odds


def main(words: list[str]) -> None:
    harness.run_bench(words, WeightingSettings, compute, "weighting_network")


def compute(settings: WeightingSettings, _: Path) -> harness.BenchResult:
    """Train on each fold and on all, and measure what was left out."""
    torch.set_num_threads(1)
    known, unseen = examples(settings, "train"), examples(settings, "test")
    drawn = list(phantoms(settings.seed))
    patients = sorted({each.patient for each in known})
    np.random.default_rng(settings.seed).shuffle(patients)
    fold_of = {patient: n % settings.folds for n, patient in enumerate(patients)}
    odds: dict[str, list[float]] = {}
    for fold in range(settings.folds):
        rest = [each for each in known if fold_of[each.patient] != fold]
        left = [each for each in known if fold_of[each.patient] == fold]
        odds = joined(odds, measured(trained([*rest, *drawn], settings), left, settings))
    rows = [["out of fold", *each] for each in rows_of(odds)]
    tensors = trained([*known, *drawn], settings)
    if settings.weights is not None:
        about = {"task": "weighting", "names": ["T1", "T2"]}
        save_file(tensors, settings.weights, metadata={"spineline": json.dumps(about)})
    found = measured(tensors, unseen, settings)
    rows += [["test part", *each] for each in rows_of(found)]
    heads = ["spines", "strips", "n", "minimum, 1 %, median, 99 %, maximum"]
    return harness.BenchResult(
        title="T2 or T1",
        about=ABOUT,
        data=f"{len(known)} images of {len(patients)} patients, {len(unseen)} of the part test",
        packages=("numpy", "torch"),
        tables=[markdown_table([*heads, *(f"below {limit:g}" for limit in LIMITS)], rows)],
        report={"out_of_fold": odds, "test": found},
    )


ABOUT = """\
Log odds of T2 over T1 by `pipeline/inference/t2_weighting.py` along labelled points: of the images
as they are, as another scanner might show them, and painted as T1 shows them. The last columns are
the share of strips below a limit. Painted strips are no T1 images; they share their shapes with
T2."""


def examples(settings: WeightingSettings, part: Part) -> list[Example]:
    """The labelled spines of a part."""
    dataset, found = load_dataset(settings.data), []
    for record in dataset.records[part]:
        image, curve, first = read_uint8_image(dataset.image_path(record)), *curve_of(record)
        file, mask = settings.masks / f"{record.study_id}.png", None
        if file.is_file():
            size = image.shape[1], image.shape[0]
            mask = cv2.resize(read_image(file), size, interpolation=cv2.INTER_NEAREST)
        found.append(Example(record.study_id.split("_")[0], image, curve, first, mask))
    return found


def phantoms(seed: int) -> Iterator[Example]:
    """Drawn spines with both weightings."""
    for n in range(DRAWN):
        drawn = draw_phantom(np.random.default_rng([seed, n]), None)
        t2, t1 = (window_to_uint8(sagittal_values(drawn, contrast=c)) for c in ("t2", "t1"))
        curve, first = curve_of(record_of(drawn, "phantom"))
        yield Example(f"phantom{n}", t2, curve, first, t1=t1)


def curve_of(record: ImageRecord) -> tuple[FloatArray, int]:
    """A point for each rank from the first to the last labelled level, and the first rank."""
    points = {LEVELS.index(s.level): s.point_xy for s in record.structures if s.level in LEVELS}
    ranks = sorted(points)
    return prolonged([points[r] for r in ranks], ranks, ranks[0], ranks[-1]), ranks[0]


def draw(
    example: Example, rng: np.random.Generator, *, t1: bool, plain: bool = False
) -> Float32Array:
    """A strip of an example for training, (R, 64) in 0 … 1.

    Args:
        example: the spine.
        rng: source of all randomness.
        t1: whether it is to look T1-weighted.
        plain: the whole strip as it is, only painted for ``t1``.
    """
    count = len(example.curve_xy)
    length = count if plain else min(int(rng.integers(5, LONGEST + 1)), count)
    start = int(rng.integers(0, count - length + 1))
    curve = example.curve_xy[start : start + length]
    gap = float(np.hypot(*np.diff(curve, axis=0).T).mean())
    bent = Distortion()
    if not plain:
        curve = curve + rng.normal(0, 0.06 * gap, curve.shape)
        bent = Distortion(rng.normal(0, 0.1), rng.normal(0, 0.05), np.exp(rng.normal(0, 0.08)))
    image = example.t1 if t1 and example.t1 is not None else example.image
    strip = straighten(image, curve, FINE, bent)
    if image is example.image and (t1 or (not plain and rng.random() < 0.2)):
        mask = None if example.mask is None else straightened_mask(example.mask, curve, bent)
        strip = painted(strip, mask or guessed(strip, example.first + start), rng, t1=t1)
    if not plain:
        if rng.random() < (0.1 if t1 else 0.25):
            grey = np.rint(255 * np.clip(strip, 0, 1)).astype(np.uint8)
            strip = fat_suppressed(grey, rng.uniform(0.5, 1)) / np.float32(255)
        strip = other_scanner(strip, rng)
    return halved(strip)


def straightened_mask(
    mask: np.ndarray, curve: FloatArray, bent: Distortion
) -> dict[int, Float32Array]:
    """The strip of each tissue of a mask, in 0 … 1."""
    tissues = (CANAL, DISC, VERTEBRA)
    return {t: straighten(((mask == t) * 255).astype(np.uint8), curve, FINE, bent) for t in tissues}


def guessed(strip: Float32Array, first: int) -> dict[int, Float32Array]:
    """The tissues without a mask: the bright band behind the bodies, and boxes around the points.

    Args:
        strip: of a T2 image, as fine as `FINE`.
        first: rank of its first point.
    """
    px, across = FINE.rank_px, columns()
    smooth = cv2.GaussianBlur(strip, (0, 0), 1.0)
    body = np.median(smooth[:, np.abs(across) < 0.6], axis=1, keepdims=True)
    behind = np.where((across > 0.85) & (across < 2.1), smooth, 0)
    peak = behind.max(axis=1, keepdims=True)
    limit = np.minimum(np.maximum(1.15 * body, 0.6 * peak), 0.9 * peak)
    band = cv2.morphologyEx(
        (behind > limit).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 5), np.uint8)
    )
    count, parts, sizes, _ = cv2.connectedComponentsWithStats(band)
    long = [n for n in range(1, count) if sizes[n, cv2.CC_STAT_HEIGHT] > px]
    along = (np.arange(len(strip)) % px + 0.5) / px - 0.5
    even = (np.arange(len(strip)) // px + first) % 2 == 0
    wide = ((across > -0.8) & (across < 0.85))[None]
    disc = (even & (np.abs(along) < 0.35))[:, None] & wide
    found = {CANAL: np.isin(parts, long), DISC: disc, VERTEBRA: ~even[:, None] & wide}
    return {tissue: area.astype(np.float32) for tissue, area in found.items()}


def painted(
    strip: Float32Array, tissues: dict[int, Float32Array], rng: np.random.Generator, *, t1: bool
) -> Float32Array:
    """A T2 strip with the canal, and often the discs, painted as T1 or T2 shows them.

    Brightness is given in multiples of the bodies', near the place: T1 shows fluid darker than
    marrow, nerves a little brighter than fluid, and fat brightest of all.
    """
    values = strip ** np.float32(rng.uniform(0.45, 1.0))
    vertebra = tissues[VERTEBRA] > 0.8
    body = float(np.median(values[vertebra])) if vertebra.any() else 0.4
    detail = strip - cv2.GaussianBlur(strip, (0, 0), rng.uniform(3, 6))
    near = cv2.GaussianBlur(values, (0, 0), 24) + np.float32(0.02)
    near = np.clip(near / np.median(near), 0.5, 2) ** rng.uniform(0, 1)
    if rng.random() < 0.6:  # fat
        bright = np.quantile(values, 0.7)
        values = np.where(values > bright, bright + (values - bright) * rng.uniform(1, 1.6), values)
    disc = cv2.GaussianBlur(tissues[DISC], (0, 0), rng.uniform(0.6, 1.6))
    if rng.random() < (0.85 if t1 else 0.5):
        paint = body * near * rng.uniform(0.45, 1.0) + rng.uniform(-0.3, 0.4) * detail
        values = values * (1 - disc) + disc * paint
    canal = cv2.GaussianBlur(tissues[CANAL], (0, 0), rng.uniform(0.6, 1.6))
    level = rng.uniform(0.3, 0.92) if t1 else rng.uniform(1.25, 3.0)
    nerves = rng.uniform(-0.5, 0.15) if t1 else rng.uniform(0, 1)
    values = values * (1 - canal) + canal * (body * near * level + nerves * detail)
    return np.clip(values, 0, 1.5).astype(np.float32)


def other_scanner(strip: Float32Array, rng: np.random.Generator) -> Float32Array:
    """The strip with another brightness, shading, sharpness and noise."""
    along, across = np.linspace(-4, 4, len(strip))[:, None], columns()[None]
    strip = np.clip(strip, 0, 2) ** rng.uniform(0.5, 1.8)
    strip = strip * np.exp(rng.normal(0, 0.12) * across) * np.exp(rng.normal(0, 0.08) * along)
    if rng.random() < 0.3:
        strip = cv2.GaussianBlur(strip, (0, 0), rng.uniform(0.5, 2.5))
    strip = np.abs(strip + rng.normal(0, rng.uniform(0, 0.06), strip.shape) * strip.max())
    return np.clip(strip / np.quantile(strip, 0.995), 0, 1).astype(np.float32)


def columns() -> FloatArray:
    """Positions of the columns of a fine strip, in ranks behind the curve."""
    return (np.arange(2 * FINE.half_width * FINE.rank_px) + 0.5) / FINE.rank_px - FINE.half_width


def halved(strip: Float32Array) -> Float32Array:
    rows, width = strip.shape
    return strip.reshape(rows // 2, 2, width // 2, 2).mean(axis=(1, 3))


def trained(known: Sequence[Example], settings: WeightingSettings) -> dict[str, Float32Array]:
    """Train a network; its tensors by name."""
    torch.manual_seed(settings.seed)
    rng, network = np.random.default_rng(settings.seed), Network()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=settings.steps)
    pool: list[tuple[torch.Tensor, torch.Tensor]] = []
    for step in range(settings.steps):
        if step % 8 == 0:  # each batch is seen several times, since drawing takes longest
            pool = [*pool[-15:], batch(known, rng)]
        strips, t2 = pool[int(rng.integers(len(pool)))]
        some = torch.from_numpy(rng.permutation(len(t2))[:32])
        loss = nn.functional.binary_cross_entropy_with_logits(network(strips[some]), t2[some])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 400 == 399:
            LOG.info("step %d: loss %.3f", step + 1, loss.item())
    tensors = {name: value.numpy().copy() for name, value in network.state_dict().items()}
    given = pool[-1][0][0]
    with torch.no_grad():
        odds = float(network.eval()(given[None]))
    assert abs(odds - run(tensors, given.numpy())) < 1e-3  # NumPy runs the same network
    return tensors


def batch(
    known: Sequence[Example], rng: np.random.Generator, count: int = 64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (N, R, 40), short ones between zeros, and 1 for T2 or 0 for T1 (N,)."""
    rows = LONGEST * STRIP.rank_px
    given, t2 = np.zeros((count, rows, SEEN.stop - SEEN.start), np.float32), rng.random(count) < 0.5
    for n, each in enumerate(rng.integers(0, len(known), count)):
        strip = relative_to_bodies(draw(known[each], rng, t1=not t2[n]))
        start = int(rng.integers(0, rows - len(strip) + 1))
        given[n, start : start + len(strip)] = strip
    return torch.from_numpy(given), torch.from_numpy(t2.astype(np.float32))


def measured(
    tensors: dict[str, Float32Array], spines: Sequence[Example], settings: WeightingSettings
) -> dict[str, list[float]]:
    """Log odds of strips of each kind."""
    rng, found = np.random.default_rng(settings.seed), dict[str, list[float]]()
    kinds = {
        "T2": (False, True, 1),
        "T2, other scanner": (False, False, 5),
        "painted as T1": (True, True, 2),
        "painted as T1, other scanner": (True, False, 5),
    }
    for spine in spines:
        for kind, (t1, plain, times) in kinds.items():
            strips = [draw(spine, rng, t1=t1, plain=plain) for _ in range(times)]
            found.setdefault(kind, []).extend(run(tensors, relative_to_bodies(s)) for s in strips)
    return found


def joined(first: dict[str, list[float]], second: dict[str, list[float]]) -> dict[str, list[float]]:
    return {kind: [*first.get(kind, []), *second[kind]] for kind in second}


def rows_of(odds: dict[str, list[float]]) -> list[list[str]]:
    """A row for each kind of strip."""
    rows = []
    for kind, values in odds.items():
        found = np.array(values)
        spread = " ".join(f"{v:.1f}" for v in np.percentile(found, (0, 1, 50, 99, 100)))
        below = [f"{(found < limit).mean():.3f}" for limit in LIMITS]
        rows.append([kind, str(len(found)), spread, *below])
    return rows


if __name__ == "__main__":
    run_script(main)
