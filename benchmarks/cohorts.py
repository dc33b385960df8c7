"""Cohorts of phantom studies for the benchmarks: a few are drawn, the rest are copies of them."""

from __future__ import annotations

from pathlib import Path

import pydicom

from spineline.datasets.commands.phantom import phantom
from spineline.datasets.commands.settings import DataPhantom

DRAWN = 8


def draw_cohort(
    folder: Path, n: int, *, seed: int, slices: int = 7, size: int | None = None
) -> str:
    """Fill a folder with phantom studies of three series each, one subfolder per study.

    The first eight are drawn. Every other is one of those under UIDs of its own, so no two studies,
    series or images are one.

    Args:
        folder: made here.
        n: how many studies.
        seed: of the spines drawn.
        slices: per series.
        size: rows and columns of the T2 sagittal images; None for various.

    Returns:
        What it holds, in words.
    """
    drawn = min(n, DRAWN)
    source = folder.with_name(f"{folder.name}-drawn")
    settings = DataPhantom(
        out=source, n=drawn, seed=seed, format=("dicom",), slices=slices, size=size
    )
    phantom(settings)
    originals = sorted((source / "studies").iterdir())
    folder.mkdir(parents=True)
    files = 0
    for number in range(n):
        files += copy_study(originals[number % drawn], folder / f"study{number:04d}", number)
    words = "various sizes" if size is None else f"{size} px"
    return f"{n} phantom studies, {files // n} files each, {words}, {drawn} of them drawn anew"


def copy_study(original: Path, target: Path, number: int) -> int:
    """Write a study's files under UIDs of their own; returns how many."""
    target.mkdir()
    count = 0
    for path in sorted(original.iterdir()):
        image = pydicom.dcmread(path)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(image, keyword, f"{getattr(image, keyword)[:50]}.{number}")
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.save_as(target / path.name)
        count += 1
    return count
