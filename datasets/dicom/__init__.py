"""DICOM studies: headers, series and slices, geometry, pixels, what names the patient.

pydicom is imported without ``requests``: it fetches its own examples with that, which we never ask
for, and to import it takes longer than to import the rest of pydicom.
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
    modules[hidden] = None  # which import takes for "not installed"
    try:
        importlib.import_module("pydicom")
    finally:
        del modules[hidden]


_import_pydicom()
