"""Exported bundles: a folder with detector, classifiers and level reader for another runtime.

``bundle.json`` holds everything needed to run them: preprocessing, classes, crops, decoding, and
size and SHA-256 of each file. ``spineline pipeline export`` writes such a folder, `load_exported`
loads it. Nothing here imports torch, and a file is used only if it matches ``bundle.json``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from spineline.classify.combined import (
    Combination,
    CombinedClassifier,
    combination_from_json,
)
from spineline.datasets.common.errors import ConfigError, WeightsError, first_line
from spineline.datasets.common.run_record import package_version
from spineline.datasets.crops.grey_range import GreyRange
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.labels import BINARY_NAMES, LEVELS, SEVEN_NAMES
from spineline.datasets.networks.runtimes import (
    FORMS,
    SUFFIXES,
    Form,
    Session,
    open_session,
)
from spineline.datasets.straighten import STRIP_BOUNDS, StripSpec
from spineline.pipeline.inference.decode import DecodeSettings
from spineline.pipeline.inference.naming import NamingCoefficients
from spineline.weights import Bundle, WeightsFile, load_registry, sha256_of

if TYPE_CHECKING:
    from spineline.classify.exported import ExportedClassifier
    from spineline.classify.recipe import Head
    from spineline.detect.level_reader.exported import ExportedLevelReader
    from spineline.detect.yolo.exported import ExportedDetector
    from spineline.pipeline.inference.settings import ModelSettings

Role = Literal["detector", "classifier", "namer"]
ROLES: tuple[Role, ...] = get_args(Role)

BUNDLE_FILE = "bundle.json"
KIND = "spineline-bundle"
BUNDLE_SCHEMA = 1
COMBINED_SCHEMA = 2
"""Schema of a bundle whose classifier is a list of members and their combination."""

BY_KIND_SCHEMA = 3
"""The same with different shares for discs and vertebrae, which older versions cannot read."""

NAMING_SCHEMA = 4
"""Either of these with coefficients of its own for the probability of names, which older versions
would ignore.
"""

USE = "research use only, not a medical device"

_AGAIN = "make it again with spineline pipeline export, or copy the whole folder again"
_LARGEST = 1_000_000  # bytes of bundle.json
_IMGSZ = (32, 8192)
_OF_SETTINGS = ("method", "confidence")  # fields of decoding that the keys of a command decide
_NOT_NUMBERS = (*_OF_SETTINGS, "coefficients")
_NETWORK_PACKAGES = ("torch", "torchvision", "ultralytics", "timm", "safetensors")


@dataclass(frozen=True, slots=True)
class BundleFile:
    """A file of a bundle: its name, size in bytes, and SHA-256 in lower-case hex."""

    file: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BundleClassifier:
    """A classifier of a bundle.

    Attributes:
        files: in the order of `SUFFIXES`.
        head, crop, level_input: its outputs and inputs.
        greys: grey range of the training images; None if it was not stored.
    """

    files: tuple[BundleFile, ...]
    head: Head
    crop: CropSpec
    level_input: bool = False
    greys: GreyRange | None = None


@dataclass(frozen=True, slots=True)
class BundleDescription:
    """The content of ``bundle.json``.

    Attributes:
        folder: location of the files.
        form: format of the files.
        name: of the original weights, and the form.
        sha256: of ``bundle.json``, which holds those of all files.
        files: those of detector and level reader, in the order of `SUFFIXES`.
        names, imgsz, channels: of the detector.
        classifiers: one, or several to combine.
        combination: how they are combined; None for a single classifier.
        strip: of the level reader, if there is one.
        decoding: how candidates are weighted.
    """

    folder: Path
    form: Form
    name: str
    sha256: str
    files: Mapping[Role, tuple[BundleFile, ...]]
    names: tuple[str, ...]
    imgsz: int
    channels: int
    classifiers: tuple[BundleClassifier, ...]
    combination: Combination | None
    strip: StripSpec | None
    decoding: DecodeSettings


@dataclass(frozen=True, slots=True)
class ExportedModels:
    """The loaded networks of a bundle, and the weights of their candidates."""

    detector: ExportedDetector
    classifier: ExportedClassifier | CombinedClassifier
    namer: ExportedLevelReader | None
    decoding: DecodeSettings


def is_exported(weights: str) -> bool:
    """Whether ``weights=`` is a folder, or the ``bundle.json`` in it, and not a registry name.

    The output folder of ``pipeline train`` is none.
    """
    if _is_registered(weights):
        return False
    path = Path(weights).expanduser()
    exported = path.is_dir() and not trained_networks(weights)
    return exported or (path.name == BUNDLE_FILE and path.is_file())


def _is_registered(name: str) -> bool:
    registry = load_registry()
    return name in registry.bundles or registry.find(name) is not None


def trained_networks(weights: str) -> dict[Role, str]:
    """The files of ``weights=`` if it is the output folder of ``pipeline train``, else none."""
    if _is_registered(weights):
        return {}
    path = Path(weights).expanduser()
    found: dict[Role, str] = {
        role: str(file) for role in ROLES if (file := path / f"{role}.safetensors").is_file()
    }
    whole = not (path / BUNDLE_FILE).is_file() and {"detector", "classifier"} <= set(found)
    return found if whole else {}


def exported_bundle(settings: ModelSettings) -> Bundle:
    """The files of an exported bundle, checked; its SHA-256 is that of ``bundle.json``.

    Raises:
        ConfigError: keys that an exported bundle does not have.
        WeightsError: damaged, altered, incomplete, of another version, or not trusted.
    """
    exported = read_exported(settings)
    found: dict[Role, list[WeightsFile]] = {role: [] for role in ROLES}
    for role, files in _all_files(exported):
        _contents(exported, files)
        first = files[0]
        file = WeightsFile(first.file, exported.folder / first.file, first.sha256)
        found[role].append(file)
    sha256, namer = exported.sha256, next(iter(found["namer"]), None)
    if exported.strip is None and namer is not None:  # namer=none makes other results
        sha256, namer = hashlib.sha256(f"{sha256} namer=none".encode()).hexdigest(), None
    classifier, *more = found["classifier"]
    return Bundle(exported.name, found["detector"][0], classifier, sha256, namer, tuple(more))


def _all_files(exported: BundleDescription) -> list[tuple[Role, tuple[BundleFile, ...]]]:
    """The files of each network, by role."""
    return [
        *exported.files.items(),
        *(("classifier", member.files) for member in exported.classifiers),
    ]


def load_exported(settings: ModelSettings) -> ExportedModels:
    """Load the networks of an exported bundle; each has run once on return.

    Raises:
        ConfigError: keys that an exported bundle does not have, or the runtime is not installed.
        WeightsError: damaged, altered, incomplete, of another version, or not trusted.
    """
    from spineline.classify.exported import ExportedClassifier
    from spineline.detect.level_reader.exported import ExportedLevelReader
    from spineline.detect.yolo.exported import ExportedDetector

    exported = read_exported(settings)

    def opened(files: tuple[BundleFile, ...]) -> tuple[Session, str]:
        where = str(exported.folder / files[0].file)
        return open_session(_contents(exported, files), exported.form, where), where

    session, where = opened(exported.files["detector"])
    detector = ExportedDetector(session, exported.names, exported.imgsz, exported.channels)
    detector.check(where)
    classifiers = []
    for member in exported.classifiers:
        session, where = opened(member.files)
        found = ExportedClassifier(
            session, member.head, member.crop, member.level_input, member.greys
        )
        found.check(where)
        classifiers.append(found)
    classifier: ExportedClassifier | CombinedClassifier = classifiers[0]
    if exported.combination is not None:
        classifier = CombinedClassifier(tuple(classifiers), exported.combination)
    namer = None
    if exported.strip is not None:
        session, where = opened(exported.files["namer"])
        namer = ExportedLevelReader(session, exported.strip)
        namer.check(where)
    return ExportedModels(detector, classifier, namer, exported.decoding)


@contextmanager
def networks_needed(weights: str) -> Iterator[None]:
    """Explain what to do if the packages that ordinary weights need are not installed.

    Raises:
        ConfigError: torch, or another of them, is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _NETWORK_PACKAGES:
            raise
        msg = (
            f"weights={weights}: needs {package}, which is not installed; install spineline with "
            "all it depends on, or give the folder of an exported bundle (pipeline export)"
        )
        raise ConfigError(msg) from error


