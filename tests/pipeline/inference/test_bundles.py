"""``bundle.json``: what is read from it, and what is refused before any file of it is loaded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.crops.grey_range import GreyRange
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.labels import BINARY_NAMES, LEVELS, SEVEN_NAMES
from spineline.datasets.straighten import StripSpec
from spineline.pipeline.inference.bundles import (
    decoding_values,
    exported_bundle,
    is_exported,
    load_exported,
    networks_needed,
    read_bundle,
)
from spineline.pipeline.inference.decode import DecodeSettings
from spineline.pipeline.inference.naming import NamingCoefficients
from spineline.pipeline.inference.pipeline import Pipeline, bundle_of
from spineline.pipeline.inference.runtimes.choice import chosen_runtime
from spineline.pipeline.inference.settings import ModelSettings
from spineline.weights import resolve_bundle

Change = Callable[[dict[str, Any]], object]


def files_of(folder: Path, *names: str) -> list[dict[str, Any]]:
    found = []
    for name in names:
        data = f"content of {name}".encode()
        (folder / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        found.append({"file": name, "size": len(data), "sha256": digest})
    return found


def content_of(folder: Path) -> dict[str, Any]:
    return {
        "kind": "spineline-bundle",
        "schema": 1,
        "version": "0.1.0",
        "format": "onnx",
        "name": "mine-onnx",
        "networks": {
            "detector": {
                "files": files_of(folder, "detector.onnx"),
                "imgsz": 320,
                "channels": 3,
                "names": list(LEVELS),
            },
            "classifier": {
                "files": files_of(folder, "classifier.onnx"),
                "crop": {"size": 64, "margin": 1.3, "align": "spine"},
                "outputs": {"seven": list(SEVEN_NAMES), "binary": list(BINARY_NAMES)},
            },
            "namer": {
                "files": files_of(folder, "namer.onnx"),
                "strip": {"rank_px": 8, "half_width": 4, "above": 6, "below": 6},
            },
        },
        "decode": {"spine": decoding_values(DecodeSettings())},
    }


def write(folder: Path, content: Any) -> Path:
    (folder / "bundle.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A sound bundle whose files are no networks."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    return write(folder, content_of(folder))


def changed(bundle: Path, change: Change) -> Path:
    content = json.loads((bundle / "bundle.json").read_text())
    change(content)
    return write(bundle, content)


def settings(bundle: Path, **keys: Any) -> ModelSettings:
    return ModelSettings(weights=str(bundle), **keys)


def test_what_it_says_is_read(bundle: Path) -> None:
    greys = {"low": [0.1, 0.2, 0.3], "high": [0.7, 0.8, 0.9]}

    def change(content: dict[str, Any]) -> None:
        content["decode"]["spine"].update(skip_cost=4)
        content["decode"]["naming"] = {"constant": -1, "margin": 0.5, "score": 0}
        content["networks"]["classifier"].update(greys=greys, level_input=True)

    found = read_bundle(changed(bundle, change))
    assert (found.form, found.name, found.names, found.imgsz) == ("onnx", "mine-onnx", LEVELS, 320)
    (classifier,) = found.classifiers
    assert (classifier.head, classifier.crop) == ("both", CropSpec(64, 1.3, "spine"))
    assert classifier.greys == GreyRange((0.1, 0.2, 0.3), (0.7, 0.8, 0.9))
    assert classifier.level_input
    assert found.combination is None
    assert found.strip == StripSpec()
    own = NamingCoefficients(constant=-1.0, margin=0.5, score=0.0)
    assert found.decoding == DecodeSettings(skip_cost=4, coefficients=own)
    assert found.sha256 == hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest()


def test_the_rest_of_spineline_takes_it_as_a_bundle(bundle: Path) -> None:
    found = bundle_of(settings(bundle))
    assert (found.name, found.detector.path) == ("mine-onnx", bundle / "detector.onnx")
    assert found.namer is not None
    assert bundle_of(settings(bundle / "bundle.json")) == found
    without = bundle_of(settings(bundle, namer="none"))
    assert without.namer is None
    assert without.sha256 != found.sha256


def test_a_bundle_without_a_namer(bundle: Path) -> None:
    changed(bundle, lambda c: c["networks"].update(namer=None))
    (bundle / "namer.onnx").unlink()
    found = bundle_of(settings(bundle))
    assert found.namer is None
    assert found == bundle_of(settings(bundle, namer="none"))


def test_a_name_of_the_registry_wins_over_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").mkdir()
    (tmp_path / "mine").mkdir()
    assert [is_exported(w) for w in ("default", "mine", "./default", "none", "a,b")] == [
        False, True, True, False, False,
    ]  # fmt: skip


def test_the_folder_of_pipeline_train_names_its_networks(tmp_path: Path) -> None:
    default = resolve_bundle()
    for role, file in (("detector", default.detector), ("classifier", default.classifiers[0])):
        (tmp_path / f"{role}.safetensors").symlink_to(file.path)
        assert is_exported(str(tmp_path)) == (role == "detector")  # a classifier is missing
    found = bundle_of(settings(tmp_path))
    assert found.detector.path == tmp_path / "detector.safetensors"
    assert found.namer is None
    assert default.namer is not None
    (tmp_path / "namer.safetensors").symlink_to(default.namer.path)
    assert bundle_of(settings(tmp_path)).sha256 == default.sha256
    assert bundle_of(settings(tmp_path, namer="none")).namer is None
    (tmp_path / "bundle.json").write_text("{}")
    assert is_exported(str(tmp_path))


GONE = object()
DAMAGED: dict[str, tuple[str, Any, str]] = {
    "schema": ("schema", 5, r"schema 5.*reads schema 1 to 4: export it again"),
    "no schema": ("schema", GONE, r"schema None"),
    "kind": ("kind", "other", "not the description of a bundle"),
    "format": ("format", "pickle", "format 'pickle', wanted one of onnx"),
    "format list": ("format", [], "format"),
    "no networks": ("networks", GONE, "networks is missing"),
    "networks list": ("networks", [], "damaged"),
    "no namer key": ("networks.namer", GONE, "namer is missing"),
    "no detector": ("networks.detector", None, "damaged"),
    "no classifier": ("networks.classifier", None, "damaged"),
    "traversal": (
        "networks.detector.files.0.file", "../../detector.onnx",
        r"files \['\.\./\.\./detector\.onnx'\], wanted detector\.onnx",
    ),
    "absolute": ("networks.namer.files.0.file", "/etc/passwd", "wanted namer.onnx"),
    "pickle": ("networks.detector.files.0.file", "detector.pt", "detector.onnx"),
    "two files": (
        "networks.detector.files", [{"file": "detector.onnx"}] * 2,
        r"files \['detector\.onnx', 'detector\.onnx'\]",
    ),
    "size text": ("networks.namer.files.0.size", "9", "size '9'"),
    "size bool": ("networks.namer.files.0.size", True, "size True"),
    "sha256": ("networks.namer.files.0.sha256", "XY", "sha256 'XY'"),
    "names": ("networks.detector.names", ["cat"], "wanted levels"),
    "names twice": ("networks.detector.names", ["L1", "L1"], "wanted levels"),
    "names map": ("networks.detector.names", {"L1": 1}, "wanted levels"),
    "imgsz": ("networks.detector.imgsz", 10**9, "imgsz 1000000000, wanted"),
    "endless": ("networks.detector.imgsz", float("inf"), "imgsz inf, wanted"),
    "channels": ("networks.detector.channels", 0, "channels 0"),
    "crop size": ("networks.classifier.crop.size", 10**6, "size 1000000"),
    "margin": ("networks.classifier.crop.margin", float("nan"), "margin"),
    "align": ("networks.classifier.crop.align", ["x"], "align"),
    "outputs": ("networks.classifier.outputs", {"nine": []}, "outputs"),
    "classes": ("networks.classifier.outputs.binary", ["a", "b"], "outputs"),
    "level input": ("networks.classifier.level_input", 1, "level_input 1, wanted true or false"),
    "greys": ("networks.classifier.greys", {"low": [1], "high": ["x"]}, "greys 'x', wanted a num"),
    "combined": ("schema", 2, "members is missing"),
    "strip": ("networks.namer.strip.above", 10**9, "above 1000000000"),
    "name": ("name", 5, "name is not text"),
    "decode": ("decode.spine", GONE, "spine is missing"),
    "decode unknown": ("decode.spine.magic", 1, "magic unknown or missing"),
    "decode zero": ("decode.spine.temperature", 0, "temperature 0"),
    "decode text": ("decode.spine.skip_cost", "x", "skip_cost 'x'"),
    "decode huge": ("decode.spine.skip_cost", 10**400, "damaged"),
    "decode count": ("decode.spine.candidates_per_level", 10**9, "candidates_per_level"),
    "reference": ("decode.spine.reference_confidence", 1, "reference_confidence"),
}  # fmt: skip


@pytest.mark.parametrize(("way", "value", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_description_is_refused(bundle: Path, way: str, value: Any, message: str) -> None:
    def change(content: Any) -> None:
        *steps, last = way.split(".")
        for step in steps:
            content = content[int(step) if step.isdigit() else step]
        content.pop(last) if value is GONE else content.update({last: value})

    changed(bundle, change)
    with pytest.raises(WeightsError, match=message) as caught:
        bundle_of(settings(bundle))
    assert str(bundle / "bundle.json") in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "not the description of a bundle"),
        (b'{"kind": "spineline-bundle"}' + b" " * 1_000_000, "not the description of a bundle"),
    ],
    ids=["empty", "no text", "deep", "list", "large"],
)
def test_a_description_that_is_none_is_refused(bundle: Path, data: bytes, message: str) -> None:
    (bundle / "bundle.json").write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        bundle_of(settings(bundle))


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", ["detector.onnx", "classifier.onnx", "namer.onnx"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "this file of the bundle is missing; make it again"),
        (to_folder, "is missing"),
        (alter, "has been altered: SHA-256 [0-9a-f]{64}, bundle.json says"),
        (lambda path: path.write_bytes(b"short"), r"has been altered: 5 bytes, bundle.json says"),
    ],
    ids=["missing", "folder", "altered", "shorter"],
)
@pytest.mark.parametrize("load", [exported_bundle, Pipeline.from_settings], ids=["files", "load"])
def test_a_spoilt_file_is_refused(
    bundle: Path, name: str, spoil: Callable[[Path], object], message: str, load: Any
) -> None:
    spoil(bundle / name)
    with pytest.raises(WeightsError, match=rf"{name}: .*{message}"):
        load(settings(bundle))


def test_a_file_that_changes_between_check_and_loading_is_refused(bundle: Path) -> None:
    """What is loaded is what was hashed: the bytes, not the file's name."""
    pytest.importorskip("onnxruntime")
    exported_bundle(settings(bundle))
    path = bundle / "detector.onnx"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    alter(path)
    os.utime(path, ns=times)
    with pytest.raises(WeightsError, match="has been altered: SHA-256"):
        load_exported(settings(bundle))


