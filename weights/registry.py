"""Resolve a registry name or a path to a verified weights file.

A registry is a folder with a ``registry.yaml`` and the files that it names. The fields are
described at the top of the bundled ``registry.yaml``. Weights are safetensors with one metadata
entry, ``spineline``. It is a JSON object with everything that is needed to build the network, and
its ``task`` is ``detect``, ``classify`` or ``name``. A pickle (``.pt`` and similar) runs code when
it is loaded, so it is refused unless the caller passes ``trust=True``.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from spineline.datasets.common.errors import ConfigError, UnknownWeightsError, WeightsError

Task = Literal["detect", "classify", "name", "weighting"]
State = Literal["ok", "missing", "altered"]

REGISTRY_FILE = "registry.yaml"
REGISTRY_SCHEMA = 1
BUNDLED = Path(__file__).resolve().parent
"""The folder of the bundled weights."""

_YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, many times faster
_PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".tar")
_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors format


@dataclass(frozen=True, slots=True)
class GraphFile:
    """A file beside the weights: the ONNX graph of one of their networks, without its tensors."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a registry, with the fields of ``registry.yaml``."""

    name: str
    file: str
    sha256: str
    size: int
    task: Task
    input: str
    classes: tuple[str, ...]
    licence: str
    trained_on: str
    figures: dict[str, float] = field(default_factory=dict)
    card: str | None = None
    graphs: tuple[GraphFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Registry:
    """A folder of weights: its entries, and its bundles of a detector and a classifier.

    A bundle may also hold a namer: the level reader, which reads levels from the straightened
    spine.

    Attributes:
        folder: folder of the files.
        entries: in the order of the file.
        bundles: names of (detector, classifier, …) by bundle name; several classifiers are
            combined.
        namers: the namer's name by bundle name, for the bundles that have one.
    """

    folder: Path
    entries: tuple[Entry, ...]
    bundles: dict[str, tuple[str, ...]]
    namers: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> Entry | None:
        """Return the entry of that name, or None."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def path_of(self, entry: Entry) -> Path:
        """The path of an entry's file, whether it exists or not."""
        return self.folder / entry.file

    def state_of(self, entry: Entry) -> State:
        """``ok``, ``missing``, or ``altered`` if its size or SHA-256 is not the registry's."""
        path = self.path_of(entry)
        if path.is_file() and path.stat().st_size != entry.size:
            return "altered"
        return _state_of(path, entry.sha256)

    def graph_states(self, entry: Entry) -> dict[str, State]:
        """The state of each graph of an entry, by file."""
        folder = self.folder
        return {each.file: _state_of(folder / each.file, each.sha256) for each in entry.graphs}


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A weights file that exists and has been verified.

    Attributes:
        name: the registry's name, or the file's name without its folders.
        path: path of the file.
        sha256: SHA-256 of its content, lower-case hex.
    """

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class WrittenWeights:
    """A weights file that was written, with its SHA-256 and size in bytes."""

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """A detector and a classifier that belong together.

    Attributes:
        name: the bundle's name.
        detector: its detector.
        classifier: its classifier, or the first of several.
        sha256: SHA-256 of the files' concatenated SHA-256 hex digests (64 ASCII letters each), in
            the order detector, classifiers, namer.
        namer: its namer, or None.
        more_classifiers: the other classifiers, which are combined with the first.
    """

    name: str
    detector: WeightsFile
    classifier: WeightsFile
    sha256: str
    namer: WeightsFile | None = None
    more_classifiers: tuple[WeightsFile, ...] = ()

    @property
    def classifiers(self) -> tuple[WeightsFile, ...]:
        """All classifiers, in their order."""
        return (self.classifier, *self.more_classifiers)


def resolve(
    name: str, *, task: Task, trust: bool = False, registry: Registry | None = None
) -> WeightsFile:
    """Find the weights file for a registry name or a path.

    A registry name takes precedence over a file of that name in the current folder. Write
    ``./NAME`` for the file.

    Args:
        name: a name of the registry, or the path of a file.
        task: what the weights must be for.
        trust: also accept a pickle, although loading a pickle runs the code in it.
        registry: registry to search; by default the bundled one.

    Raises:
        WeightsError: there is no such name or file, the SHA-256 differs from the registry's, or the
            file is for another task. Also raised for a pickle without ``trust`` and for a file that
            does not hold weights.
    """
    registry = load_registry() if registry is None else registry
    entry = registry.find(name)
    if entry is not None:
        return _resolve_entry(registry, entry, task)
    path = _file_of(name, registry, trust=trust)
    if not is_pickle(path):
        found = read_metadata(path)["task"]
        if found != task:
            raise _wrong_task(str(path), found, task, registry)
    return WeightsFile(path.name, path, sha256_of(path))


def resolve_classifiers(
    names: str | Path | Sequence[str | Path],
    *,
    trust: bool = False,
    registry: Registry | None = None,
) -> tuple[WeightsFile, ...]:
    """Find the weights files of one classifier, or of several combined ones.

    Args:
        names: registry names or paths; a string separates them by commas, as ``A,B`` or ``[A,B]``.
        trust: also accept pickles.
        registry: registry to search; by default the bundled one.

    Raises:
        ConfigError: the list of names is empty.
        WeightsError: as for `resolve`.
    """
    found = tuple(
        resolve(name, task="classify", trust=trust, registry=registry)
        for name in names_in_list(names)
    )
    if not found:
        raise ConfigError(f"{names!s:.100}: names no classifier; wanted A, or A,B for several")
    return found


def names_in_list(names: str | Path | Sequence[str | Path]) -> list[str]:
    """Split a key's value into names; a file whose own name contains a comma counts as one.

    >>> names_in_list("[a.safetensors, b]"), names_in_list(("a", "b")), names_in_list("[]")
    (['a.safetensors', 'b'], ['a', 'b'], [])
    """
    if isinstance(names, Path):
        return [str(names)]
    if not isinstance(names, str):
        return [str(name) for name in names]
    if "," in names and Path(names).expanduser().is_file():
        return [names]
    parts = names.strip().removeprefix("[").removesuffix("]").split(",")
    return [part.strip() for part in parts if part.strip()]


def task_of(name: str, *, trust: bool = False, registry: Registry | None = None) -> Task:
    """Return the task of the weights behind a registry name or a path.

    Raises:
        WeightsError: there is no such name or file, or the file does not hold weights. A pickle
            raises too, because it does not state its task.
    """
    registry = load_registry() if registry is None else registry
    entry = registry.find(name)
    if entry is not None:
        return entry.task
    path = _file_of(name, registry, trust=trust)
    if is_pickle(path):
        raise WeightsError(
            f"{path}: a pickle does not say which network it is; "
            f"use detector={name} or classifier={name}"
        )
    task: Task = read_metadata(path)["task"]
    return task


def resolve_bundle(name: str = "default", *, registry: Registry | None = None) -> Bundle:
    """Find the detector and the classifiers of a bundle, and its level reader if it has one.

    Raises:
        WeightsError: there is no such bundle, or one of its files is missing or altered.
    """
    registry = load_registry() if registry is None else registry
    if name not in registry.bundles:
        raise UnknownWeightsError(
            f"weights={name}: no such bundle{_close_match(name, list(registry.bundles))}"
        )
    detector, *classifiers = registry.bundles[name]
    return make_bundle(
        name,
        _resolve_named(registry, name, detector, "detect"),
        [_resolve_named(registry, name, each, "classify") for each in classifiers],
        _resolve_named(registry, name, registry.namers[name], "name")
        if name in registry.namers
        else None,
    )


def make_bundle(
    name: str,
    detector: WeightsFile,
    classifiers: WeightsFile | Sequence[WeightsFile],
    namer: WeightsFile | None = None,
) -> Bundle:
    """Make a bundle of files, with the SHA-256 of all of them (see [Bundle][])."""
    first, *more = [classifiers] if isinstance(classifiers, WeightsFile) else classifiers
    files = [detector, first, *more, *([namer] if namer else [])]
    return Bundle(name, detector, first, digest_of(files), namer, tuple(more))


def digest_of(files: Sequence[WeightsFile]) -> str:
    """SHA-256 of the files' concatenated SHA-256 hex digests, in order."""
    return hashlib.sha256("".join(file.sha256 for file in files).encode("ascii")).hexdigest()


def weights_record(files: Sequence[WeightsFile]) -> dict[str, Any]:
    """The entry in a run's record for the files of one network or of several combined ones."""
    if len(files) == 1:
        return {"name": files[0].name, "sha256": files[0].sha256}
    return {
        "name": ",".join(file.name for file in files),
        "sha256": digest_of(files),
        "members": [{"name": file.name, "sha256": file.sha256} for file in files],
    }


def load_registry(folder: Path | None = None) -> Registry:
    """Read the ``registry.yaml`` of a folder; by default the bundled one.

    Raises:
        WeightsError: the file is missing or is not YAML, or an entry is incomplete or contradicts
            another.
    """
    folder = BUNDLED if folder is None else folder
    path = folder / REGISTRY_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file; a folder of weights needs one") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    return _parsed_registry(folder, data)


@functools.lru_cache(maxsize=8)
def _parsed_registry(folder: Path, data: bytes) -> Registry:
    """Parse the content of a folder's ``registry.yaml``."""
    path = folder / REGISTRY_FILE
    try:
        content = yaml.load(data.decode("utf-8"), Loader=_YAML_LOADER)
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise WeightsError(f"{path}: cannot be read as YAML ({error!s:.300})") from error
    if not isinstance(content, dict) or content.get("schema") != REGISTRY_SCHEMA:
        raise WeightsError(
            f"{path}: is not a weights registry (wanted a mapping with schema: {REGISTRY_SCHEMA})"
        )
    listed = content.get("weights") or []
    if not isinstance(listed, list):
        raise WeightsError(f"{path}: weights: wanted a list")
    entries = tuple(_entry(raw, f"{path}: weights[{index}]") for index, raw in enumerate(listed))
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise WeightsError(f"{path}: name {twice[0]!r} occurs more than once")
    return Registry(folder, entries, *_bundles(content.get("bundles") or {}, path))


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the ``spineline`` metadata of a safetensors file, without reading its tensors.

    Returns:
        The JSON object; its ``task`` is ``detect``, ``classify`` or ``name``.

    Raises:
        WeightsError: the file is missing, is not a safetensors file, or has no such metadata.
    """
    header = _safetensors_header(path)
    if header is None:
        raise WeightsError(
            f"{path}: is no safetensors file (truncated, or another kind of file); "
            "wanted weights written by `detect train`, `classify train` or `weights strip`"
        )
    metadata = header.get("__metadata__")
    text = metadata.get("spineline") if isinstance(metadata, dict) else None
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path}: its metadata entry 'spineline' is not JSON ({error!s:.300})"
        ) from error
    if not isinstance(found, dict) or found.get("task") not in get_args(Task):
        raise WeightsError(
            f"{path}: carries no 'spineline' metadata with a task ({', '.join(get_args(Task))}): "
            "spineline did not write it, and cannot tell which network it belongs to"
        )
    return found


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle by its name or, whatever its name, by its first bytes.

    Names that end in ``.pt``, ``.pth``, ``.ckpt`` and similar mean a pickle. Otherwise a file is a
    pickle if it starts as a zip archive (torch's format) or with a pickle's protocol mark. A valid
    safetensors header overrules these first bytes.
    """
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    looks = start.startswith(b"PK\x03\x04") or (start[:1] == b"\x80" and start[1:2] <= b"\x05")
    return looks and _safetensors_header(path) is None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, lower-case hex.

    The result is cached within the process as long as the file keeps its size and time of change.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        status = path.stat()
        return _hash_file(str(path.resolve()), status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error


@functools.lru_cache(maxsize=64)
def _hash_file(path: str, _size: int, _changed_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def graph_paths(weights: WeightsFile, *, registry: Registry | None = None) -> tuple[Path, ...]:
    """Return the verified graphs of a weights file's networks, or none if the registry has none.

    The graphs belong to the entry whose SHA-256 the file has, whatever the file's name.

    Args:
        weights: the file; its ``sha256`` must be that of its content.
        registry: registry to search; by default the bundled one.

    Raises:
        WeightsError: a graph is missing or differs from the registry.
    """
    registry = load_registry() if registry is None else registry
    entry = next((e for e in registry.entries if e.sha256 == weights.sha256), None)
    states = {} if entry is None else registry.graph_states(entry)
    for file, state in states.items():
        if state != "ok":
            msg = f"{registry.folder / file}: the graph of {weights.name} is {state}; restore it "
            raise WeightsError(f"{msg}(git checkout, or reinstall), or use runtime=torch")
    return tuple(registry.folder / file for file in states)


def _state_of(path: Path, sha256: str) -> State:
    if not path.is_file():
        return "missing"
    return "ok" if sha256_of(path) == sha256 else "altered"


def _resolve_named(registry: Registry, bundle: str, name: str, task: Task) -> WeightsFile:
    entry = registry.find(name)
    if entry is None:
        raise WeightsError(
            f"weights={bundle}: the bundle wants {name!r}, which is not in "
            f"{registry.folder / REGISTRY_FILE}; reinstall spineline, or name your own weights"
        )
    return _resolve_entry(registry, entry, task)


def _resolve_entry(registry: Registry, entry: Entry, task: Task) -> WeightsFile:
    if entry.task != task:
        raise _wrong_task(entry.name, entry.task, task, registry)
    path = registry.path_of(entry)
    if not path.is_file():
        raise WeightsError(
            f"{entry.name}: its file {path} is missing; restore it (git checkout, or install "
            "spineline anew), or name another file"
        )
    found = sha256_of(path)
    if found != entry.sha256:
        raise WeightsError(
            f"{entry.name}: {path} has been altered: expected SHA-256 {entry.sha256}, "
            f"found {found}; restore it (git checkout, or reinstall spineline); to use the "
            "altered file on purpose, copy it elsewhere and name it by its path"
        )
    return WeightsFile(entry.name, path, found)


def _file_of(name: str, registry: Registry, *, trust: bool) -> Path:
    """The existing file of a path; a pickle is refused without ``trust``."""
    path = Path(name).expanduser()
    if path.is_file():
        if trust or not is_pickle(path):
            return path
        raise WeightsError(
            f"{path}: is a pickle, and loading a pickle runs the code in it; if you know where "
            "it comes from, add trust=true, or turn it into safetensors once: "
            f"spineline weights strip weights={path} out={path.stem}.safetensors trust=true"
        )
    if path.is_dir():
        raise WeightsError(f"{path}: is a folder; name the weights file in it")
    suffixes = (".safetensors", *_PICKLE_SUFFIXES)
    if path.suffix.lower() in suffixes or len(path.parts) > 1:
        raise WeightsError(f"{path}: no such weights file")
    names = [entry.name for entry in registry.entries]
    raise UnknownWeightsError(
        f"weights {name!r}: neither a name of the registry nor a file{_close_match(name, names)}"
    )


def _wrong_task(name: str, found: str, wanted: Task, registry: Registry) -> WeightsError:
    suited = [entry.name for entry in registry.entries if entry.task == wanted]
    choose = f"; weights to {wanted}: {', '.join(suited)}" if suited else ""
    return WeightsError(f"{name}: these weights are to {found}, wanted weights to {wanted}{choose}")


def _close_match(word: str, known: list[str]) -> str:
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if match:
        return f"; did you mean {match[0]!r}?"
    return f"; known: {', '.join(known) or 'none'}"


def _entry(raw: object, where: str) -> Entry:
    known = [spec.name for spec in fields(Entry)]
    if not isinstance(raw, dict):
        raise WeightsError(f"{where}: wanted a mapping with {', '.join(known)}")
    optional = ("figures", "card", "graphs")
    missing = [name for name in known if name not in raw and name not in optional]
    unknown = [str(name) for name in raw if name not in known]
    if missing or unknown:
        raise WeightsError(
            f"{where}: "
            + "; ".join(
                [f"{name} is missing" for name in missing]
                + [f"unknown field {name!r}{_close_match(name, known)}" for name in unknown]
            )
        )
    _check_fields(raw, where)
    values = {**raw, "classes": tuple(raw["classes"]), "figures": dict(raw.get("figures") or {})}
    graphs = tuple(GraphFile(each["file"], each["sha256"]) for each in raw.get("graphs") or ())
    return Entry(**{**values, "graphs": graphs})


def _check_fields(raw: dict[str, Any], where: str) -> None:
    checks = {
        "task": raw["task"] in get_args(Task),
        "file": _is_file_name(raw["file"]),
        "sha256": _is_sha256(raw["sha256"]),
        "size": type(raw["size"]) is int and raw["size"] > 0,
        "classes": isinstance(raw["classes"], list) and all(type(c) is str for c in raw["classes"]),
        "figures": raw.get("figures") is None or isinstance(raw["figures"], dict),
        "graphs": raw.get("graphs") is None or _are_graphs(raw["graphs"]),
    }
    wrong = [name for name, right in checks.items() if not right]
    if wrong:
        raise WeightsError(f"{where}: {wrong[0]}={raw[wrong[0]]!r:.100} is not a valid value")


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and Path(value).name == value


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _are_graphs(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict)
        and set(each) == {"file", "sha256"}
        and _is_file_name(each["file"])
        and _is_sha256(each["sha256"])
        for each in value
    )


def _bundles(raw: object, path: Path) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """(detector, classifier, …) of each bundle, and the namers of bundles that have one."""
    if not isinstance(raw, dict):
        raise WeightsError(f"{path}: bundles: wanted a mapping of names")
    found: dict[str, tuple[str, ...]] = {}
    namers: dict[str, str] = {}
    for name, of in raw.items():
        if not isinstance(of, dict) or set(of) - {"namer"} != {"detector", "classifier"}:
            raise WeightsError(f"{path}: bundle {name!r}: wanted a detector and a classifier")
        several = of["classifier"] if isinstance(of["classifier"], list) else [of["classifier"]]
        if not several:
            raise WeightsError(f"{path}: bundle {name!r}: its list of classifiers is empty")
        found[str(name)] = (str(of["detector"]), *map(str, several))
        if of.get("namer") is not None:
            namers[str(name)] = str(of["namer"])
    return found, namers


def _safetensors_header(path: Path) -> dict[str, Any] | None:
    """The JSON header of a safetensors file, or None if the file is not one."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER, size - 8):
                return None
            header = json.loads(file.read(length))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError):
        return None
    if not isinstance(header, dict) or not _holds_all_tensors(header, size - 8 - length):
        return None
    return header


def _holds_all_tensors(header: dict[str, Any], available: int) -> bool:
    """Whether the file is long enough for every tensor that its header promises."""
    try:
        ends = [spec["data_offsets"][1] for name, spec in header.items() if name != "__metadata__"]
        return max(ends, default=0) == available
    except (TypeError, KeyError, IndexError, AttributeError):
        return False