def read_exported(settings: ModelSettings) -> BundleDescription:
    """The description of a bundle, checked against the keys; its files are not read yet.

    Raises:
        ConfigError: keys that an exported bundle does not have.
        WeightsError: not a bundle, damaged, of another version, or not trusted.
    """
    path = Path(settings.weights).expanduser()
    exported = read_bundle(path.parent if path.name == BUNDLE_FILE else path)
    _check_keys(settings)
    return replace(exported, strip=None) if settings.namer == "none" else exported


def read_bundle(folder: Path) -> BundleDescription:
    """The description in a folder's ``bundle.json``.

    Raises:
        WeightsError: there is none, or it is damaged or of another version.
    """
    path = folder / BUNDLE_FILE
    content, sha256 = _read_json(path)
    if content.get("schema") not in range(BUNDLE_SCHEMA, NAMING_SCHEMA + 1):
        msg = (
            f"{path}: a bundle of schema {content.get('schema')!r:.40}, written by spineline "
            f"{content.get('version')!r:.40}; this one, {package_version()}, reads schema "
            f"{BUNDLE_SCHEMA} to {NAMING_SCHEMA}: export it again with this version, or use the "
            "one that wrote it"
        )
        raise WeightsError(msg)
    if content.get("format") == "torchscript":
        msg = f"{path}: bundles of TorchScript files, which are programs, are not run any more"
        raise WeightsError(f"{msg}; export it again with format=onnx or format=openvino")
    try:
        return _parsed(folder, content, sha256)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, ConfigError) as error:
        problem = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        msg = f"{path}: its description is damaged ({problem:.200}); {_AGAIN}"
        raise WeightsError(msg) from error