def test_files_that_are_no_networks_are_refused(bundle: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(WeightsError, match=r"detector\.onnx: onnxruntime cannot load it"):
        load_exported(settings(bundle))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"detector": "lumbar-yolov8n"}, "detector=…: an exported bundle is run as it is"),
        ({"classifier": "lumbar-gradients"}, "classifier=…: an exported bundle is run as it is"),
        ({"namer": "lumbar-namer"}, "namer=lumbar-namer: .* allowed: bundle, none"),
        ({"device": "0"}, "device=0: exported bundles run on the CPU"),
    ],
    ids=["detector", "classifier", "namer", "device"],
)
def test_keys_that_a_bundle_does_not_have(bundle: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bundle_of(settings(bundle, **keys))


def test_programs_are_not_run(bundle: Path) -> None:
    changed(bundle, lambda content: content.update(format="torchscript"))
    with pytest.raises(WeightsError, match=r"TorchScript files.*again with format=onnx"):
        bundle_of(settings(bundle, trust=True))


def test_a_bundle_of_no_classifier_is_refused(bundle: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content.update(schema=2)
        content["networks"]["classifier"] = {"members": []}

    with pytest.raises(WeightsError, match=r"its description is damaged \(classifier: no member"):
        bundle_of(settings(changed(bundle, change)))


def test_a_folder_without_a_description_is_no_bundle(tmp_path: Path) -> None:
    message = r"is a folder without bundle\.json, so no bundle .*name the weights file in it"
    with pytest.raises(WeightsError, match=message):
        bundle_of(settings(tmp_path))


@pytest.mark.parametrize(
    ("runtime", "message"),
    [("torch", "is exported for onnx; use runtime=auto"), ("openvino", "is exported for onnx")],
)
def test_a_bundle_runs_by_what_it_was_made_for(bundle: Path, runtime: str, message: str) -> None:
    for given in ("auto", "onnx"):
        fits = settings(bundle, runtime=given)
        assert chosen_runtime(fits, bundle_of(fits)) == "onnx"
    other = settings(bundle, runtime=runtime)
    with pytest.raises(ConfigError, match=message):
        chosen_runtime(other, bundle_of(other))


def test_a_package_that_is_not_installed_is_told_with_what_to_do() -> None:
    wanted = r"weights=mine: needs torchvision, which is not installed; .*\(pipeline export\)"
    with pytest.raises(ConfigError, match=wanted), networks_needed("mine"):
        raise ModuleNotFoundError("No module named 'torchvision.ops'", name="torchvision.ops")
    with pytest.raises(ModuleNotFoundError, match="of ours"), networks_needed("mine"):
        raise ModuleNotFoundError("of ours", name="spineline.misspelt")
