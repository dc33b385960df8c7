"""``runtime=``: the same answers by every runtime, none of the heavy packages by default."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from spineline.classify.combined import CombinedClassifier
from spineline.datasets.commands.phantom import phantom
from spineline.datasets.commands.settings import DataPhantom
from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.phantoms.phantom import draw_spine
from spineline.pipeline.export.export import check_frames, frame_of
from spineline.pipeline.inference.pipeline import Analysis, Pipeline, bundle_of
from spineline.pipeline.inference.runtimes.choice import chosen_runtime
from spineline.pipeline.inference.settings import ModelSettings, changed_settings
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import Frame, load_frame
from spineline.pipeline.run import engine_local
from spineline.pipeline.run.settings import PipelinePredict, results_hash
from spineline.weights import load_registry, registry, resolve_bundle

HEAVY = (
    "torch", "torchvision", "timm", "ultralytics", "sklearn", "matplotlib", "scipy", "pycocotools",
    "onnx", "openvino", "requests",
)  # fmt: skip
OTHERS = ["onnx", pytest.param("openvino", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def by_torch() -> Pipeline:
    return Pipeline.load(runtime="torch")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPINELINE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "spineline" / "graphs"


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three phantom studies of DICOM files, which no test changes."""
    out = tmp_path_factory.mktemp("phantoms") / "ph"
    phantom(DataPhantom(out=out, n=3, format=("dicom",), size=256, slices=3))
    return out / "studies"


def assert_same(wanted: Sequence[Analysis], found: Sequence[Analysis]) -> int:
    """Levels, warnings and grades the same, points and probabilities close; how many structures."""
    count = 0
    for mine, other in zip(wanted, found, strict=True):
        a, b = mine.result, other.result
        assert (b.status, b.missing_levels) == (a.status, a.missing_levels)
        assert [w.code for w in b.warnings] == [w.code for w in a.warnings]
        assert [s.level for s in b.structures] == [s.level for s in a.structures]
        for s, t in zip(a.structures, b.structures, strict=True):
            assert np.abs(np.subtract(s.point_xy, t.point_xy)).max() < 0.5
            assert abs(s.confidence - t.confidence) < 1e-3
            assert s.seven is not None
            assert t.seven is not None
            assert np.abs(np.subtract(s.seven.probabilities, t.seven.probabilities)).max() < 1e-3
            assert s.binary is not None
            assert t.binary is not None
            assert abs(s.binary.probability - t.binary.probability) < 1e-3
            count += 1
    return count


def different_weights(source: Path, target: Path) -> Path:
    """A copy that no registry knows: its first tensor is a little different."""
    tensors = load_file(source)
    with safe_open(source, framework="np") as file:
        metadata = file.metadata()
    name = next(n for n, tensor in tensors.items() if tensor.dtype.kind == "f" and tensor.size > 9)
    save_file({**tensors, name: tensors[name] * np.float16(1.01)}, target, metadata)
    return target


# The same answers


