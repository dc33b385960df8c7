"""The measures of `spineline.pipeline.inference.suitability`, and where to set their limits.

    python benchmarks/suitability.py lumbar=../shared/lumbar spider=../shared/external/spider …

`python benchmarks/suitability.py help` lists the keys. Suitable frames are those of both folders
and phantoms, each also darker, brighter, noisier and with simulated fat suppression. Unsuitable
frames are drawn (`datasets/phantoms/foreign.py`) or made from the others: rotated, mirrored,
inverted, cut to the upper end, and, if a folder has masks, with the canal as dark as in T1. Real
ones (``others=``, the kind before the first ``_`` of the name) are also cut, stretched and shrunk.
Patients named by `test` are left out: nothing is chosen on them.

For each kind, the tables show both measures, and how many frames the current limits refuse, with
the reasons. They end with the limits in the middle between both sides.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import harness
import numpy as np
import numpy.typing as npt

from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import markdown_table
from spineline.datasets.images import IMAGE_SUFFIXES, read_image, window_to_uint8
from spineline.datasets.phantoms.foreign import draw_foreign, list_foreign
from spineline.datasets.phantoms.phantom import draw_spine
from spineline.pipeline.inference.pipeline import Pipeline
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.inference.suitability import TURNS, SuitabilityLimits, measure_suitability

TEST = ("p022", "p041", "p057", "p078", "p107", "p136", "p152", "p166", "p209", "p239")
ABOUT = """\
The table gives both measures of `pipeline/inference/suitability.py` on suitable frames (*ours*) and
unsuitable ones: minimum, 2 %, median, 98 % and maximum. *Evidence* has to reach {lumbar:g}, or
{whole_chain:g} for a chain of eleven levels, and *contrast* {contrast:g}. A frame whose evidence
is below {whole:g} is also tested rotated."""
SHARES = (0, 2, 50, 98, 100)
CANAL, DISC, VERTEBRA = 150, 29, 76  # grey values of the masks
Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuitabilitySettings(harness.BenchSettings):
    lumbar: Path | None = key("folder with images/ of lumbar frames", default=None)
    spider: Path | None = key("the same, with masks/ of canal, discs and vertebrae", default=None)
    others: Path | None = key("folder of real images that are unsuitable", default=None)
    test: tuple[str, ...] = key("prefixes of the names of frames to leave out", default=TEST)
    weights: str = key("bundle whose limits are sought", default="default")
    every: int = key("take each so many-th frame of a folder", default=1, minimum=1)
    drawn: int = key("phantoms, and pictures of each kind", default=20, minimum=1)


@dataclass(slots=True)
class Kind:
    """Frames of one kind.

    Attributes:
        ours: whether they are suitable.
        evidence, contrast: measured values, if any.
        reasons: why they were refused; None counts accepted ones.
        doubted: number of accepted ones with a warning.
    """

    ours: bool
    evidence: list[float] = field(default_factory=list)
    contrast: list[float] = field(default_factory=list)
    reasons: Counter[str | None] = field(default_factory=Counter)
    doubted: int = 0

    @property
    def wrong(self) -> int:
        """Number of suitable frames that were refused, or of unsuitable ones that were accepted."""
        taken = self.reasons[None]
        return self.reasons.total() - taken if self.ours else taken


def main(words: list[str]) -> None:
    harness.run_bench(words, SuitabilitySettings, compute, "suitability")


def compute(settings: SuitabilitySettings, _: Path) -> harness.BenchResult:
    """Measure all kinds."""
    pipeline = Pipeline.from_settings(ModelSettings(weights=settings.weights))
    limits, kinds = pipeline.suitability or SuitabilityLimits(), dict[str, Kind]()
    for name, ours, image in frames(settings):
        kind = kinds.setdefault(name, Kind(ours))
        image = np.ascontiguousarray(image)
        (offered,) = pipeline.offered([image])
        found = measure_suitability(image, offered, pipeline.decoding, pipeline.namer)
        refusal = pipeline.refusal(image, offered)
        kind.evidence.append(found.evidence)
        kind.contrast += [] if found.contrast is None else [found.contrast]
        kind.reasons[refusal.reason if refusal and refusal.certain else None] += 1
        kind.doubted += refusal is not None and not refusal.certain
    values = {"lumbar": limits.lumbar, "contrast": limits.contrast, "whole": limits.whole}
    values["whole_chain"] = limits.lumbar_whole
    return harness.BenchResult(
        title="Suitable and unsuitable frames",
        about=ABOUT.format(**values),
        data=data_of(settings),
        packages=("numpy", "torch"),
        tables=[table(kinds), middle(kinds)],
        report={name: {"evidence": k.evidence, "contrast": k.contrast,
                       "reasons": {str(r): n for r, n in k.reasons.items()}}
                for name, k in kinds.items()},
    )  # fmt: skip


def frames(settings: SuitabilitySettings) -> Iterator[tuple[str, bool, Grey]]:
    """Kind, whether it is suitable, and image."""
    sources: dict[str, Iterator[tuple[str, Grey]]] = {
        "phantom": ((str(n), draw_spine(n, None).pixels) for n in range(settings.drawn))
    }
    for name, folder in (("lumbar", settings.lumbar), ("spider", settings.spider)):
        if folder is not None:
            sources[name] = images_in(folder / "images", settings)
    for source, images in sources.items():
        for name, image in images:
            rng = rng_of(name, settings)
            for what, change in LOOKS.items():
                yield f"{source}{what}", True, change(image, rng)
            for what, foreign in made_of(image, rng).items():
                yield what, False, foreign
            mask = None if settings.spider is None else settings.spider / "masks" / f"{name}.png"
            if source == "spider" and mask is not None and mask.is_file():
                yield "canal as in T1", False, as_t1(image, read_image(mask), rng)
    yield from real_others(settings)
    for what in list_foreign():
        for n in range(settings.drawn):
            yield f"drawn: {what}", False, draw_foreign(what, n)


def real_others(settings: SuitabilitySettings) -> Iterator[tuple[str, bool, Grey]]:
    """Kind, False and image of each real unsuitable image in each look."""
    if settings.others is None:
        return
    for name, image in images_in(settings.others, replace(settings, every=1)):
        rng = rng_of(name, settings)
        for look in (*LOOKS.values(), *CUTS):
            yield f"real: {name.partition('_')[0]}", False, look(image, rng)


def rng_of(name: str, settings: SuitabilitySettings) -> np.random.Generator:
    return np.random.default_rng([settings.seed, *hashlib.sha256(name.encode()).digest()])


def images_in(folder: Path, settings: SuitabilitySettings) -> Iterator[tuple[str, Grey]]:
    """Name and 8-bit image of each frame that choices may use."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
    for path in [p for p in paths if not p.name.startswith(settings.test)][:: settings.every]:
        yield path.stem, window_to_uint8(read_image(path))


