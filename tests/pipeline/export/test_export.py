"""``pipeline export``: the folder says what the original says, and needs no torch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spineline.datasets.common.errors import ConfigError, SpinelineError, WeightsError
from spineline.datasets.networks.runtimes import PACKAGES
from spineline.datasets.phantoms.phantom import draw_spine
from spineline.pipeline.export import export as exporting
from spineline.pipeline.export.export import (
    bundle_description,
    check_agreement,
    export,
    frame_of,
    write_networks,
)
from spineline.pipeline.export.settings import PipelineExport
from spineline.pipeline.inference.bundles import NAMING_SCHEMA, Role, read_bundle
from spineline.pipeline.inference.decode import DecodeSettings
from spineline.pipeline.inference.naming import NamingCoefficients
from spineline.pipeline.inference.pipeline import Pipeline, bundle_of
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.inference.sources.frame import Frame

ROOT = Path(__file__).resolve().parents[3]
FORMS = ["onnx", pytest.param("openvino", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def original() -> Pipeline:
    return Pipeline.load(runtime="torch")


@pytest.fixture(scope="module", params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("onnx")
    pytest.importorskip(PACKAGES[request.param])
    return str(request.param)


@pytest.fixture(scope="module")
def bundle(form: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default bundle, exported."""
    out = tmp_path_factory.mktemp("exported") / "bundle"
    result = export(PipelineExport(out=out, format=form))
    assert result.agreement.structures > 20
    return out


@pytest.fixture(scope="module")
def exported(bundle: Path) -> Pipeline:
    return Pipeline.load(str(bundle))


def phantom(seed: int, size_hw: tuple[int, int]) -> Frame:
    return frame_of(f"phantom {seed}", draw_spine(seed, size_hw).pixels)


