"""``spineline data stats``: the content of a dataset in numbers and histograms.

Images are read one by one, and only counts of grey values are kept. Lengths are native pixels,
spacing is mm, grey values are 0 … 255. Standard deviations are those of the population (divided by
n).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spineline.datasets.commands.settings import DataStats
from spineline.datasets.common.arrays import IntArray
from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.files import staged_folder, write_bytes, write_json, write_text
from spineline.datasets.common.log import LOG, progress
from spineline.datasets.common.plots import figure_png, new_figure
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.common.tables import markdown_table
from spineline.datasets.dataset import Dataset, load_dataset
from spineline.datasets.images import read_colours, read_uint8_image
from spineline.datasets.labels import (
    EXTRA_LEVELS,
    KINDS,
    LEVELS,
    Classes,
    Kind,
    class_names,
)
from spineline.datasets.splits import Part
from spineline.datasets.types import ImageRecord, Structure, tags_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATS_SCHEMA = 1
ALL = "all"
"""Name of the block over all parts."""

CHANNELS: tuple[str, ...] = ("red", "green", "blue")

Counts = Mapping[str, IntArray]
"""(4, 256) counts of pixel values by part: grey, red, green, blue."""

Table = Sequence[Sequence[object]]


@dataclass(frozen=True, slots=True)
class StatsResult:
    """Result of ``data stats``.

    Attributes:
        out: the folder written.
        stats: the content of ``stats.json``.
        failures: one message per image that could not be read; other images are counted.
    """

    out: Path
    stats: dict[str, Any]
    failures: tuple[str, ...] = ()


def stats(settings: DataStats) -> StatsResult:
    """Count, measure and draw a dataset.

    Raises:
        SpinelineError: the dataset cannot be loaded, or ``out`` exists or cannot be written.
    """
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        dataset = load_dataset(settings.data, settings.images, own_classes=True)
        counts, unread = pixel_counts(dataset)
        failures = [*dataset.failures, *unread]
        result = dataset_stats(dataset, counts)
        result["failures"] = failures
        write_json(stage / "stats.json", result)
        markdown = stats_markdown(result)
        write_text(stage / "stats.md", markdown)
        for name, figure in _figures(dataset, result, counts).items():
            write_bytes(stage / f"{name}.png", figure_png(figure))
        write_run_record(stage, "data stats", settings)
    LOG.info("%s\n%s", markdown, settings.out / "stats.json")
    for failure in failures:
        LOG.error("error: %s", failure)
    return StatsResult(settings.out, result, tuple(failures))


def dataset_stats(dataset: Dataset, counts: Counts | None = None) -> dict[str, Any]:
    """Compute the content of ``stats.json``: one block per part and one over all.

    Args:
        dataset: a loaded dataset.
        counts: from [pixel_counts][]; without it, ``grey`` and ``channels`` are empty.
    """
    counts = counts or {}
    everything = dataset.all_records()
    tags = tags_of([structure for record in everything for structure in record.structures])
    nothing = np.zeros((1 + len(CHANNELS), 256), np.int64)
    blocks: dict[str, Any] = {
        part: _block(records, dataset.classes, counts.get(part, nothing), tags)
        for part, records in dataset.records.items()
    }
    blocks[ALL] = _block(everything, dataset.classes, sum(counts.values(), nothing), tags)
    return {"schema": STATS_SCHEMA, "labels": _label_set(dataset.classes), "parts": blocks}


def summary(values: Iterable[float]) -> dict[str, float | int | None]:
    """Summarise values by number, mean, standard deviation, minimum, median and maximum.

    >>> summary([1.0, 3.0])
    {'n': 2, 'mean': 2.0, 'std': 1.0, 'min': 1.0, 'median': 2.0, 'max': 3.0}
    >>> summary([])
    {'n': 0, 'mean': None, 'std': None, 'min': None, 'median': None, 'max': None}
    """
    array = np.fromiter(values, dtype=np.float64)
    if not array.size:
        return dict.fromkeys(("n", "mean", "std", "min", "median", "max")) | {"n": 0}
    return {
        "n": int(array.size),
        "mean": float(array.mean()),
        "std": float(array.std()),
        "min": float(array.min()),
        "median": float(np.median(array)),
        "max": float(array.max()),
    }


def grey_summary(counts: IntArray) -> dict[str, float | int | None]:
    """Compute mean and standard deviation of grey values from their counts.

    This is exact, and 256 numbers suffice for any number of images. ``mean_01`` and ``std_01`` are
    on the scale 0 … 1, as networks use them. A grey frame has the same values in every input
    channel of a network.

    Args:
        counts: (256,) number of pixels of each value.
    """
    pixels = int(counts.sum())
    if not pixels:
        return {"pixels": 0, "mean": None, "std": None, "mean_01": None, "std_01": None}
    values = np.arange(256, dtype=np.float64)
    mean = float(counts @ values) / pixels
    std = float(np.sqrt(counts @ (values - mean) ** 2 / pixels))
    return {"pixels": pixels, "mean": mean, "std": std, "mean_01": mean / 255, "std_01": std / 255}


def stats_markdown(result: Mapping[str, Any]) -> str:
    """Format ``stats.md``: the counts by part, then sizes, as Markdown tables."""
    parts = list(result["parts"])
    blocks = [result["parts"][part] for part in parts]
    counts: list[list[object]] = [
        [name, *(block[name] for block in blocks)] for name in ("images", "studies", "structures")
    ]
    tables = [markdown_table(["", *parts], counts)]
    for title, path in _count_tables():
        rows = [
            [name, *(_at(block, path)[name] for block in blocks)] for name in _at(blocks[0], path)
        ]
        tables.append(f"## {title}\n\n{markdown_table(['', *parts], rows)}")
    tables.append(f"## Sizes\n\n{_size_table(result['parts'][ALL])}")
    return "# Statistics\n\n" + "\n\n".join(tables) + "\n"


def _block(
    records: Sequence[ImageRecord],
    labels: Classes,
    counts: IntArray,
    tags: Mapping[Kind, Sequence[str]],
) -> dict[str, Any]:
    grey, *channels = counts
    structures = [structure for record in records for structure in record.structures]
    spacings = [r.spacing_rc_mm for r in records if r.spacing_rc_mm is not None]
    return {
        "images": len(records),
        "studies": len({record.study_id for record in records}),
        "structures": len(structures),
        "classes": _class_counts(structures, labels),
        "kinds": _counted((s.kind for s in structures), KINDS),
        "levels": _counted((s.level for s in structures), (*EXTRA_LEVELS, *LEVELS)),
        "pathology": {kind: _pathology_counts(structures, kind, tags[kind]) for kind in KINDS},
        "discs_per_image": discs_per_image(records),
        "findings": _finding_counts(records),
        "image_size": {
            "width": summary(r.width for r in records),
            "height": summary(r.height for r in records),
            "widths_x_heights": _sorted_counts(f"{r.width}x{r.height}" for r in records),
        },
        "spacing_mm": {
            "between_rows": summary(spacing[0] for spacing in spacings),
            "between_columns": summary(spacing[1] for spacing in spacings),
            "unknown": len(records) - len(spacings),
        },
        "box": _box_block(structures),
        "grey": grey_summary(grey),
        "channels": {
            name: grey_summary(values) for name, values in zip(CHANNELS, channels, strict=True)
        },
    }


def discs_per_image(records: Sequence[ImageRecord]) -> dict[str, int]:
    """Count images by their number of discs."""
    found = Counter(sum(s.kind == "disc" for s in record.structures) for record in records)
    return {str(number): found[number] for number in sorted(found)}


def _box_block(structures: Sequence[Structure]) -> dict[str, Any]:
    boxes = np.array([s.box_xyxy for s in structures], dtype=np.float64).reshape(-1, 4)
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    solid = heights > 0
    return {
        "width": summary(widths),
        "height": summary(heights),
        "width_to_height": summary(widths[solid] / heights[solid]),
    }


def _label_set(classes: Classes) -> str:
    return classes if isinstance(classes, str) else "own"


def _class_counts(structures: Sequence[Structure], labels: Classes) -> dict[str, int]:
    names = class_names(labels)
    indices = [structure.class_in(labels) for structure in structures]
    counts = {name: indices.count(index) for index, name in enumerate(names)}
    return {**counts, "none": indices.count(None)}


def _pathology_counts(
    structures: Sequence[Structure], kind: Kind, tags: Sequence[str]
) -> dict[str, int]:
    """How often each tag occurs; a disc with two tags counts twice."""
    of_kind = [structure for structure in structures if structure.kind == kind]
    counts = _counted((tag for s in of_kind for tag in s.pathology), tags)
    return {**counts, "unlabelled": sum(not s.pathology for s in of_kind)}


def _finding_counts(records: Sequence[ImageRecord]) -> dict[str, int]:
    of_images = [finding for record in records for finding in record.findings]
    of_structures = [f for r in records for structure in r.structures for f in structure.findings]
    return _sorted_counts([*of_images, *of_structures])


def _counted(words: Iterable[str], names: Sequence[str]) -> dict[str, int]:
    counter = Counter(words)
    return {name: counter[name] for name in names}


def _sorted_counts(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))


def pixel_counts(dataset: Dataset) -> tuple[dict[str, IntArray], list[str]]:
    """Read every image and count its pixel values, by part.

    A dataset that was converted without images has none to read, which is not a failure.

    Returns:
        (4, 256) counts of pixel values (grey, red, green, blue) by part, and a message for each
        image that could not be read.
    """
    counts: dict[str, IntArray] = {
        part: np.zeros((1 + len(CHANNELS), 256), np.int64) for part in dataset.records
    }
    failures: list[str] = []
    everything = dataset.all_records()
    if everything and not any(dataset.image_path(record).is_file() for record in everything):
        LOG.warning("%s: holds no image, so grey values are not counted", dataset.root / "images")
        return counts, failures
    for part, records in dataset.records.items():
        for record in progress(records, description=f"reading {part}"):
            try:
                counts[part] += _image_counts(dataset.image_path(record))
            except SpinelineError as error:
                failures.append(f"{record.image_id}: {error}")
    return counts, failures


def _image_counts(path: Path) -> IntArray:
    """(4, 256) counts of pixel values: grey, then red, green, blue, equal if the image is grey."""
    grey, colours = read_uint8_image(path), read_colours(path)
    planes = [grey] * 3 if colours is None else list(np.moveaxis(colours, 2, 0))
    return np.stack([np.bincount(plane.ravel(), minlength=256) for plane in (grey, *planes)])


def _count_tables() -> list[tuple[str, tuple[str, ...]]]:
    return [
        ("Classes", ("classes",)),
        ("Levels", ("levels",)),
        ("Kinds", ("kinds",)),
        *((f"Pathology, {kind}", ("pathology", kind)) for kind in KINDS),
    ]


def _size_table(block: Mapping[str, Any]) -> str:
    heads = ["all parts", "n", "mean", "std", "min", "median", "max"]
    rows = [
        [name, *(_rounded(_at(block, path)[head]) for head in heads[1:])]
        for name, path in (
            ("image width, px", ("image_size", "width")),
            ("image height, px", ("image_size", "height")),
            ("spacing between rows, mm", ("spacing_mm", "between_rows")),
            ("spacing between columns, mm", ("spacing_mm", "between_columns")),
            ("box width, px", ("box", "width")),
            ("box height, px", ("box", "height")),
            ("box width / height", ("box", "width_to_height")),
        )
    ]
    for name, grey in (("grey", block["grey"]), *block["channels"].items()):
        rows.append(
            [f"{name} value", grey["pixels"], _rounded(grey["mean"]), _rounded(grey["std"])]
        )
    return markdown_table(heads, rows)


def _rounded(value: float | int | None) -> object:
    if value is None:
        return "-"
    return value if isinstance(value, int) else f"{value:.4g}"


def _at(block: Mapping[str, Any], path: Sequence[str]) -> Any:
    for name in path:
        block = block[name]
    return block


def _figures(dataset: Dataset, result: Mapping[str, Any], counts: Counts) -> dict[str, Figure]:
    parts = {part: result["parts"][part] for part in dataset.records}
    records = dataset.all_records()
    boxes = np.array([s.box_xyxy for r in records for s in r.structures]).reshape(-1, 4)
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    spacings = np.array([r.spacing_rc_mm for r in records if r.spacing_rc_mm]).reshape(-1, 2)
    return {
        "classes": _bars("classes", {part: block["classes"] for part, block in parts.items()}),
        "levels": _bars("levels", {part: block["levels"] for part, block in parts.items()}),
        "pathology": _bars(
            "pathology",
            {
                part: {
                    f"{kind} {tag}": number
                    for kind in KINDS
                    for tag, number in block["pathology"][kind].items()
                }
                for part, block in parts.items()
            },
        ),
        "image_sizes": _histograms(
            {"width, px": [r.width for r in records], "height, px": [r.height for r in records]},
            of="images",
        ),
        "spacing": _histograms(
            {"between rows, mm": spacings[:, 0], "between columns, mm": spacings[:, 1]},
            of="images",
        ),
        "boxes": _histograms(
            {
                "width, px": widths,
                "height, px": heights,
                "width / height": widths[heights > 0] / heights[heights > 0],
            },
            of="structures",
        ),
        "discs_per_image": _bars(
            "discs per image", _same_names(parts, "discs_per_image"), of="images"
        ),
        "grey": _grey_figure({part: values[0] for part, values in counts.items()}),
    }


def _same_names(parts: Mapping[Part, Mapping[str, Any]], name: str) -> dict[Part, dict[str, int]]:
    """The counts of one block by part, all over the same sorted numbers."""
    numbers = sorted({int(number) for block in parts.values() for number in block[name]})
    return {
        part: {str(n): block[name].get(str(n), 0) for n in numbers} for part, block in parts.items()
    }


def _bars(
    title: str, by_part: Mapping[Part, Mapping[str, int]], *, of: str = "structures"
) -> Figure:
    """Stacked bars: one per name, one colour per part."""
    names = list(next(iter(by_part.values()), {}))
    figure = new_figure(9, 4.5)
    axes = figure.subplots()
    below = np.zeros(len(names))
    for part, numbers in by_part.items():
        heights = np.array([numbers[name] for name in names], dtype=np.float64)
        axes.bar(range(len(names)), heights, bottom=below, label=part)
        below += heights
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_ylabel(of)
    axes.set_ylim(0, 1.05 * max(1.0, below.max(initial=0.0)))
    axes.set_title(title)
    figure.legend(loc="outside right upper")
    return figure


def _histograms(values_by_name: Mapping[str, Any], *, of: str) -> Figure:
    figure = new_figure(4.5 * len(values_by_name), 3.5)
    for axes, (name, values) in zip(
        figure.subplots(1, len(values_by_name)), values_by_name.items(), strict=True
    ):
        axes.set_xlabel(name)
        axes.set_ylabel(of)
        if len(values):
            axes.hist(values, bins=25, range=_range_of(values))
        else:
            axes.text(0.5, 0.5, "unknown", ha="center", transform=axes.transAxes)
    return figure


def _range_of(values: Sequence[float]) -> tuple[float, float]:
    """Minimum and maximum, or one unit around values that hardly differ."""
    low, high = float(min(values)), float(max(values))
    if high - low > 1e-6 * max(1.0, abs(low), abs(high)):
        return low, high
    return low - 0.5, high + 0.5


def _grey_figure(counts: Mapping[str, IntArray]) -> Figure:
    figure = new_figure(9, 4)
    axes = figure.subplots()
    for part, pixels in counts.items():
        axes.stairs(pixels / max(1, int(pixels.sum())), np.arange(257), label=part)
    if any(pixels.any() for pixels in counts.values()):
        axes.set_yscale("log")
    axes.set_xlabel("grey value")
    axes.set_ylabel("share of pixels")
    axes.legend()
    return figure
