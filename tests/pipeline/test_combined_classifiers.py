"""Several classifiers in the pipeline, in a registry's bundle, in an exported bundle, by folds."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from spineline.classify.combined import Combination, equal_shares
from spineline.classify.network.build import build_network
from spineline.classify.network.layers import NetworkConfig
from spineline.classify.network.weights_file import network_state, save_combined, save_weights
from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.labels import BINARY_NAMES, SEVEN_NAMES
from spineline.datasets.networks.runtimes import PACKAGES
from spineline.datasets.phantoms.phantom import draw_spine
from spineline.pipeline.evaluation.fold_weights import read_fold_weights
from spineline.pipeline.export.export import export, frame_of
from spineline.pipeline.export.settings import PipelineExport
from spineline.pipeline.inference.bundles import read_bundle
from spineline.pipeline.inference.pipeline import Analysis, Pipeline, bundle_of
from spineline.pipeline.inference.results import StudyResult
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.outputs.study_files import write_results_csv
from spineline.weights import load_registry, resolve_bundle, sha256_of

Cli = Callable[..., tuple[int, str, str]]
THRESHOLD = 0.30000000000004
"""Of v5; outputs round it as they round probabilities."""


def write_network(path: Path, seed: int, crop: CropSpec, **more) -> tuple[dict, NetworkConfig]:
    config = NetworkConfig("test_resnet", "both", 8, 0.0, 1, crop, mean=0.4, std=0.2, **more)
    network = build_network(config, seed=seed)
    for layer in network.heads.values():
        layer.weight.data *= 20
    state = network_state(network)
    save_weights(path, state, config)
    return state, config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a and b, of another margin, size and input each; both in one file, b for discs alone too."""
    folder = tmp_path_factory.mktemp("classifiers")
    a = write_network(folder / "a.safetensors", 1, CropSpec(32, 1.2, "spine"))
    b = write_network(folder / "b.safetensors", 2, CropSpec(24, 1.8, "spine"), level_input=True)
    counts = (90, 60, 70, 40, 20, 10, 2)
    how = Combination(equal_shares(["both", "both"]), {"binary": 1.5}, 0.3, counts, THRESHOLD)
    save_combined(folder / "both.safetensors", [a, b], how)
    save_combined(folder / "kinds.safetensors", [a, b], replace(how, vertebra=(1.0, 0.0)))
    return folder


@pytest.fixture(scope="module")
def pair(folder: Path) -> list[Path]:
    return [folder / "a.safetensors", folder / "b.safetensors"]


FRAMES = [frame_of(f"phantom {n}", draw_spine(60 + n, (320, 320)).pixels) for n in range(2)]


def analysed(pipeline: Pipeline) -> list[Analysis]:
    return pipeline.analyse(FRAMES)


def numbers(results: list[Analysis]) -> tuple[np.ndarray, np.ndarray]:
    structures = [s for analysis in results for s in analysis.result.structures]
    assert len(structures) > 15
    seven = np.array([s.seven.probabilities for s in structures])
    return seven, np.array([s.binary.probability for s in structures])


@pytest.fixture(scope="module")
def together(pair: list[Path]) -> list[Analysis]:
    return analysed(Pipeline.load(classifier=pair))


def test_the_pipeline_gives_the_mean(pair: list[Path], together: list[Analysis]) -> None:
    alone = [numbers(analysed(Pipeline.load(classifier=file))) for file in pair]
    for mean, a, b in zip(numbers(together), *alone, strict=True):
        np.testing.assert_allclose(mean, (a + b) / 2, atol=1e-6)
        assert np.abs(a - b).max() > 0.01
    bundle = bundle_of(ModelSettings(classifier=[str(file) for file in pair]))
    assert [file.path for file in bundle.classifiers] == pair
    result = together[0].result
    assert "a.safetensors,b.safetensors" in result.weights_name
    assert result.weights_sha256 == bundle.sha256
    other = bundle_of(ModelSettings(classifier=",".join(map(str, reversed(pair)))))
    assert other.sha256 != bundle.sha256