def file_names(network: str, form: Form) -> tuple[str, ...]:
    """Names of a network's files, such as ``detector.onnx``; a bundle has no others.

    Args:
        network: a role; for several classifiers ``classifier0`` and so on.
        form: format of the files.
    """
    return tuple(network + suffix for suffix in SUFFIXES[form])


def bundle_file(path: Path) -> BundleFile:
    """The description of a file."""
    return BundleFile(path.name, path.stat().st_size, sha256_of(path))


def decoding_values(decoding: DecodeSettings) -> dict[str, float]:
    """The numbers of a bundle's decoding that no key of a command sets."""
    return {name: v for name, v in asdict(decoding).items() if name not in _NOT_NUMBERS}


def _check_keys(settings: ModelSettings) -> None:
    for name in ("detector", "classifier"):
        if getattr(settings, name) is not None:
            msg = f"{name}=…: an exported bundle is run as it is; export one with this {name}"
            raise ConfigError(msg)
    if settings.namer not in ("bundle", "none"):
        msg = f"namer={settings.namer}: an exported bundle has its own; allowed: bundle, none"
        raise ConfigError(msg)
    if settings.device.strip().lower() != "cpu":
        msg = f"device={settings.device}: exported bundles run on the CPU; use device=cpu"
        raise ConfigError(f"{msg}, or weights that are not an export")


def _read_json(path: Path) -> tuple[dict[str, Any], str]:
    """The content of ``bundle.json`` and its SHA-256."""
    if not path.is_file():
        msg = (
            f"{path.parent}: is a folder without {BUNDLE_FILE}, so no bundle of spineline pipeline "
            "export; for weights of another kind, name the weights file in it"
        )
        raise WeightsError(msg)
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        content = json.loads(data) if len(data) <= _LARGEST else None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({first_line(error)})") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: is not JSON ({error!s:.200}); {_AGAIN}") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise WeightsError(f"{path}: is not the description of a bundle (kind {KIND!r}); {_AGAIN}")
    return content, hashlib.sha256(data).hexdigest()


def _parsed(folder: Path, content: dict[str, Any], sha256: str) -> BundleDescription:
    form = next((form for form in FORMS if form == content["format"]), None)
    if form is None:
        raise ValueError(f"format {content['format']!r}, wanted one of {', '.join(FORMS)}")
    detector, classifier, namer = (content["networks"][role] for role in ROLES)
    networks: dict[Role, Any] = {"detector": detector, "namer": namer}
    if not isinstance(content["name"], str):
        raise ValueError("name is not text")
    classifiers, combination = _classifiers(classifier, content["schema"], form)
    return BundleDescription(
        folder=folder,
        form=form,
        name=content["name"],
        sha256=sha256,
        files={
            role: _files_of(network, role, form)
            for role, network in networks.items()
            if network is not None
        },
        names=_levels_of(detector),
        imgsz=_whole(detector["imgsz"], _IMGSZ, "detector: imgsz"),
        channels=_whole(detector["channels"], (1, 3), "detector: channels"),
        classifiers=classifiers,
        combination=combination,
        strip=None if namer is None else _strip(namer),
        decoding=_decoding(content["decode"]),
    )


def _files_of(network: dict[str, Any], role: str, form: Form) -> tuple[BundleFile, ...]:
    files, wanted = network["files"], file_names(role, form)
    found = [file["file"] for file in files]
    if found != list(wanted):
        raise ValueError(f"{role}: files {found!r:.100}, wanted {', '.join(wanted)}")
    for file in files:
        digest = file["sha256"]
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"{file['file']}: sha256 {digest!r:.80}")
    limits = (1, 2**40)
    return tuple(
        BundleFile(f["file"], _whole(f["size"], limits, f"{f['file']}: size"), f["sha256"])
        for f in files
    )


def _levels_of(detector: dict[str, Any]) -> tuple[str, ...]:
    """The class names of a detector, each once and some of them levels."""
    names = detector["names"]
    texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not (texts and len(set(names)) == len(names) <= 1000 and set(names) & set(LEVELS)):
        raise ValueError(f"detector: names {names!r:.100}, wanted levels")
    return tuple(names)


