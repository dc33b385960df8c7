"""Output of commands: the logger, and progress on a terminal or as plain lines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

LOG = logging.getLogger("spineline")

_Item = TypeVar("_Item")


def progress(
    items: Iterable[_Item], *, description: str, total: int | None = None
) -> Iterator[_Item]:
    """Iterate with a progress bar on a terminal and about ten plain lines elsewhere."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=description, total=total, leave=False)
        return
    step = max(1, (total or 1000) // 10)
    for done, item in enumerate(items, 1):
        yield item
        if done % step == 0:
            LOG.info("%s: %d%s", description, done, f" of {total}" if total else "")
