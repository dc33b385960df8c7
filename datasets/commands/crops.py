"""``spineline data crops``: write the crops of a converted dataset as a folder for ``classify``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.commands.settings import DataCrops
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.common.files import check_output, staged_folder
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.crops.files import write_crops
from spineline.datasets.crops.table import (
    Balance,
    BalanceBy,
    CropTable,
    count_classes,
    make_crops,
    why_no_crop,
)
from spineline.datasets.dataset import load_dataset
from spineline.datasets.splits import PARTS, Part


@dataclass(frozen=True, slots=True)
class CropsResult:
    """Result of ``spineline data crops``.

    Attributes:
        out: the folder written.
        before, after: crops per part and class, before and after jitter and balancing.
        failures: images that could not be read, with the reason.
    """

    out: Path
    before: dict[Part, dict[str, int]]
    after: dict[Part, dict[str, int]]
    failures: tuple[str, ...]


def crops(settings: DataCrops) -> CropsResult:
    """Cut the crops of a dataset and write them as a folder for ``classify``.

    Raises:
        AnnotationError: the dataset cannot be read, or has no labelled structure.
        OutputExistsError: ``out`` exists and ``overwrite`` is not set.
    """
    check_output(settings.out, overwrite=settings.overwrite)
    dataset = load_dataset(settings.data, settings.images)
    by: BalanceBy = "binary" if settings.balance_by == "binary" else "seven"
    balance: Balance = "noise" if settings.balance == "noise" else "none"
    tables: dict[Part, CropTable] = {}
    for part in PARTS:
        training = part == "train"
        tables[part] = make_crops(
            dataset,
            part,
            settings.spec(),
            jitter=settings.jitter and training,
            balance=balance if training else "none",
            balance_by=by,
            noise_std=settings.noise_std,
            seed=settings.seed,
        )
    before = {
        part: count_classes([row for row in table.rows if not row.variant], by)
        for part, table in tables.items()
    }
    after = {part: table.counts(by) for part, table in tables.items()}
    failures = dataset.failures + tuple(f for table in tables.values() for f in table.failures)
    if not any(len(table) for table in tables.values()):
        raise AnnotationError(f"{settings.data}: {why_no_crop(dataset, failures)}")
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        write_crops(stage, tables)
        counts = {"before": {**before}, "after": {**after}}
        write_run_record(stage, "data crops", settings, counts=counts, failures=list(failures))
    for part, counted in after.items():
        if not sum(counted.values()):
            continue
        total = sum(before[part].values())
        LOG.info("%s: %d crops, %d before", part, sum(counted.values()), total)
        for name, count in counted.items():
            LOG.info("  %-22s %6d  (%d before)", name, count, before[part][name])
    for failure in failures:
        LOG.error("left out: %s", failure)
    LOG.info("crops written to %s", settings.out)
    return CropsResult(settings.out, before, after, failures)
