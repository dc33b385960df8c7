"""Weights by name or path: what is found, and each way in which it can be wrong."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save

from spineline.datasets.common.errors import WeightsError
from spineline.weights import (
    Registry,
    load_registry,
    read_metadata,
    resolve,
    resolve_bundle,
    sha256_of,
)
from spineline.weights.registry import BUNDLED, is_pickle

DETECTOR = {"task": "detect", "names": ["a", "b"]}
CLASSIFIER = {"task": "classify", "names": ["n"]}


def weights_bytes(metadata: object) -> bytes:
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    return save({"w": np.arange(4, dtype=np.float32)}, {"spineline": text})


def entry(name: str, task: str, content: bytes, **changes: object) -> dict[str, object]:
    values = {
        "name": name,
        "file": f"{name}.safetensors",
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "task": task,
        "input": "grey",
        "classes": ["a", "b"],
        "licence": "AGPL-3.0-or-later",
        "trained_on": "nothing",
        "figures": {"map50": 0.5},
        "card": None,
    }
    return {**values, **changes}


@pytest.fixture
def make_registry(tmp_path: Path) -> Callable[..., Registry]:
    """A registry with a detector ``eyes`` and a classifier ``judge``, bundled as ``default``."""

    def make(**changes: Any) -> Registry:
        contents = {"eyes": weights_bytes(DETECTOR), "judge": weights_bytes(CLASSIFIER)}
        for name, content in contents.items():
            (tmp_path / f"{name}.safetensors").write_bytes(content)
        registry = {
            "schema": 1,
            "bundles": {"default": {"detector": "eyes", "classifier": "judge"}},
            "weights": [
                entry("eyes", "detect", contents["eyes"]),
                entry("judge", "classify", contents["judge"]),
            ],
        }
        (tmp_path / "registry.yaml").write_text(yaml.safe_dump({**registry, **changes}))
        return load_registry(tmp_path)

    return make


def test_a_name_gives_the_file_and_its_hash(make_registry: Callable[..., Registry]) -> None:
    registry = make_registry()
    found = resolve("eyes", task="detect", registry=registry)
    assert found.path == registry.folder / "eyes.safetensors"
    assert found.name == "eyes"
    assert found.sha256 == hashlib.sha256(found.path.read_bytes()).hexdigest()


def test_a_bundle_hash_is_that_of_the_two_digests(make_registry: Callable[..., Registry]) -> None:
    bundle = resolve_bundle(registry=make_registry())
    digests = (bundle.detector.sha256 + bundle.classifier.sha256).encode()
    assert len(digests) == 128
    assert bundle.sha256 == hashlib.sha256(digests).hexdigest()
    assert (bundle.detector.name, bundle.classifier.name) == ("eyes", "judge")


def test_a_bundle_may_hold_a_namer(tmp_path: Path, make_registry: Callable[..., Registry]) -> None:
    plain = make_registry()
    content = weights_bytes({"task": "name", "names": ["above", "below"]})
    (tmp_path / "count.safetensors").write_bytes(content)
    weights = [entry("count", "name", content)]
    for of in plain.entries:
        weights.append(entry(of.name, of.task, plain.path_of(of).read_bytes()))
    members = {"detector": "eyes", "classifier": "judge", "namer": "count"}
    registry = make_registry(weights=weights, bundles={"default": members})
    bundle = resolve_bundle(registry=registry)
    assert bundle.namer is not None
    assert bundle.namer.name == "count"
    digests = bundle.detector.sha256 + bundle.classifier.sha256 + bundle.namer.sha256
    assert bundle.sha256 == hashlib.sha256(digests.encode()).hexdigest()
    wrong = make_registry(weights=weights, bundles={"default": {**members, "namer": "eyes"}})
    with pytest.raises(WeightsError, match="are to detect, wanted weights to name"):
        resolve_bundle(registry=wrong)
    with pytest.raises(WeightsError, match="wanted a detector and a classifier"):
        make_registry(weights=weights, bundles={"default": {**members, "nose": "eyes"}})


def test_a_path_is_named_without_its_folders(
    tmp_path: Path, make_registry: Callable[..., Registry]
) -> None:
    path = tmp_path / "deep" / "own.safetensors"
    path.parent.mkdir()
    path.write_bytes(weights_bytes(DETECTOR))
    found = resolve(str(path), task="detect", registry=make_registry())
    assert (found.name, found.path) == ("own.safetensors", path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("eyse", "did you mean 'eyes'", id="close-match"),
        pytest.param("qqqq", "known: eyes, judge", id="nothing-close"),
        pytest.param("gone.safetensors", "no such weights file", id="missing-file"),
        pytest.param("some/where", "no such weights file", id="missing-path"),
        pytest.param("./", "is a folder", id="folder"),
        pytest.param("judge", "are to classify, wanted weights to detect; .*: eyes", id="task"),
    ],
)
def test_names_that_lead_nowhere(
    make_registry: Callable[..., Registry], name: str, message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        resolve(name, task="detect", registry=make_registry())


def test_an_altered_file_names_both_hashes(make_registry: Callable[..., Registry]) -> None:
    registry = make_registry()
    path = registry.folder / "eyes.safetensors"
    expected = resolve("eyes", task="detect", registry=registry).sha256
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(WeightsError, match=f"expected SHA-256 {expected}, found {found}; restore"):
        resolve("eyes", task="detect", registry=registry)
    with pytest.raises(WeightsError, match="altered"):
        resolve_bundle(registry=registry)


def test_a_missing_file_says_what_to_do(make_registry: Callable[..., Registry]) -> None:
    registry = make_registry()
    (registry.folder / "judge.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"judge.safetensors is missing; restore it"):
        resolve_bundle(registry=registry)


@pytest.mark.parametrize("name", ["defualt", "x"])
def test_an_unknown_bundle(make_registry: Callable[..., Registry], name: str) -> None:
    with pytest.raises(WeightsError, match=f"weights={name}: no such bundle.*default"):
        resolve_bundle(name, registry=make_registry())


def test_a_bundle_of_absent_weights(make_registry: Callable[..., Registry]) -> None:
    registry = make_registry(bundles={"odd": {"detector": "nose", "classifier": "judge"}})
    with pytest.raises(WeightsError, match="wants 'nose', which is not in"):
        resolve_bundle("odd", registry=registry)


def zip_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.pt", zip_file(), id="pt"),
        pytest.param("a.PTH", b"anything", id="suffix-alone"),
        pytest.param("a.ckpt", pickle.dumps({}), id="ckpt"),
        pytest.param("a.safetensors", zip_file(), id="zip-in-disguise"),
        pytest.param("a.safetensors", pickle.dumps({"a": 1}), id="pickle-in-disguise"),
        pytest.param("a", pickle.dumps([1], protocol=2), id="no-suffix"),
    ],
)
def test_a_pickle_needs_trust(
    tmp_path: Path, make_registry: Callable[..., Registry], name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"is a pickle.*trust=true.*weights strip"):
        resolve(str(path), task="detect", registry=make_registry())
    assert resolve(str(path), task="detect", trust=True, registry=make_registry()).path == path


def test_a_header_that_starts_like_a_pickle_is_not_one(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"spineline": json.dumps(DETECTOR)}}).encode()
    path = tmp_path / "odd.safetensors"
    path.write_bytes((0x280).to_bytes(8, "little") + header.ljust(0x280))
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert not is_pickle(path)
    assert read_metadata(path) == DETECTOR


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "no safetensors file", id="empty"),
        pytest.param(b"plain text, not weights", "no safetensors file", id="text"),
        pytest.param(weights_bytes(DETECTOR)[:-1], "no safetensors file", id="truncated"),
        pytest.param(weights_bytes(DETECTOR) + b"x", "no safetensors file", id="too-long"),
        pytest.param(save({"w": np.zeros(1)}), "carries no 'spineline' metadata", id="foreign"),
        pytest.param(weights_bytes("{"), "is not JSON", id="bad-json"),
        pytest.param(weights_bytes([1]), "carries no 'spineline'", id="list"),
        pytest.param(weights_bytes({"task": "fly"}), "carries no 'spineline'", id="odd-task"),
        pytest.param(weights_bytes(CLASSIFIER), "are to classify, wanted", id="other-task"),
    ],
)
def test_files_that_are_not_the_weights_wanted(
    tmp_path: Path, make_registry: Callable[..., Registry], content: bytes, message: str
) -> None:
    path = tmp_path / "own.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        resolve(str(path), task="detect", registry=make_registry())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"schema": 2}, "not a weights registry", id="schema"),
        pytest.param({"weights": ["eyes"]}, r"weights\[0\]: wanted a mapping", id="not-mapping"),
        pytest.param({"weights": [{"name": "a"}]}, "file is missing; sha256 is", id="missing"),
        pytest.param(
            {"weights": [entry("a", "detect", b"x", licens="b")]},
            "unknown field 'licens'; did you mean 'licence'",
            id="unknown",
        ),
        pytest.param({"weights": [entry("a", "fly", b"x")]}, "task='fly'", id="task"),
        pytest.param(
            {"weights": [entry("a", "detect", b"x", file="../a")]}, "file='../a'", id="file"
        ),
        pytest.param(
            {"weights": [entry("a", "detect", b"x", sha256="A" * 64)]}, "sha256=", id="hash"
        ),
        pytest.param({"weights": [entry("a", "detect", b"x", size=0)]}, "size=0", id="size"),
        pytest.param(
            {"weights": [entry("a", "detect", b"x")] * 2}, "'a' occurs more than once", id="twice"
        ),
        pytest.param({"bundles": {"b": {"detector": "a"}}}, "bundle 'b': wanted", id="bundle"),
    ],
)
def test_a_registry_that_is_wrong(
    make_registry: Callable[..., Registry], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        make_registry(**changes)


def test_no_registry(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"registry.yaml: no such file"):
        load_registry(tmp_path)
    (tmp_path / "registry.yaml").write_text("a: [")
    with pytest.raises(WeightsError, match="cannot be read as YAML"):
        load_registry(tmp_path)


def test_states(make_registry: Callable[..., Registry]) -> None:
    registry = make_registry()
    eyes, judge = registry.entries
    assert registry.state_of(eyes) == "ok"
    path = registry.path_of(eyes)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    registry.path_of(judge).unlink()
    assert (registry.state_of(eyes), registry.state_of(judge)) == ("altered", "missing")


def test_a_hash_is_not_remembered_past_a_change(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for content in (b"one", b"three"):
        path.write_bytes(content)
        assert sha256_of(path) == hashlib.sha256(content).hexdigest()


BUNDLED_ENTRIES = load_registry().entries


@pytest.mark.parametrize("name", [known.name for known in BUNDLED_ENTRIES])
def test_bundled_weights_are_what_the_registry_says(name: str) -> None:
    registry = load_registry()
    known = registry.find(name)
    assert known is not None
    assert registry.state_of(known) == "ok"
    metadata = read_metadata(registry.path_of(known))
    assert metadata["task"] == known.task
    assert list(metadata["names"]) == list(known.classes)
    assert known.card is not None
    card = (BUNDLED / known.card).read_text(encoding="utf-8")
    assert "not a medical device" in card


def test_bundled_weights_stay_small() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.glob("*.safetensors")) < 32_000_000