def nothing() -> list[Frame]:
    rng = np.random.default_rng(7)
    return [
        frame_of("noise", rng.integers(0, 256, (320, 320), dtype=np.uint8)),
        frame_of("black", np.zeros((320, 320), np.uint8)),
        frame_of("gradient", np.tile(np.arange(200, dtype=np.uint8) // 8, (90, 1))),
        frame_of("tiny", np.full((3, 2), 9, np.uint8)),
    ]


@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_it_says_what_the_original_says(original: Pipeline, exported: Pipeline, batch: int) -> None:
    """Levels the same, points within half a pixel, probabilities within a thousandth."""
    sizes = [(320, 320), (320, 320), (512, 300), (160, 200)]
    frames = [phantom(50 + n, size) for n, size in enumerate(sizes)] + nothing()
    frames = frames if batch == 1 else frames[::2]
    batched = replace(exported, settings=replace(exported.settings, batch=batch))
    graded = 0
    for mine, other in zip(original.analyse(frames), batched.analyse(frames), strict=True):
        wanted, found = mine.result, other.result
        assert [s.level for s in found.structures] == [s.level for s in wanted.structures]
        assert found.missing_levels == wanted.missing_levels
        assert list(map(str, found.warnings)) == list(map(str, wanted.warnings))
        for a, b in zip(wanted.structures, found.structures, strict=True):
            assert np.abs(np.subtract(a.point_xy, b.point_xy)).max() < 0.5
            assert a.seven is not None
            assert b.seven is not None
            assert np.abs(np.subtract(a.seven.probabilities, b.seven.probabilities)).max() < 1e-3
            assert a.binary is not None
            assert b.binary is not None
            assert abs(a.binary.probability - b.binary.probability) < 1e-3
            assert abs(a.confidence - b.confidence) < 1e-3
            graded += 1
    assert graded > 20


def test_the_folder_says_what_it_is(bundle: Path, form: str, exported: Pipeline) -> None:
    content = json.loads((bundle / "bundle.json").read_text())
    networks = [m for n in content["networks"].values() for m in n.get("members", [n])]
    files = {file["file"] for network in networks for file in network["files"]}
    assert files | {"bundle.json", "run.yaml"} == {path.name for path in bundle.iterdir()}
    assert (content["format"], content["version"]) == (form, version("spineline"))
    assert "research use only, not a medical device" in content["card"]
    assert content["networks"]["detector"]["licence"] == "AGPL-3.0-or-later"
    assert content["decode"]["iou"] == 0.8
    assert exported.weights_name == f"default-{form}"
    assert len(exported.weights_sha256) == 64


def test_coefficients_of_its_own_are_kept(
    original: Pipeline, bundle: Path, form: Any, tmp_path: Path
) -> None:
    """In a schema that versions refuse that would ignore them."""
    assert json.loads((bundle / "bundle.json").read_text())["schema"] < NAMING_SCHEMA
    decoding = DecodeSettings(coefficients=NamingCoefficients(constant=-3.5, margin=0.2, score=0.1))
    calibrated = replace(original, decoding=decoding)
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    content = bundle_description(calibrated, bundle_of(ModelSettings()), form, copy)
    assert content["schema"] == NAMING_SCHEMA
    (copy / "bundle.json").write_text(json.dumps(content))
    found = read_bundle(copy)
    assert found.decoding == decoding
    assert len(found.classifiers) == 3


def test_no_file_names_a_place(bundle: Path) -> None:
    for path in bundle.iterdir():
        assert str(ROOT).encode() not in path.read_bytes(), path.name


@pytest.mark.slow
def test_the_same_export_gives_the_same_bytes(bundle: Path, form: str, tmp_path: Path) -> None:
    if form != "onnx":
        pytest.skip("of ONNX alone")
    export(PipelineExport(out=tmp_path / "again", format=form))
    for path in bundle.iterdir():
        if path.name != "run.yaml":  # which names the folder
            assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


BLOCK = """
import importlib.abc
import sys


class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "ultralytics", "timm", "safetensors"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


sys.meta_path.insert(0, Block())
from spineline.pipeline.cli.main import main

raise SystemExit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from spineline.pipeline.cli.demo import draw_study

    folder = tmp_path_factory.mktemp("study")
    draw_study(folder, 3)
    return folder / "study"


def run(python: Path | str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [str(python), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def result_of(out: Path) -> dict[str, Any]:
    (path,) = out.glob("*/result.json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.mark.slow
def test_the_command_runs_without_torch(
    bundle: Path, form: str, study: Path, tmp_path: Path, original: Pipeline
) -> None:
    words = ("pipeline", "predict", f"weights={bundle}", f"source={study}", f"out={tmp_path / 'o'}")
    done = run(sys.executable, "-c", BLOCK, *words)
    assert done.returncode == 0, done.stderr
    found, wanted = result_of(tmp_path / "o"), original.predict(study).to_json()
    assert found["weights"]["name"] == f"default-{form}"
    for mine, other in zip(wanted["structures"], found["structures"], strict=True):
        assert mine["level"] == other["level"]
        np.testing.assert_allclose(other["point_xy"], mine["point_xy"], atol=0.5)
    assert list((tmp_path / "o").glob("*/overlay.png"))


@pytest.mark.parametrize("runtime", ["auto", "torch"])
def test_ordinary_weights_without_torch_say_what_to_do(
    study: Path, tmp_path: Path, runtime: str
) -> None:
    """By their graphs, they need safetensors even so."""
    words = ("pipeline", "predict", f"source={study}", f"out={tmp_path / 'o'}")
    done = run(sys.executable, "-c", BLOCK, *words, f"runtime={runtime}")
    assert done.returncode == 2
    assert "weights=default: needs" in done.stderr
    assert "pipeline export" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o").exists()


def distributions(names: list[str]) -> Iterator[Distribution]:
    """Those distributions and all that they need, each once."""
    seen: set[str] = set()
    while names:
        name = re.split(r"[ ;<>=!~\[(]", names.pop())[0].replace("-headless", "").lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:  # wanted on other systems alone
            continue
        yield found
        names += [text for text in found.requires or [] if "extra ==" not in text]


@pytest.mark.slow
def test_the_list_of_the_page_is_enough(bundle: Path, form: str, study: Path, tmp_path: Path):
    """An environment in which the packages that docs/weights.md lists are, and no others."""
    if form != "onnx":
        pytest.skip("of ONNX alone")
    line = next(
        line for line in (ROOT / "docs/weights.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("pip install numpy ")
    )  # fmt: skip
    venv.create(tmp_path / "env", with_pip=False)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    for package in distributions(line.split()[2:]):
        tops = {file.parts[0] for file in package.files or [] if file.parts[0] != ".."}
        for top in sorted(tops - {"__pycache__"}):
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(package.locate_file(top))))
    (site / "spineline").mkdir()
    for room in ("converters", "datasets", "detect", "classify", "pipeline", "weights"):
        (site / "spineline" / room).symlink_to(ROOT / room)
    python = tmp_path / "env" / "bin" / "python"
    assert run(python, "-c", "import torch").returncode == 1
    words = (f"weights={bundle}", f"source={study}", f"out={tmp_path / 'o'}")
    done = run(python, "-m", "spineline.pipeline.cli.main", "pipeline", "predict", *words)
    assert done.returncode == 0, done.stderr
    assert len(result_of(tmp_path / "o")["structures"]) > 5


@pytest.mark.slow
def test_what_disagrees_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, original: Pipeline
) -> None:
    """A classifier that is not the original's: its grades differ, and nothing is written."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    write = exporting.write_network

    def other(role: Role, network: Any, path: Path) -> None:
        if role == "classifier":
            network = deepcopy(network)
            network.network.requires_grad_(False).heads["seven"].bias[::2] += 0.2
        write(role, network, path)

    monkeypatch.setattr(exporting, "write_network", other)
    monkeypatch.setattr(exporting, "check_frames", lambda: [phantom(1, (320, 320))])
    with pytest.raises(SpinelineError, match=r"are off by .* in probability; nothing was written"):
        export(PipelineExport(out=tmp_path / "bundle"))
    assert not list(tmp_path.iterdir())


def test_other_levels_are_no_agreement(fake_pipeline: Pipeline, make_spots: Any) -> None:
    class Fewer:
        names, imgsz = fake_pipeline.detector.names, 128

        def detect(self, images: Any, **keys: Any) -> Any:
            return [d.first(7) for d in fake_pipeline.detector.detect(images, **keys)]

    frames = [frame_of("spots", make_spots())]
    assert check_agreement(fake_pipeline, fake_pipeline, frames).structures == 11
    other = replace(fake_pipeline, detector=Fewer())  # type: ignore[arg-type]
    with pytest.raises(SpinelineError, match="on the image 'spots' the exported networks find"):
        check_agreement(fake_pipeline, other, frames)


def test_only_yolo_networks_can_be_exported(fake_pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fake: its detector is not a YOLO network"):
        write_networks(fake_pipeline, "onnx", tmp_path)


def test_a_network_that_the_format_cannot_hold(
    original: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Unsupported operator\nmore")

    monkeypatch.setattr(exporting, "write_network", fail)
    message = r"detector: cannot be written as onnx \(Unsupported operator\); choose another"
    with pytest.raises(SpinelineError, match=message):
        write_networks(original, "onnx", tmp_path)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["format=onx"], 2, "did you mean 'onnx'"),
        (["weights=nothing"], 2, "no such bundle"),
        (["out={folder}"], 1, "exists already"),
        (["weights={folder}"], 2, "is exported already"),
    ],
    ids=["format", "weights", "exists", "exported"],
)
def test_refusals(
    run_keys: Callable[..., tuple[int, str]],
    tmp_path: Path,
    words: list[str],
    code: int,
    message: str,
) -> None:
    found, errors = run_keys("pipeline export", f"out={tmp_path / 'bundle'}", *words)
    assert found == code
    assert message in errors
    assert not (tmp_path / "bundle").exists()


def test_a_missing_runtime_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Any
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    code, _, errors = run_cli("pipeline", "export", f"out={tmp_path / 'b'}", "format=openvino")
    assert code == 2
    assert "openvino is not installed" in errors
    assert "spineline[openvino]" in errors


def test_a_member_of_another_bundle_is_refused(bundle: Path, form: str, tmp_path: Path) -> None:
    """The files are sound, but not the ones that bundle.json names."""
    import shutil

    shutil.copytree(bundle, tmp_path / "mixed")
    (first, *_) = sorted((tmp_path / "mixed").glob("namer.*"))
    (second, *_) = sorted((tmp_path / "mixed").glob("classifier*"))
    shutil.copyfile(second, first)
    with pytest.raises(WeightsError, match="has been altered"):
        Pipeline.load(str(tmp_path / "mixed"))
