"""DICOM studies: headers, series and slices, geometry, pixels, and the patient's privacy.

pydicom is imported without ``requests`` and ``tqdm``. It only fetches its own examples with them,
and ``requests`` takes longer to import than the rest of pydicom.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def _import_pydicom() -> None:
    modules: dict[str, Any] = sys.modules
    hidden = [name for name in ("requests", "tqdm") if name not in modules]
    if "pydicom" in modules:
        return
    modules |= dict.fromkeys(hidden)  # None makes import treat them as not installed
    try:
        importlib.import_module("pydicom")
    finally:
        for name in hidden:
            del modules[name]


_import_pydicom()
