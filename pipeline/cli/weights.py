"""``spineline weights list | verify | add``: the registry at the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.common.files import write_bytes, write_text
from spineline.datasets.common.log import LOG
from spineline.datasets.common.settings import close_match
from spineline.datasets.common.tables import aligned_text
from spineline.pipeline.cli.settings import WeightsAdd, WeightsList, WeightsVerify
from spineline.weights.registry import (
    BUNDLED,
    REGISTRY_FILE,
    SCHEMA,
    Entry,
    Registry,
    WrittenWeights,
    load_registry,
    read_metadata,
    sha256_of,
)


@dataclass(frozen=True, slots=True)
class WeightsTable:
    """What ``weights list`` and ``weights verify`` found.

    Attributes:
        rows: one dict per file: name, task, file, size, classes, licence, state.
        failures: one message per file that is missing or altered.
    """

    rows: tuple[dict[str, Any], ...]
    failures: tuple[str, ...] = ()


def list_weights(settings: WeightsList) -> WeightsTable:
    """Print the bundled weights, and those of a folder: with a registry, or loose safetensors."""
    rows = tuple(_rows(settings.folder))
    LOG.info("%s", _format_rows(rows))
    return WeightsTable(rows)


def verify_weights(settings: WeightsVerify) -> WeightsTable:
    """Compare weights with the registry's size and SHA-256; any that differ are failures.

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
    if settings.weights == "all":
        failures += _broken_bundles(settings.folder)
    for row in rows:
        LOG.info("%-8s %s", row["state"], row["name"])
    for failure in failures:
        LOG.error("error: %s; restore it, or install spineline anew", failure)
    return WeightsTable(tuple(rows), tuple(failures))


def add_weights(settings: WeightsAdd) -> WrittenWeights:
    """Copy stripped weights and their model card into a registry's folder and write the entry.

    Task and classes come from the file's own metadata.

    Raises:
        WeightsError: the file is no stripped safetensors file, or the name is taken.
        ConfigError: a figure is not ``NAME:VALUE``.
    """
    figures = dict(_figure(text) for text in settings.figures)
    metadata = read_metadata(settings.weights)
    registry = _registry_to_write(settings.folder)
    if registry.find(settings.name) is not None and not settings.overwrite:
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
        write_bytes(registry.folder / f"{entry.name}.md", _read_card(settings.card))
    _write_registry(registry, entry)
    LOG.info("%s: %s, %d bytes, SHA-256 %s", entry.name, target, entry.size, entry.sha256)
    return WrittenWeights(target, entry.sha256, entry.size)


def _registries(folder: Path | None) -> list[Registry]:
    registries = [load_registry()]
    if folder is not None and folder.resolve() != BUNDLED and (folder / REGISTRY_FILE).is_file():
        registries.append(load_registry(folder))
    return registries


def _rows(folder: Path | None) -> Iterable[dict[str, Any]]:
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"folder={folder}: no such folder")
    registries = _registries(folder)
    for registry in registries:
        for entry in registry.entries:
            yield _row(
                entry.name,
                entry.task,
                entry.file if registry.folder == BUNDLED else str(registry.path_of(entry)),
                entry.size,
                len(entry.classes),
                entry.licence,
                registry.state_of(entry),
            )
    registered = {
        registry.path_of(e).resolve() for registry in registries for e in registry.entries
    }
    for path in [] if folder is None else sorted(folder.glob("*.safetensors")):
        if path.resolve() not in registered:
            yield _loose_row(path)


def _loose_row(path: Path) -> dict[str, Any]:
    try:
        metadata = read_metadata(path)
    except WeightsError as error:
        LOG.warning("warning: %s", error)
        return _row(path.stem, "?", str(path), path.stat().st_size, 0, "?", "unregistered")
    classes = len(metadata.get("names", ()))
    return _row(
        path.stem, metadata["task"], str(path), path.stat().st_size, classes, "?", "unregistered"
    )


def _row(
    name: str, task: str, file: str, size: int, classes: int, licence: str, state: str
) -> dict[str, Any]:
    return {
        "name": name,
        "task": task,
        "file": file,
        "size": size,
        "classes": classes,
        "licence": licence,
        "state": state,
    }


def _format_rows(rows: Sequence[dict[str, Any]]) -> str:
    heads = ("name", "task", "file", "size", "classes", "licence", "state")
    if not rows:
        return "no weights"
    return aligned_text([heads, *(tuple(_cell(row[head]) for head in heads) for row in rows)])


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _broken_bundles(folder: Path | None) -> list[str]:
    return [
        f"bundle {name}: {member} is missing from {registry.folder / REGISTRY_FILE}"
        for registry in _registries(folder)
        for name, pair in registry.bundles.items()
        for member in (*pair, *filter(None, [registry.namers.get(name)]))
        if registry.find(member) is None
    ]


def _figure(text: str) -> tuple[str, float]:
    name, sign, value = text.partition(":")
    try:
        if not sign or not name:
            raise ValueError("no name or no value")
        return name, float(value)
    except ValueError as error:
        raise ConfigError(f"figures={text}: wanted NAME:VALUE, such as map50:0.95") from error


def _read_card(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"card={path}: cannot be read ({error.strerror})") from error


def _registry_to_write(folder: Path | None) -> Registry:
    folder = BUNDLED if folder is None else folder
    if (folder / REGISTRY_FILE).is_file():
        return load_registry(folder)
    return Registry(folder, (), {})


def _write_registry(registry: Registry, entry: Entry) -> None:
    path = registry.folder / REGISTRY_FILE
    names = [known.name for known in registry.entries]
    if entry.name in names:
        entries = [entry if known.name == entry.name else known for known in registry.entries]
    else:
        entries = [*registry.entries, entry]
    content = {
        "schema": SCHEMA,
        "bundles": {
            name: {
                "detector": detector,
                "classifier": classifier,
                **({"namer": registry.namers[name]} if name in registry.namers else {}),
            }
            for name, (detector, classifier) in registry.bundles.items()
        },
        "weights": [_entry_values(known) for known in entries],
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    write_text(path, _leading_comment(BUNDLED / REGISTRY_FILE) + text)


def _entry_values(entry: Entry) -> dict[str, Any]:
    return {**dataclasses.asdict(entry), "classes": list(entry.classes)}


def _leading_comment(path: Path) -> str:
    """The comment lines at the top of a registry, which describe its fields."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join(lines[:count])