def _strip(namer: dict[str, Any]) -> StripSpec:
    bounds = STRIP_BOUNDS.items()
    return StripSpec(**{n: _whole(namer["strip"][n], b, f"namer: {n}") for n, b in bounds})


def _classifiers(
    classifier: dict[str, Any], schema: int, form: Form
) -> tuple[tuple[BundleClassifier, ...], Combination | None]:
    """The classifiers of a bundle, and how several are combined."""
    several = "members" in classifier if schema == NAMING_SCHEMA else schema != BUNDLE_SCHEMA
    if not several:
        return (_classifier(classifier, "classifier", form),), None
    found = tuple(
        _classifier(member, f"classifier{n}", form)
        for n, member in enumerate(classifier["members"])
    )
    if not found:
        raise ValueError("classifier: no member")
    return found, combination_from_json(classifier["combination"], [each.head for each in found])


def _classifier(network: dict[str, Any], name: str, form: Form) -> BundleClassifier:
    crop = network["crop"]
    margin = _number(crop["margin"], "classifier: margin")
    spec = CropSpec(_whole(crop["size"], (8, 1024), "classifier: size"), margin, crop["align"])
    outputs = network["outputs"]
    heads: dict[tuple[str, ...], Head] = {
        ("seven",): "seven", ("binary",): "binary", ("seven", "binary"): "both",
    }  # fmt: skip
    known = {"seven": list(SEVEN_NAMES), "binary": list(BINARY_NAMES)}
    head = heads.get(tuple(outputs))
    if head is None or any(known[name] != classes for name, classes in outputs.items()):
        raise ValueError(f"classifier: outputs {outputs!r:.100}")
    levels, greys = _takes_levels(network), _greys(network)
    return BundleClassifier(_files_of(network, name, form), head, spec, levels, greys)


def _greys(network: dict[str, Any]) -> GreyRange | None:
    found = network.get("greys")
    if found is None:
        return None
    low, high = ([_number(v, "classifier: greys") for v in found[end]] for end in ("low", "high"))
    return GreyRange(tuple(low), tuple(high))


def _takes_levels(network: dict[str, Any]) -> bool:
    value = network.get("level_input", False)
    if not isinstance(value, bool):
        raise ValueError(f"classifier: level_input {value!r:.40}, wanted true or false")
    return value


def _decoding(decode: dict[str, Any]) -> DecodeSettings:
    """Decoding settings from numbers above 0; only costs and weights may be 0."""
    values = decode["spine"]
    usual = decoding_values(DecodeSettings())
    if sorted(values) != sorted(usual):
        odd = sorted(set(values) ^ set(usual))
        raise ValueError(f"decode: {', '.join(odd):.100} unknown or missing")
    found: dict[str, Any] = {n: _number(v, f"decode: {n}") for n, v in values.items()}
    for name, value in found.items():
        positive = name.endswith("_sigma") or name.startswith("temperature")
        if value < 0 or (positive and value == 0):
            raise ValueError(f"decode: {name} {value}")
    if not 0 < found["reference_confidence"] < 1:
        raise ValueError(f"decode: reference_confidence {found['reference_confidence']}")
    count = values["candidates_per_level"]
    found["candidates_per_level"] = _whole(count, (1, 1000), "decode: candidates_per_level")
    if "naming" in decode:
        found["coefficients"] = NamingCoefficients.from_json(decode["naming"])
    return DecodeSettings(**found)


def _whole(value: Any, bounds: tuple[int, int], what: str) -> int:
    low, high = bounds
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{what} {value!r:.40}, wanted {low} … {high}")
    return value


def _number(value: Any, what: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{what} {value!r:.40}, wanted a number")
    return float(value)


def _contents(exported: BundleDescription, files: tuple[BundleFile, ...]) -> list[bytes]:
    """The bytes of a network's files, checked against ``bundle.json``."""
    return [_content(exported.folder / file.file, file) for file in files]


def _content(path: Path, listed: BundleFile) -> bytes:
    if not path.is_file():
        raise WeightsError(f"{path}: this file of the bundle is missing; {_AGAIN}")
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size == listed.size else b""
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({first_line(error)})") from error
    if size != listed.size:
        said = f"{size} bytes, {BUNDLE_FILE} says {listed.size}"
    elif (digest := hashlib.sha256(data).hexdigest()) != listed.sha256:
        said = f"SHA-256 {digest}, {BUNDLE_FILE} says {listed.sha256}"
    else:
        return data
    raise WeightsError(f"{path}: has been altered: {said}; {_AGAIN}")