@pytest.mark.parametrize("runtime", OTHERS)
def test_phantoms_have_the_same_answers(by_torch: Pipeline, runtime: str) -> None:
    pipeline = Pipeline.load(runtime=runtime)
    assert (by_torch.runtime, pipeline.runtime) == ("torch", runtime)
    assert pipeline.weights_name == by_torch.weights_name == "default"
    assert pipeline.weights_sha256 == by_torch.weights_sha256
    frames = [*check_frames(), frame_of("dim", draw_spine(9, (320, 320)).pixels // 4)]
    found = by_torch.analyse(frames)
    assert assert_same(found, pipeline.analyse(frames)) > 40
    refused = [each.frame for each in found if each.result.status == "refused"]
    assert len(refused) > 1
    force = [replace(p, settings=replace(p.settings, force=True)) for p in (by_torch, pipeline)]
    assert_same(*(each.analyse(refused) for each in force))


@pytest.mark.slow
def test_real_frames_have_the_same_answers(by_torch: Pipeline, shared_lumbar: Path) -> None:
    cases = find_cases(shared_lumbar / "images")[::25]
    frames = [load_frame(case) for case in cases]
    assert assert_same(by_torch.analyse(frames), Pipeline.load().analyse(frames)) > 55


def test_a_grader_knows_what_grey_values_it_was_trained_on(by_torch: Pipeline) -> None:
    members = [p.classifier.members for p in (by_torch, Pipeline.load())]  # type: ignore[union-attr]
    greys = [[getattr(member, "greys", None) for member in each] for each in members]
    assert greys[0] == greys[1]
    assert any(greys[0])


def test_single_classifiers_answer_as_one() -> None:
    """One and the same twice gives what it gives alone; several that are one already do not go."""
    name = "lumbar-gradients"
    alone, twice = (
        Pipeline.from_settings(ModelSettings(classifier=classifier, namer="none"))
        for classifier in (name, f"{name},{name}")
    )
    assert alone.runtime == twice.runtime == "onnx"
    assert twice.namer is None
    assert not isinstance(alone.classifier, CombinedClassifier)
    assert isinstance(twice.classifier, CombinedClassifier)
    frames = check_frames()[:1]
    assert assert_same(alone.analyse(frames), twice.analyse(frames)) == 11
    with pytest.raises(WeightsError, match="already holds several combined classifiers"):
        Pipeline.load(classifier=[name, "lumbar-grades"])


# What is imported


@pytest.mark.parametrize("source", ["a study", pytest.param("an image", marks=pytest.mark.slow)])
def test_a_prediction_imports_no_heavy_package(source: str, studies: Path, tmp_path: Path) -> None:
    """DICOM files in, overlay, results and report out, in a process of its own."""
    given = studies / "study0"
    if source == "an image":
        import cv2

        given = tmp_path / "one.png"
        cv2.imwrite(str(given), draw_spine(3, (384, 384)).pixels)
    code = (
        "import sys\n"
        "from spineline.pipeline.cli.main import main\n"
        "status = main(sys.argv[1:])\n"
        f"heavy = [name for name in {HEAVY} if sys.modules.get(name) is not None]\n"
        "sys.exit(' '.join(heavy) if heavy else status)\n"
    )
    words = ["pipeline", "predict", f"source={given}", f"out={tmp_path / 'o'}", "to=report,page"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (result,) = (tmp_path / "o").glob("*/result.json")
    content = json.loads(result.read_text())
    assert len(content["structures"]) == 11
    assert all(s["seven"] for s in content["structures"])
    assert result.with_name("overlay.png").is_file()
    assert (tmp_path / "o" / "results.csv").is_file()


# What is chosen


@pytest.mark.slow
def test_the_choice_stands_in_the_run_and_in_doctor(
    studies: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    for runtime in ("auto", "torch"):
        out = tmp_path / runtime
        words = (f"source={studies / 'study1'}", f"out={out}", f"runtime={runtime}")
        assert run_cli("pipeline", "predict", *words)[0] == 0
        record = yaml.safe_load((out / "run.yaml").read_text())
        assert record["settings"]["runtime"] == runtime
        assert record["runtime"] == {"auto": "onnx"}.get(runtime, runtime)
        assert "onnxruntime" in record["versions"]
    code, text, _ = run_cli("doctor", "quick=true", "json=true")
    assert code == 0
    found = json.loads(text)
    assert found["run"]["runtime"] == "onnx"
    assert found["weights"]["files"]["lumbar-yolov8n.graph0.onnx"] == "ok"


def test_results_are_the_same_ones_by_any_runtime() -> None:
    """A run goes on by another runtime, as it does on another device."""
    keys: dict[str, Any] = {"source": Path("s"), "out": Path("o")}
    settings = [PipelinePredict(**keys, runtime=name) for name in ("auto", "torch")]
    assert len({results_hash(each) for each in settings}) == 1
    assert changed_settings(ModelSettings(runtime="torch")) == ""


def chosen(**keys: Any) -> str:
    settings = ModelSettings(**keys)
    return chosen_runtime(settings, bundle_of(settings))


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        pytest.param({}, "onnx", id="default"),
        pytest.param({"namer": "none"}, "onnx", id="no-namer"),
        pytest.param({"classifier": "lumbar-gradients"}, "onnx", id="another-of-the-registry"),
        pytest.param({"runtime": "torch"}, "torch", id="asked-for"),
        pytest.param({"runtime": "openvino"}, "openvino", id="openvino"),
        pytest.param({"device": "0"}, "torch", id="gpu"),
        pytest.param({"device": "mps"}, "torch", id="apple"),
    ],
)
def test_what_runs(keys: dict[str, Any], wanted: str) -> None:
    assert chosen(**keys) == wanted


def test_a_gpu_has_no_such_runtime() -> None:
    with pytest.raises(ConfigError, match=r"runtime=onnx: runs on the CPU, and device=0 is asked"):
        chosen(runtime="onnx", device="0")


def test_without_the_package_torch_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "spineline.pipeline.inference.runtimes.choice.importlib.util.find_spec", lambda _: None
    )
    assert chosen() == "torch"


# Graphs that are not what they should be


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundled registry in its place."""
    folder = tmp_path / "weights"
    shutil.copytree(registry.BUNDLED, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.setattr(registry, "BUNDLED", folder)
    return folder


@pytest.mark.parametrize("state", ["altered", "missing"])
def test_a_graph_that_was_changed_is_an_error(
    bundled: Path, state: str, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    graph = bundled / "lumbar-grades.graph1.onnx"
    if state == "missing":
        graph.unlink()
    else:
        graph.write_bytes((bundled / "lumbar-grades.graph0.onnx").read_bytes())
    message = rf"graph1\.onnx: the graph of lumbar-grades is {state}; restore it .*runtime=torch"
    with pytest.raises(WeightsError, match=message):
        Pipeline.load()
    assert Pipeline.load(runtime="torch").runtime == "torch"
    code, _, errors = run_cli("weights", "verify")
    assert code == 1
    assert f"lumbar-grades: lumbar-grades.graph1.onnx is {state}" in errors


def test_weights_that_were_replaced_have_no_graph(bundled: Path) -> None:
    """Another network of that name in the registry: the graph of the old one is not used."""
    path = bundled / "lumbar-yolov8n.safetensors"
    different_weights(path, path)
    with pytest.raises(WeightsError, match="has been altered"):
        chosen()
    content = yaml.safe_load((bundled / "registry.yaml").read_text())
    entry = content["weights"][0]
    entry.update(sha256=registry.sha256_of(path), size=path.stat().st_size)
    del entry["graphs"]
    (bundled / "registry.yaml").write_text(yaml.safe_dump(content))
    assert chosen() == "torch"


# Weights of one's own


@pytest.mark.parametrize(
    "roles",
    [["namer"], pytest.param(["namer", "classifier"], marks=pytest.mark.slow)],
    ids="+".join,
)
def test_own_weights_run_by_torch_unless_asked(
    roles: list[str], tmp_path: Path, cache: Path, by_torch: Pipeline
) -> None:
    """A graph is made once, kept by the SHA-256 of the weights, and the next run needs no torch."""
    files = {"namer": resolve_bundle().namer, "classifier": resolve_bundle().classifier}
    own = {
        name: different_weights(file.path, tmp_path / f"{name}.safetensors")
        for name in roles
        if (file := files[name]) is not None
    }
    keys = {name: str(path) for name, path in own.items()}
    assert chosen(**keys) == "torch"
    settings = ModelSettings(**keys, runtime="onnx")
    first = Pipeline.from_settings(settings)
    kept = sorted(path.name for path in cache.iterdir())
    assert [name[:64] for name in kept] == sorted(
        registry.sha256_of(path)
        for name, path in own.items()
        for _ in range({"namer": 1, "classifier": 2}[name])
    )
    frames = check_frames()[:3]
    wanted = Pipeline.from_settings(replace(settings, runtime="torch")).analyse(frames)
    assert assert_same(wanted, first.analyse(frames)) > 20
    code = (
        "import sys\n"
        "from spineline.pipeline.inference.pipeline import Pipeline\n"
        "from spineline.pipeline.inference.settings import ModelSettings\n"
        f"Pipeline.from_settings(ModelSettings(**{keys}, runtime='onnx'))\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPINELINE_CACHE_DIR", str(tmp_path / "file"))
    bundled = resolve_bundle().namer
    assert bundled is not None
    own = different_weights(bundled.path, tmp_path / "namer.safetensors")
    assert Pipeline.from_settings(ModelSettings(namer=str(own), runtime="onnx")).runtime == "onnx"
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_pickle_runs_by_torch_alone(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(ConfigError, match=r"best\.pt: a pickle runs only with torch.*strip"):
        Pipeline.from_settings(ModelSettings(detector=str(path), runtime="onnx", trust=True))
    assert not cache.exists()


def test_only_yolo_detectors_have_a_graph(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "boxes.safetensors"
    description = {"task": "detect", "backend": "fasterrcnn", "names": ["L1"]}
    save_file({"w": np.zeros(2, np.float32)}, path, {"spineline": json.dumps(description)})
    with pytest.raises(ConfigError, match=r"\(fasterrcnn\) is not a YOLO network.*runtime=torch"):
        Pipeline.from_settings(ModelSettings(detector=str(path), runtime="onnx"))
    assert not cache.exists()


# Worker processes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "threads"),
    [("onnx", 1), pytest.param("onnx", 2, marks=pytest.mark.slow),
     pytest.param("openvino", 1, marks=pytest.mark.slow)],
)  # fmt: skip
def test_workers_give_the_bytes_of_one_process(
    runtime: str, threads: int, studies: Path, tmp_path: Path,
    run_cli: Callable[..., tuple[int, str, str]],
) -> None:  # fmt: skip
    found: list[dict[str, bytes]] = []
    for workers in (0, 2):
        out = tmp_path / f"o{workers}"
        words = (f"source={studies}", f"out={out}", f"runtime={runtime}", f"threads={threads}")
        assert run_cli("pipeline", "predict", *words, f"workers={workers}")[0] == 0
        found.append({p.parent.name: p.read_bytes() for p in out.glob("*/result.json")})
    assert len(found[0]) == 3
    assert found[0] == found[1]


def test_networks_with_threads_of_their_own_stay_in_this_process(
    studies: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A fork has none of its parent's threads: it would wait for them without end."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    pipeline = Pipeline.load()
    assert not pipeline.works_in_forks
    frames: list[Frame] = []

    def analyse(self: Pipeline, given: Sequence[Frame]) -> list[Analysis]:
        frames.extend(given)
        return original(self, given)

    original = Pipeline.analyse
    monkeypatch.setattr(Pipeline, "analyse", analyse)
    settings = PipelinePredict(source=studies, out=tmp_path / "o", workers=2)
    cases = find_cases(studies)
    outcomes = list(engine_local.run(cases, settings, pipeline=pipeline))
    assert [outcome.failure for outcome in outcomes] == [None] * 3
    assert len(frames) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert Pipeline.load().works_in_forks


def test_bundled_weights_have_graphs() -> None:
    known = load_registry()
    for entry in known.entries:
        assert bool(entry.graphs) == (entry.task != "weighting"), entry.name  # NumPy runs it
        assert set(known.graph_states(entry).values()) <= {"ok"}
