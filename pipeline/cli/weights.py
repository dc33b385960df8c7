"""``spineline weights list | verify | add | graphs``: the registry on the command line."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from spineline.datasets.common.errors import ConfigError, SpinelineError, WeightsError
from spineline.datasets.common.files import write_bytes, write_text
from spineline.datasets.common.log import LOG
from spineline.datasets.common.settings import close_match
from spineline.datasets.common.tables import aligned_text
from spineline.pipeline.cli.settings import (
    WeightsAdd,
    WeightsGraphs,
    WeightsList,
    WeightsVerify,
)
from spineline.weights.registry import (
    BUNDLED,
    REGISTRY_FILE,
    REGISTRY_SCHEMA,
    Entry,
    GraphFile,
    Registry,
    WrittenWeights,
    load_registry,
    read_metadata,
    sha256_of,
)

_HEADS = ("name", "task", "file", "size", "classes", "licence", "state")


@dataclass(frozen=True, slots=True)
class WeightsTable:
    """The output of ``weights list`` and ``weights verify``.

    Attributes:
        rows: one dict per file: name, task, file, size, classes, licence, state.
        failures: one message per missing or altered file.
    """

    rows: tuple[dict[str, Any], ...]
    failures: tuple[str, ...] = ()


def list_weights(settings: WeightsList) -> WeightsTable:
    """Print the bundled weights and those of a folder: by its registry, or loose safetensors."""
    rows = tuple(_rows(settings.folder))
    cells = [[f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()] for row in rows]
    LOG.info("%s", aligned_text([_HEADS, *cells]) if rows else "no weights")
    return WeightsTable(rows)


def verify_weights(settings: WeightsVerify) -> WeightsTable:
    """Compare weights with the size and SHA-256 in the registry; each difference is a failure.

    Raises:
        ConfigError: no weights of that name.
    """
    rows = [row for row in _rows(settings.folder) if row["state"] != "unregistered"]
    if settings.weights != "all":
        names = [row["name"] for row in rows]
        rows = [row for row in rows if row["name"] == settings.weights]
        if not rows:
            hint = close_match(settings.weights, [*names, "all"])
            raise ConfigError(f"weights={settings.weights}: no such weights{hint}")
    failures = [
        f"{row['name']}: {row['file']} is {row['state']}" for row in rows if row["state"] != "ok"
    ]
    failures += [
        f"{entry.name}: {file} is {state}"
        for registry in _registries(settings.folder)
        for entry in registry.entries
        if settings.weights in ("all", entry.name)
        for file, state in registry.graph_states(entry).items()
        if state != "ok"
    ]
    if settings.weights == "all":
        failures += [
            f"bundle {name}: {member} is missing from {registry.folder / REGISTRY_FILE}"
            for registry in _registries(settings.folder)
            for name, pair in registry.bundles.items()
            for member in (*pair, *filter(None, [registry.namers.get(name)]))
            if registry.find(member) is None
        ]
    for row in rows:
        LOG.info("%-8s %s", row["state"], row["name"])
    for failure in failures:
        LOG.error("error: %s; restore it, or reinstall spineline", failure)
    return WeightsTable(tuple(rows), tuple(failures))


def add_weights(settings: WeightsAdd) -> WrittenWeights:
    """Copy stripped weights and their model card into a registry's folder and write the entry.

    Task and classes come from the file's own metadata. `write_graphs` adds the graphs.

    Raises:
        WeightsError: the file is not a stripped safetensors file, or the name is taken.
        ConfigError: a metric is not ``NAME:VALUE``.
    """
    figures = dict(_figure(text) for text in settings.figures)
    try:
        card = b"" if settings.card is None else settings.card.read_bytes()
    except OSError as error:
        raise ConfigError(f"card={settings.card}: cannot be read ({error.strerror})") from error
    metadata = read_metadata(settings.weights)
    folder = BUNDLED if settings.folder is None else settings.folder
    exists = (folder / REGISTRY_FILE).is_file()
    registry = load_registry(folder) if exists else Registry(folder, (), {})
    earlier = registry.find(settings.name)
    if earlier is not None and not settings.overwrite:
        raise WeightsError(
            f"{settings.name}: is in {registry.folder / REGISTRY_FILE} already; choose another "
            "name= or add overwrite=true"
        )
    entry = Entry(
        name=settings.name,
        file=f"{settings.name}.safetensors",
        sha256=sha256_of(settings.weights),
        size=settings.weights.stat().st_size,
        task=metadata["task"],
        input=settings.input,
        classes=tuple(str(name) for name in metadata.get("names", ())),
        licence=settings.licence,
        trained_on=settings.trained_on,
        figures=figures,
        card=None if settings.card is None else f"{settings.name}.md",
    )
    target = registry.path_of(entry)
    write_bytes(target, settings.weights.read_bytes())
    if settings.card is not None:
        write_bytes(registry.folder / f"{entry.name}.md", card)
    _write_registry(registry, entry)
    for graph in () if earlier is None else earlier.graphs:  # graphs of the replaced weights
        (registry.folder / graph.file).unlink(missing_ok=True)
    LOG.info("%s: %s, %d bytes, SHA-256 %s", entry.name, target, entry.size, entry.sha256)
    return WrittenWeights(target, entry.sha256, entry.size)


def write_graphs(settings: WeightsGraphs) -> WeightsTable:
    """Write the graphs of registered weights beside them, and add them to the registry.

    Each graph is exported by torch, compared with the original, and written atomically. Weights
    that have no graph, such as those of a Faster R-CNN, are failures.

    Raises:
        ConfigError: no weights of that name, or a package is missing.
        WeightsError: the registry cannot be read.
    """
    from spineline.pipeline.inference.runtimes.graphs import make_graphs

    registry = load_registry(settings.folder)
    every = [e.name for e in registry.entries if e.task != "weighting"]  # NumPy runs that one
    wanted = every if settings.weights == "all" else [settings.weights]
    chosen = [e for e in registry.entries if e.name in wanted]
    if not chosen:
        hint = close_match(settings.weights, [*(e.name for e in registry.entries), "all"])
        raise ConfigError(f"weights={settings.weights}: no such weights{hint}")
    failures: list[str] = []
    for entry in chosen:
        try:
            if registry.state_of(entry) != "ok":
                raise WeightsError(f"{entry.file} is {registry.state_of(entry)}")
            graphs = make_graphs(registry.path_of(entry), entry.task)
        except SpinelineError as error:
            failures.append(f"{entry.name}: {error}")
            LOG.error("error: %s", failures[-1])
            continue
        files = []
        for n, graph in enumerate(graphs):
            path = registry.folder / f"{entry.name}.graph{n}.onnx"
            write_bytes(path, graph)
            files.append(GraphFile(path.name, sha256_of(path)))
            LOG.info("%s: %s, %d bytes", entry.name, path.name, len(graph))
        _write_registry(load_registry(settings.folder), replace(entry, graphs=tuple(files)))
        for old in {graph.file for graph in entry.graphs} - {graph.file for graph in files}:
            (registry.folder / old).unlink(missing_ok=True)
    rows = tuple(row for row in _rows(settings.folder) if row["name"] in {e.name for e in chosen})
    return WeightsTable(rows, tuple(failures))


def _registries(folder: Path | None) -> list[Registry]:
    registries = [load_registry()]
    if folder is not None and folder.resolve() != BUNDLED and (folder / REGISTRY_FILE).is_file():
        registries.append(load_registry(folder))
    return registries


def _rows(folder: Path | None) -> Iterable[dict[str, Any]]:
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"folder={folder}: no such folder")
    registered = set()
    for registry in _registries(folder):
        for e in registry.entries:
            path = registry.path_of(e)
            registered.add(path.resolve())
            file, state = e.file if registry.folder == BUNDLED else path, registry.state_of(e)
            yield _row(e.name, e.task, file, e.size, len(e.classes), e.licence, state)
    for path in [] if folder is None else sorted(folder.glob("*.safetensors")):
        if path.resolve() not in registered:
            metadata: dict[str, Any] = {"task": "?"}
            try:
                metadata = read_metadata(path)
            except WeightsError as error:
                LOG.warning("warning: %s", error)
            classes = len(metadata.get("names", ()))
            size = path.stat().st_size
            yield _row(path.stem, metadata["task"], path, size, classes, "?", "unregistered")


def _row(*values: object) -> dict[str, Any]:
    cells = (str(value) if isinstance(value, Path) else value for value in values)
    return dict(zip(_HEADS, cells, strict=True))


def _figure(text: str) -> tuple[str, float]:
    name, sign, value = text.partition(":")
    try:
        if not sign or not name:
            raise ValueError("no name or no value")
        return name, float(value)
    except ValueError as error:
        raise ConfigError(f"figures={text}: wanted NAME:VALUE, such as map50:0.95") from error


def _write_registry(registry: Registry, entry: Entry) -> None:
    """Write the registry with an entry, which replaces the one of its name or is appended."""
    entries = {known.name: known for known in registry.entries} | {entry.name: entry}
    bundles = {
        name: {"detector": detector, "classifier": several[0] if len(several) == 1 else several}
        | ({"namer": registry.namers[name]} if name in registry.namers else {})
        for name, (detector, *several) in registry.bundles.items()
    }
    weights = [_plain(known) for known in entries.values()]
    content = {"schema": REGISTRY_SCHEMA, "bundles": bundles, "weights": weights}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    lines = (BUNDLED / REGISTRY_FILE).read_text(encoding="utf-8").splitlines(keepends=True)
    about = itertools.takewhile(lambda line: line.startswith("#"), lines)  # comments on fields
    write_text(registry.folder / REGISTRY_FILE, "".join(about) + text)


def _plain(entry: Entry) -> dict[str, Any]:
    values = {**asdict(entry), "classes": list(entry.classes)}
    values["graphs"] = [asdict(graph) for graph in entry.graphs]
    return values if entry.graphs else {k: v for k, v in values.items() if k != "graphs"}
