"""``spineline doctor``: what is installed, what would run, and whether all requirements are met.

The libraries of commands are imported late and under a guard: one that cannot be imported is a
finding. The output contains no path and no value of a user's environment variable.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import SpinelineError, first_line
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import versions
from spineline.datasets.common.tables import aligned_text
from spineline.datasets.networks.runtimes import PACKAGES, import_runtime
from spineline.detect.yolo.environment import OFFLINE_ENVIRONMENT, import_ultralytics
from spineline.pipeline.cli.settings import Doctor
from spineline.pipeline.inference.bundles import exported_bundle, is_exported
from spineline.pipeline.inference.runtimes.choice import chosen_runtime
from spineline.pipeline.inference.settings import ModelSettings, mixed_precision
from spineline.weights import Bundle, load_registry, resolve_bundle

_NOT_FOR_USERS = ("dev", "docs", "test")  # extras of those who change spineline
_LIBRARIES = ("numpy", "cv2", "pydicom", "torch", "torchvision", "timm")
_VARIABLES = (
    "SPINELINE_CACHE_DIR", "XDG_CACHE_HOME", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
    "HTTP_PROXY", "HTTPS_PROXY",
)  # fmt: skip
_PROGRAMS = ("chromium", "google-chrome", "node", "Orthanc", "storescu", "git")
"""Programs that only tests and external viewers need."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The findings.

    Attributes:
        report: as ``json=true`` prints it.
        failures: unmet requirements; if there are any, the exit status is 1.
    """

    report: dict[str, Any]
    failures: tuple[str, ...]


def doctor(settings: Doctor) -> Diagnosis:
    """Examine the installation, and print the findings.

    Raises:
        ConfigError: ``device`` is not the name of a device.
    """
    model = ModelSettings(weights=settings.weights, device=settings.device)
    variables = {name: name in os.environ for name in (*OFFLINE_ENVIRONMENT, *_VARIABLES)}
    failures: list[str] = []
    extras = _extras(failures)
    weights = _weights(model, failures)
    report: dict[str, Any] = {
        "versions": versions(),
        "extras": extras,
        "run": _run(model, settings.quick, failures),
        "weights": weights,
        "offline": {"switched_off": dict(OFFLINE_ENVIRONMENT), "variables_set": variables},
        "programs": {"needed": [], "found": [name for name in _PROGRAMS if shutil.which(name)]},
        "remarks": list(_remarks()),
    }
    if not settings.quick:
        failures += _import_failures()
    report = {"ok": not failures, "failures": failures, **report}
    if settings.json:
        LOG.info("%s", json.dumps(report, indent=2))
    else:
        _print(report)
    return Diagnosis(report, tuple(failures))


def unmet(requirements: Iterable[str], extra: str = "") -> tuple[str, ...]:
    """The requirements that this environment does not meet, each with the installed version.

    Args:
        requirements: in the form of a package's metadata.
        extra: the extra to check; by default none.

    >>> unmet(["numpy>=1", "numpy>=999; extra == 'far'"])
    ()
    >>> unmet(["no-such-package>=2; extra == 'far'"], "far")
    ('no-such-package>=2 (not installed)',)
    """
    found = []
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found.append(f"{wanted} (not installed)")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{wanted} ({version} is installed)")
    return tuple(found)


def _extras(failures: list[str]) -> dict[str, list[str]]:
    """The missing requirements of each extra, by the package's metadata."""
    try:
        about = metadata.metadata("spineline")
    except metadata.PackageNotFoundError:
        failures.append("spineline is not installed; pip install spineline, or pip install -e .")
        return {}
    requirements = metadata.requires("spineline") or []
    install = "install it by pip install --upgrade spineline"
    failures += [f"{text}: spineline needs it; {install}" for text in unmet(requirements)]
    without_extra = {text for text in requirements if "extra" not in text.partition(";")[2]}
    names = [name for name in about.get_all("Provides-Extra") or [] if name not in _NOT_FOR_USERS]
    return {
        name: list(unmet([text for text in requirements if text not in without_extra], name))
        for name in sorted(names)
    }