def gamma(exponent: float) -> Callable[[Grey, np.random.Generator], Grey]:
    table = np.rint(255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)
    return lambda image, _: table[image]


def noisy(image: Grey, rng: np.random.Generator) -> Grey:
    return np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)


def fat_suppressed(image: Grey, rng: np.random.Generator) -> Grey:  # noqa: ARG001
    """Simulate fat suppression: bodies and fat darker, fluid as bright, by a curve and position."""
    values = image / 255
    smooth = cv2.GaussianBlur(values, (0, 0), 12)
    fat = np.clip((smooth - 0.45) * 4, 0, 1)  # large and bright areas
    return np.rint(255 * values**1.6 * (1 - 0.8 * fat)).astype(np.uint8)


LOOKS: Mapping[str, Callable[[Grey, np.random.Generator], Grey]] = {
    "": lambda image, _: image,
    ", gamma 0.6": gamma(0.6),
    ", gamma 1.5": gamma(1.5),
    ", noisy": noisy,
    ", fat dark": fat_suppressed,
}


CUTS: tuple[Callable[[Grey, np.random.Generator], Grey], ...] = (
    lambda image, _: image[: round(0.85 * len(image))],
    lambda image, _: image[round(0.15 * len(image)) :],
    lambda image, _: image[:, round(0.2 * image.shape[1]) :],
    lambda image, _: cv2.resize(image, None, fx=1, fy=1.3),
    lambda image, _: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
)
"""Further changes of real images that are unsuitable."""


