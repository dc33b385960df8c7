"""Import of ``ultralytics`` without network access.

The package reads its environment once, at import. Its settings decide whether it may use the
network, install packages and send telemetry, and where its configuration is. All code here
imports it through [import_ultralytics][].
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.files import cache_folder, write_bytes
from spineline.datasets.common.log import LOG

OFFLINE_ENVIRONMENT: dict[str, str] = {
    "YOLO_OFFLINE": "1",
    "YOLO_AUTOINSTALL": "0",
    "YOLO_VERBOSE": "false",
    "ULTRALYTICS_SKIP_REQUIREMENTS_CHECKS": "1",
    "ULTRALYTICS_SAFE_LOAD": "1",
    "HF_HUB_OFFLINE": "1",
}
"""Variables that are set before the import; ``ULTRALYTICS_SAFE_LOAD`` makes the package refuse
pickles that run code."""

_FONT = "Arial.ttf"


def import_ultralytics() -> ModuleType:
    """Import the ``ultralytics`` package with network, telemetry and self-installation off.

    This sets environment variables of this process ([OFFLINE_ENVIRONMENT][], ``YOLO_CONFIG_DIR``).
    It leaves ``OMP_NUM_THREADS`` as it was, which the package would set to one thread.
    """
    if "ultralytics" in sys.modules:
        return sys.modules["ultralytics"]
    os.environ.update(OFFLINE_ENVIRONMENT)
    os.environ["YOLO_CONFIG_DIR"] = str(config_folder())
    threads = os.environ.get("OMP_NUM_THREADS")
    importlib.import_module("torch")  # before ultralytics limits the threads of later imports
    from PIL import Image

    open_image = Image.open
    package = importlib.import_module("ultralytics")
    importlib.import_module("ultralytics.utils.patches")
    Image.open = open_image  # the package's version tries to install a decoder for any broken file
    if threads is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    _redirect_log()
    return package


def config_folder() -> Path:
    """Return our own ``ultralytics`` configuration folder, filled: settings without sync, a font.

    It is in the user's cache (``XDG_CACHE_HOME``, else ``~/.cache``), or in a temporary folder if
    the cache is not writable.
    """
    folder = cache_folder() / f"ultralytics-{metadata.version('ultralytics')}"
    try:
        _fill(folder / "Ultralytics")
    except SpinelineError:
        folder = (
            Path(tempfile.gettempdir()) / f"spineline-{os.getuid() if hasattr(os, 'getuid') else 0}"
        )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _fill(folder / "Ultralytics")
    return folder


def _fill(folder: Path) -> None:
    settings = folder / "settings.json"
    if not settings.is_file() or not _is_private(settings):
        text = json.dumps(_private_settings(folder), indent=2)
        write_bytes(settings, text.encode("utf-8"))
    font = folder / _FONT
    if not font.is_file():
        import matplotlib as mpl

        source = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
        write_bytes(font, source.read_bytes())
        write_bytes(folder / "Arial.Unicode.ttf", source.read_bytes())
    if not os.access(folder, os.W_OK):
        raise SpinelineError(f"{folder}: not writable")


def _is_private(settings: Path) -> bool:
    try:
        found = json.loads(settings.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("sync") is False and not found.get("api_key")


def _private_settings(folder: Path) -> dict[str, Any]:
    """Settings of ultralytics 8.4 with every integration off; other versions add their own keys."""
    off = ("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb")
    return {
        "settings_version": "0.0.8",
        "datasets_dir": str(folder / "datasets"),
        "weights_dir": str(folder / "weights"),
        "runs_dir": str(folder / "runs"),
        "uuid": "spineline",
        "api_key": "",
        "openai_api_key": "",
        **dict.fromkeys(off, False),
        "vscode_msg": False,
        "openvino_msg": False,
    }


class _Forward(logging.Handler):
    """Passes the package's records to our log, so that warnings reach standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        LOG.log(record.levelno, "ultralytics: %s", record.getMessage().strip())


def _redirect_log() -> None:
    log = logging.getLogger("ultralytics")
    log.handlers.clear()
    log.addHandler(_Forward())
    log.setLevel(logging.WARNING)
    log.propagate = False
