"""DICOM studies: headers, series and slices, geometry, pixels, and the patient's privacy.

pydicom is imported without ``requests``. It only fetches its own examples with that, and
``requests`` takes longer to import than the rest of pydicom.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def _import_pydicom() -> None:
    hidden = "requests"
    modules: dict[str, Any] = sys.modules
    if "pydicom" in modules or hidden in modules:
        return
    modules[hidden] = None  # makes import treat it as not installed
    try:
        importlib.import_module("pydicom")
    finally:
        del modules[hidden]


_import_pydicom()