def made_of(image: Grey, rng: np.random.Generator) -> dict[str, Grey]:  # noqa: ARG001
    """Unsuitable frames, made from a suitable one."""
    made = {words: turn(image) for words, (_, turn) in TURNS.items()}
    height, width = image.shape
    top = image[: round(0.42 * height), round(0.2 * width) : round(0.8 * width)]
    made["upper end, enlarged"] = cv2.resize(top, None, fx=1.7, fy=1.7)
    made["inverted"] = 255 - image
    return made


def as_t1(image: Grey, mask: Grey, rng: np.random.Generator) -> Grey:
    """Simulate T1: fluid and discs dark, fat bright."""
    mask = cv2.resize(mask, image.shape[::-1], interpolation=cv2.INTER_NEAREST)
    values = 0.9 * (image / 255) ** 0.7
    body = float(np.median(values[mask == VERTEBRA])) if (mask == VERTEBRA).any() else 0.4
    fine = image / 255 - cv2.GaussianBlur(image / 255, (0, 0), 6)
    for grey, low, high in ((CANAL, 0.4, 0.75), (DISC, 0.5, 0.8)):
        share = cv2.GaussianBlur((mask == grey).astype(np.float64), (0, 0), 1.2)
        values = values * (1 - share) + share * (body * rng.uniform(low, high) + 0.2 * fine)
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)


def table(kinds: Mapping[str, Kind]) -> str:
    """A row for each kind."""
    rows = [
        [
            name,
            "ours" if kind.ours else "not ours",
            str(kind.reasons.total()),
            shares(kind.evidence),
            shares(kind.contrast),
            ", ".join(f"{reason} {n}" for reason, n in sorted(
                (str(r), n) for r, n in kind.reasons.items() if r is not None)) or "–",
            str(kind.wrong),
            str(kind.doubted),
        ]
        for name, kind in sorted(kinds.items(), key=lambda item: (not item[1].ours, item[0]))
    ]  # fmt: skip
    heads = ["frames", "", "n", "evidence", "contrast", "refused for", "wrong", "accepted in doubt"]
    return markdown_table(heads, rows)


def middle(kinds: Mapping[str, Kind]) -> str:
    """The limits midway between suitable and unsuitable frames, each over its own kinds."""
    necks = ("drawn: neck", "drawn: chest", "drawn: coronal", "upper end, enlarged")
    lines = []
    for what, others in (("evidence", necks), ("contrast", ("drawn: t1", "canal as in T1"))):
        ours = [v for k in kinds.values() if k.ours for v in getattr(k, what)]
        rest = [v for n, k in kinds.items() if n in others for v in getattr(k, what)]
        if ours and rest:
            low, high = float(np.percentile(ours, 0.5)), float(np.percentile(rest, 95))
            named = ", ".join(name for name in others if name in kinds)
            lines.append(
                f"- {what}: 99.5 % of ours have {low:.2f} or more, and 95 % of {named} have "
                f"{high:.2f} or less; the midpoint is {(low + high) / 2:.2f}"
            )
    return "\n".join(lines)


def shares(values: Sequence[float]) -> str:
    return " ".join(f"{v:.2f}" for v in np.percentile(values, SHARES)) if values else "–"


def data_of(settings: SuitabilitySettings) -> str:
    given = (settings.lumbar, settings.spider, settings.others)
    folders = [str(folder.name) for folder in given if folder]
    left_out = f" without {', '.join(settings.test)}" if settings.spider else ""
    return f"{', '.join([*folders, 'phantoms'])}{left_out}; weights {settings.weights}"


if __name__ == "__main__":
    run_script(main)
