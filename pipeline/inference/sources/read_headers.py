"""Headers of many files, read by several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from spineline.datasets.common.log import LOG
from spineline.datasets.dicom.index import (
    IndexEntry,
    index_files,
    plain_entry,
)
from spineline.datasets.dicom.types import Rejection
from spineline.pipeline.inference.process_pool import Limits, ProcessPool

_CHUNK = 128
"""Number of files whose headers one process reads at a time."""
_FEW_FILES = 32 * _CHUNK
"""Up to this number, plain files are read in this process, because starting others takes longer."""


def read_index_entries(
    paths: Sequence[Path], *, workers: int, limits: Limits
) -> Iterator[IndexEntry]:
    """The entries of files in their order; processes read them if there are many files.

    Of few files, processes read only those that need pydicom.
    """
    if workers == 0:
        shown = _shown_index(len(paths))
        for chunk in _chunks(paths):
            yield from shown(index_files(chunk))
    elif len(paths) > _FEW_FILES:
        yield from _read_there(paths, workers, limits)
    else:
        entries = {path: plain_entry(path) for path in paths}
        odd = [path for path, entry in entries.items() if entry is None]
        if odd:
            entries.update((entry.path, entry) for entry in _read_there(odd, workers, limits))
        yield from (entry for entry in entries.values() if entry is not None)


def _read_there(paths: Sequence[Path], workers: int, limits: Limits) -> Iterator[IndexEntry]:
    """The entries of files in their order, read by processes."""
    chunks, shown = _chunks(paths), _shown_index(len(paths))
    workers = min(workers, len(chunks))
    with ProcessPool(_numbered_entries, workers=workers, limits=limits) as pool:
        ready: dict[int, list[IndexEntry]] = {}
        coming = 0
        for result in pool.map(enumerate(chunks)):
            number, chunk = result.item
            ready[number] = result.value or _one_by_one(chunk, limits)
            while coming in ready:
                yield from shown(ready.pop(coming))
                coming += 1


def _chunks(paths: Sequence[Path]) -> list[Sequence[Path]]:
    return [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]


def _shown_index(count: int) -> Callable[[Sequence[IndexEntry]], Sequence[IndexEntry]]:
    """Pass entries on, and log their number from time to time."""
    done = 0
    step = max(_FEW_FILES, count // 10)

    def passed(entries: Sequence[IndexEntry]) -> Sequence[IndexEntry]:
        nonlocal done
        before, done = done // step, done + len(entries)
        if done // step > before and done < count:
            LOG.info("DICOM headers: %d of %d", done, count)
        return entries

    return passed


def _numbered_entries(chunk: tuple[int, Sequence[Path]]) -> list[IndexEntry]:
    return index_files(chunk[1])


def _one_by_one(paths: Sequence[Path], limits: Limits) -> list[IndexEntry]:
    """Read files one by one after a batch failed because one of them crashes, hangs or floods."""
    entries: list[IndexEntry] = []
    with ProcessPool(index_files, workers=1, limits=limits) as pool:
        for result in pool.map([path] for path in paths):
            if result.failure is None:
                entries += result.value or ()
                continue
            path = result.item[0]
            rejection = Rejection(path, result.failure.reason)
            entries.append(IndexEntry(path, "", "", b"", rejection))
    return entries