def _weights(model: ModelSettings, failures: list[str]) -> dict[str, Any]:
    """The state of each bundled file by its hash, and the bundle that would run."""
    states: dict[str, str] = {}
    found: dict[str, Any] = {"bundle": model.weights, "sha256": None, "files": states}
    try:
        registry = load_registry()
        for entry in registry.entries:
            states |= {entry.file: registry.state_of(entry), **registry.graph_states(entry)}
        found["sha256"] = _bundle(model).sha256
    except SpinelineError as error:
        failures.append(str(error))
    failures += [
        f"weights/{file} is {state}; reinstall spineline"
        for file, state in states.items()
        if state != "ok"
    ]
    return found


def _bundle(model: ModelSettings) -> Bundle:
    exported = is_exported(model.weights)
    return exported_bundle(model) if exported else resolve_bundle(model.weights)


def _run(model: ModelSettings, quick: bool, failures: list[str]) -> dict[str, Any]:
    """The runtime and the device that ``pipeline predict`` would use with these keys."""
    runtime, half = "torch", False
    device: str | None = model.device
    gpus: list[str] | None = None
    try:
        runtime = chosen_runtime(model, _bundle(model))
        if runtime != "torch":
            import_runtime(PACKAGES[runtime])
        half = mixed_precision(model)
        if not quick:
            gpus = _gpus()
            device = device_name(model.device)
    except (SpinelineError, ImportError, OSError) as error:
        failures.append(first_line(error) if isinstance(error, OSError) else str(error))
        device = None
    return {"runtime": runtime, "device": device, "half": half, "gpus": gpus}


def _gpus() -> list[str]:
    import torch

    names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return [*names, "Apple GPU"] if torch.backends.mps.is_available() else names


def _import_failures() -> Iterator[str]:
    for name in _LIBRARIES:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken library fails in many ways
            yield f"{name} cannot be imported ({first_line(error)}); reinstall spineline"
            return
    import torch
    import torchvision

    try:
        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    except (RuntimeError, NotImplementedError) as error:
        yield (
            f"torch {torch.__version__} and torchvision {torchvision.__version__} do not belong "
            f"together ({first_line(error)}); reinstall both from one index"
        )
    try:
        utils = importlib.import_module(f"{import_ultralytics().__name__}.utils")
    except Exception as error:
        yield f"ultralytics cannot be imported ({first_line(error)}); reinstall spineline"
        return
    if utils.ONLINE:
        yield "ultralytics believes it is online, in spite of YOLO_OFFLINE=1; please report it"


def _remarks() -> Iterator[str]:
    installed = [name for name in ("opencv-python", "opencv-python-headless") if _is_here(name)]
    if len(installed) > 1:
        yield (
            "opencv-python and opencv-python-headless overwrite each other's files; "
            "uninstall both, then install one"
        )


def _is_here(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _print(report: dict[str, Any]) -> None:
    run, weights, offline = report["run"], report["weights"], report["offline"]
    LOG.info("versions")
    LOG.info("%s", _table(report["versions"].items()))
    LOG.info("\nextras: pip install 'spineline[NAME]'")
    missing = {name: "missing: " + ", ".join(texts) for name, texts in report["extras"].items()}
    LOG.info(
        "%s", _table((n, missing[n] if t else "installed") for n, t in report["extras"].items())
    )
    LOG.info("\npipeline predict would use")
    gpus = "not looked for (quick=true)" if run["gpus"] is None else ", ".join(run["gpus"])
    rows = [
        ("weights", f"{weights['bundle']}, SHA-256 {(weights['sha256'] or 'unknown')[:12]}"),
        ("runtime", run["runtime"]),
        ("device", run["device"] or "none"),
        ("half precision", str(run["half"]).lower()),
        ("GPUs", gpus or "none"),
    ]
    LOG.info("%s", _table(rows))
    LOG.info("\nbundled weights")
    LOG.info("%s", _table(weights["files"].items()))
    LOG.info("\nnetwork: unused unless a key requests it")
    is_set = [name for name, here in offline["variables_set"].items() if here]
    switches = " ".join(f"{name}={value}" for name, value in offline["switched_off"].items())
    LOG.info("  variables set for ultralytics: %s", switches)
    LOG.info("  network variables of this environment: %s", ", ".join(is_set) or "none")
    found = ", ".join(report["programs"]["found"]) or "none"
    LOG.info("\noptional programs for tests and viewers, found: %s", found)
    for remark in report["remarks"]:
        LOG.warning("warning: %s", remark)
    for failure in report["failures"]:
        LOG.error("error: %s", failure)
    LOG.info("\n%s", "all checks passed" if report["ok"] else "some checks failed")


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"  {line}" for line in aligned_text(list(rows)).splitlines())