def test_a_file_of_several_decides_by_what_is_in_it(
    folder: Path, together: list[Analysis], tmp_path: Path
) -> None:
    found = analysed(Pipeline.load(classifier=folder / "both.safetensors"))
    p, _ = numbers(together)
    q, v5 = numbers(found)
    np.testing.assert_allclose(p, q, atol=1e-6)
    structures = [s for analysis in found for s in analysis.result.structures]
    counts = np.array([90, 60, 70, 40, 20, 10, 2])
    assert [s.seven.class_index for s in structures] == (q / counts**0.3).argmax(1).tolist()
    assert [s.binary.class_index for s in structures] == (v5 >= 0.3).astype(int).tolist()
    assert {s.binary.class_index for s in structures if s.binary.probability < 0.5} == {0, 1}
    value = found[0].result.to_json()
    assert {s["binary"]["threshold"] for s in value["structures"]} == {0.3}
    assert StudyResult.from_json(value).to_json() == value
    write_results_csv(tmp_path / "results.csv", [("x", found[0].result)])
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as stream:
        assert {row["binary_threshold"] for row in csv.DictReader(stream)} == {"0.3"}


@pytest.mark.slow
def test_a_member_for_discs_alone_sees_no_vertebra(
    folder: Path, pair: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline.load(classifier=folder / "kinds.safetensors")
    seen: list[tuple[int, int]] = []
    grade = type(pipeline.classifier.members[0]).grade

    def counted(self, crops, *args, **keys):
        seen.append((self.crop.size, len(crops)))
        return grade(self, crops, *args, **keys)

    monkeypatch.setattr(type(pipeline.classifier.members[0]), "grade", counted)
    found = analysed(pipeline)
    kinds = np.array([s.kind for analysis in found for s in analysis.result.structures])
    assert seen == [(32, len(kinds)), (24, (kinds == "disc").sum())]
    monkeypatch.undo()
    seven, v5 = numbers(found)
    alone = [numbers(analysed(Pipeline.load(classifier=file))) for file in pair]
    disc = kinds == "disc"
    np.testing.assert_allclose(seven[~disc], alone[0][0][~disc], atol=1e-6)
    mean = (alone[0][0] + alone[1][0]) / 2
    np.testing.assert_allclose(seven[disc], mean[disc], atol=1e-6)
    assert (v5[~disc] == 0).all()
    assert (v5[disc] > 0).all()


def test_a_bundle_of_a_registry(folder: Path, tmp_path: Path, run_cli: Cli) -> None:
    for name in ("a", "b"):
        code, _, errors = run_cli(
            "weights", "add", f"weights={folder / name}.safetensors", f"name={name}",
            f"folder={tmp_path}", "trained_on=phantoms", "input=crops",
        )  # fmt: skip
        assert code == 0, errors
    file = tmp_path / "registry.yaml"
    content = yaml.safe_load(file.read_text())
    detector = load_registry().find("lumbar-yolov8n")
    assert detector is not None
    (tmp_path / detector.file).write_bytes(load_registry().path_of(detector).read_bytes())
    full = yaml.safe_load((load_registry().folder / "registry.yaml").read_text())
    content["weights"].append(next(w for w in full["weights"] if w["name"] == detector.name))
    content["weights"][-1].pop("graphs")  # they stay where they are
    content["bundles"] = {"mine": {"detector": detector.name, "classifier": ["a", "b"]}}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    bundle = resolve_bundle("mine", registry=load_registry(tmp_path))
    assert [f.name for f in bundle.classifiers] == ["a", "b"]
    words = (f"weights={folder / 'both.safetensors'}", "name=c", f"folder={tmp_path}")
    assert run_cli("weights", "add", *words, "trained_on=p", "input=crops")[0] == 0
    again = load_registry(tmp_path)  # written anew, the list is still there
    assert again.bundles == {"mine": ("lumbar-yolov8n", "a", "b")}
    assert again.find("c").classes == (*SEVEN_NAMES, *BINARY_NAMES)
    assert run_cli("weights", "verify", f"folder={tmp_path}")[0] == 0
    content["bundles"]["mine"]["classifier"] = []
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(WeightsError, match="'mine': its list of classifiers is empty"):
        load_registry(tmp_path)


def test_stripped_it_says_the_same(folder: Path, tmp_path: Path, run_cli: Cli) -> None:
    from spineline.classify import load_classifier

    out = tmp_path / "half.safetensors"
    source = folder / "both.safetensors"
    assert run_cli("weights", "strip", f"weights={source}", f"out={out}")[0] == 0
    assert out.stat().st_size < 0.6 * source.stat().st_size
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 256, (5, size, size), dtype=np.uint8) for size in (32, 24)]
    one, other = (load_classifier(file).grade(crops, ["disc"] * 5) for file in (source, out))
    assert one.threshold == other.threshold == THRESHOLD
    np.testing.assert_allclose(one.seven, other.seven, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("several", "form"), [("list", "onnx"), ("both", "openvino"), ("kinds", "onnx")]
)
def test_exported_it_says_the_same(
    folder: Path, pair: list[Path], tmp_path: Path, several: str, form: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pytest.importorskip("onnx")
    pytest.importorskip(PACKAGES[form])
    monkeypatch.setattr("spineline.pipeline.export.export.check_frames", lambda: FRAMES[:1])
    file = str(folder / f"{several}.safetensors")
    classifier = ",".join(map(str, pair)) if several == "list" else file
    out = tmp_path / "bundle"
    export(PipelineExport(out=out, format=form, classifier=classifier))
    content = json.loads((out / "bundle.json").read_text())
    assert content["schema"] == (3 if several == "kinds" else 2)
    members = content["networks"]["classifier"]["members"]
    assert [m["crop"]["margin"] for m in members] == [1.2, 1.8]
    assert [m.get("level_input", False) for m in members] == [False, True]
    original, exported = Pipeline.load(classifier=classifier), Pipeline.load(str(out))
    wanted, found = analysed(original), analysed(exported)
    for a, b in zip(numbers(wanted), numbers(found), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    for one, other in zip(wanted, found, strict=True):
        for a, b in zip(one.result.structures, other.result.structures, strict=True):
            assert (a.seven.class_index, a.binary.class_index, a.binary.threshold) == (
                b.seven.class_index, b.binary.class_index, b.binary.threshold
            )  # fmt: skip
    with (out / members[1]["files"][0]["file"]).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(WeightsError, match="has been altered"):
        bundle_of(ModelSettings(weights=str(out)))
    for change, message in (
        (lambda c: c["combination"].update(threshold=2), "threshold"),
        (lambda c: c["combination"]["shares"].update(seven=[1]), "1 shares"),
        (lambda c: c.update(members=[]), "no member"),
        (lambda c: c.pop("combination"), "combination is missing"),
    ):
        damaged = json.loads(json.dumps(content))
        change(damaged["networks"]["classifier"])
        (out / "bundle.json").write_text(json.dumps(damaged))
        with pytest.raises(WeightsError, match=message):
            read_bundle(out)


def test_folds_with_several_classifiers(pair: list[Path], tmp_path: Path) -> None:
    for file in pair:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    names = [file.name for file in pair]
    folds = [{"studies": ["1"], "classifier": names}, {"studies": ["2"], "classifier": names[0]}]
    (tmp_path / "fold_weights.json").write_text(json.dumps({"folds": folds}))
    first, second = read_fold_weights([tmp_path])
    bundle = bundle_of(first.applied(ModelSettings()))
    assert [f.sha256 for f in bundle.classifiers] == [sha256_of(file) for file in pair]
    assert len(bundle_of(second.applied(ModelSettings())).classifiers) == 1


def test_names_that_are_none() -> None:
    with pytest.raises(ConfigError, match="names none; wanted A, or A,B"):
        ModelSettings(classifier="[]")
    with pytest.raises(ConfigError, match="names none"):
        ModelSettings(classifier=[])


@pytest.mark.slow
def test_a_single_classifier_decides_as_before(pair: list[Path]) -> None:
    one, listed = (analysed(Pipeline.load(classifier=c)) for c in (pair[0], [pair[0]]))
    assert [a.result for a in one] == [a.result for a in listed]
    value = one[0].result.to_json()
    assert all("threshold" not in s["binary"] for s in value["structures"])
    plain = replace(one[0].result.structures[0].binary, threshold=0.5)
    assert plain == one[0].result.structures[0].binary
