"""``naming calibrate``: the probability of names for one's own networks, and where it applies."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from spineline.datasets.common.errors import AnnotationError, ConfigError, WeightsError
from spineline.datasets.networks.tensors import pack_described, read_described
from spineline.datasets.phantoms.phantom import draw_spine
from spineline.pipeline.evaluation import calibrate_naming
from spineline.pipeline.evaluation.calibrate_naming import calibrate, fit_coefficients
from spineline.pipeline.evaluation.fold_weights import read_fold_weights
from spineline.pipeline.evaluation.naming_stress import Row
from spineline.pipeline.evaluation.settings import NamingCalibrate
from spineline.pipeline.evaluation.stress_set import STRESSES, LabelledSpine
from spineline.pipeline.inference.decode import DecodeSettings
from spineline.pipeline.inference.naming import COEFFICIENTS, NamingCoefficients, NamingEvidence
from spineline.pipeline.inference.pipeline import Pipeline, bundle_of, decoding_of
from spineline.pipeline.inference.settings import ModelSettings
from spineline.weights import resolve

TRUE = NamingCoefficients(constant=-4.0, margin=0.2, score=0.02)
"""By these, the drawn namings are right."""

RunCli = Callable[..., tuple[int, str, str]]


def drawn_row(pipeline: Pipeline, spine: LabelledSpine, stress: str, *, seed: int) -> Row:
    """A naming whose evidence is drawn; no network runs."""
    rng = np.random.default_rng([*spine.name.encode(), *stress.encode(), seed])
    evidence = NamingEvidence(rng.uniform(0, 40), rng.uniform(20, 60))
    right = bool(rng.random() < evidence.probability(TRUE))
    stated = evidence.probability(pipeline.decoding.coefficients)
    found = {"margin": evidence.margin, "score": evidence.score}
    return Row(
        spine.name, spine.patient, spine.source, stress, 11, right,
        abstained=False, codes=(), probability=stated, evidence=found,
    )  # fmt: skip


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate_naming, "look", drawn_row)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted dataset of eight phantoms, half of them in val."""
    from spineline.pipeline.cli.main import main

    folder = tmp_path_factory.mktemp("data")
    drawn = folder / "drawn"
    words = [f"annotations={drawn / 'report_labels.json'}", f"images={drawn / 'frames'}"]
    assert main(["data", "phantom", f"out={drawn}", "n=8"]) == 0
    assert main(["convert", "report", *words, f"out={folder / 'd'}", "split=0.5"]) == 0
    return folder / "d"


def studies_of(data: Path, *parts: str) -> list[str]:
    files = [data / "annotations" / f"{part}.json" for part in parts]
    return [image["study_id"] for file in files for image in json.loads(file.read_text())["images"]]


def test_the_fit_is_stored_and_applies(data: Path, tmp_path: Path, drawn: None) -> None:
    found = calibrate(NamingCalibrate(data=data, out=tmp_path / "out"))
    files = {path.name for path in found.out.iterdir()}
    assert files == {"namer.safetensors", "metrics.json", "reliability.png", "run.yaml"}
    assert found.coefficients.margin == pytest.approx(TRUE.margin, abs=0.08)
    stored = json.loads((found.out / "metrics.json").read_text())
    assert stored["after"] == found.metrics["after"]
    assert stored["after"]["all"]["spines"] == len(STRESSES) * len(studies_of(data, "val"))
    assert stored["after"]["all"]["ece"] < stored["before"]["all"]["ece"]
    settings = ModelSettings(namer=str(found.namer))
    for runtime in ("auto", "torch"):
        pipeline = Pipeline.from_settings(replace(settings, runtime=runtime))
        assert pipeline.decoding == DecodeSettings(coefficients=found.coefficients)
    given = load_file(resolve("lumbar-namer", task="name").path)
    written = load_file(found.namer)
    assert given.keys() == written.keys()
    assert all(np.array_equal(given[name], written[name]) for name in given)


def test_all_parts_for_networks_that_saw_none(data: Path, tmp_path: Path, drawn: None) -> None:
    found = calibrate(NamingCalibrate(data=data, part="all", out=tmp_path / "out"))
    studies = studies_of(data, "train", "val")
    assert found.metrics["after"]["plain"]["spines"] == len(studies) == 8


def test_with_folds_each_is_judged_by_the_others(
    data: Path, tmp_path: Path, drawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = studies_of(data, "train", "val")
    folds = [{"studies": studies[n::2], "weights": "default"} for n in range(2)]
    given = tmp_path / "folds.json"
    given.write_text(json.dumps({"schema": "spineline-fold-weights/1", "folds": folds}))
    fitted: list[set[str]] = []

    def watched(rows: list[Row]) -> NamingCoefficients:
        fitted.append({row.patient for row in rows})
        return fit_coefficients(rows)

    monkeypatch.setattr(calibrate_naming, "fit_coefficients", watched)
    out = tmp_path / "deep" / "out"
    calibrate(NamingCalibrate(data=data, folds=(given,), out=out))
    whole, *others = fitted
    assert len(whole) == len(studies)
    assert others[0] | others[1] == whole
    assert not others[0] & others[1]
    again = read_fold_weights([out])
    assert [fold.studies for fold in again] == [tuple(fold["studies"]) for fold in folds]
    applied = [decoding_of(bundle_of(fold.applied(ModelSettings()))) for fold in again]
    assert len({each.coefficients for each in applied}) == 2
    assert COEFFICIENTS not in {each.coefficients for each in applied}


def test_files_of_folds_are_found_from_the_new_folder(
    data: Path, tmp_path: Path, drawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "det.safetensors").write_bytes(
        resolve("lumbar-yolov8n", task="detect").path.read_bytes()
    )
    namer = str(resolve("lumbar-namer", task="name").path)
    studies = studies_of(data, "train", "val")
    folds = [
        {"studies": studies[n::2], "detector": "det.safetensors", "namer": namer} for n in range(2)
    ]
    Path("folds.json").write_text(json.dumps({"folds": folds}))
    calibrate(NamingCalibrate(data=data, folds=(Path("folds.json"),), out=Path("out")))
    monkeypatch.chdir(tmp_path / "out")
    (first, _) = read_fold_weights([Path("fold_weights.json")])
    bundle = bundle_of(first.applied(ModelSettings()))
    assert bundle.detector.sha256 == resolve("lumbar-yolov8n", task="detect").sha256
    assert decoding_of(bundle).coefficients != COEFFICIENTS


def test_the_networks_themselves_run(data: Path, tmp_path: Path, run_cli: RunCli) -> None:
    """Real looks at two changes; too few to fit, and nothing is left behind."""
    with pytest.MonkeyPatch.context() as patch:
        few = {name: STRESSES[name] for name in ("plain", "gamma 2")}
        patch.setattr(calibrate_naming, "STRESSES", few)
        status, _, err = run_cli("naming", "calibrate", f"data={data}", f"out={tmp_path / 'o'}")
    assert status == 1
    assert "right and" in err
    assert "wanted at least 10 of each" in err
    assert not list(tmp_path.iterdir())


def test_another_detector_gets_the_default(
    data: Path, tmp_path: Path, drawn: None, caplog: pytest.LogCaptureFixture
) -> None:
    namer = calibrate(NamingCalibrate(data=data, out=tmp_path / "out")).namer
    described, tensors = read_described(resolve("lumbar-yolov8n", task="detect").path)
    other = tmp_path / "other.safetensors"
    other.write_bytes(pack_described(tensors, json.dumps({**described, "note": 1}), half=True))
    bundle = bundle_of(ModelSettings(detector=str(other), namer=str(namer)))
    assert decoding_of(bundle) == DecodeSettings()
    assert "fitted with another detector" in caplog.text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "cannot be used"),
        ({"coefficients": {"constant": 0, "margin": 1}, "detector": "x"}, "wanted constant"),
        ({"coefficients": {"constant": 0, "margin": -1, "score": 0}, "detector": "x"}, "more than"),
        ({"coefficients": {"constant": 0, "margin": "1", "score": 0}, "detector": "x"}, "a number"),
        ({"coefficients": {"constant": 0, "margin": 1, "score": 0}}, "detector"),
    ],
)
def test_damaged_coefficients_are_refused(tmp_path: Path, value: object, message: str) -> None:
    described, tensors = read_described(resolve("lumbar-namer", task="name").path)
    file = tmp_path / "namer.safetensors"
    changed = {**described, "naming_probability": value}
    file.write_bytes(pack_described(tensors, json.dumps(changed), half=True))
    with pytest.raises(WeightsError, match=message):
        Pipeline.from_settings(ModelSettings(namer=str(file)))


def test_what_cannot_be_calibrated(data: Path, tmp_path: Path, drawn: None) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="without a level reader"):
        calibrate(NamingCalibrate(data=data, out=out, namer="none"))
    with pytest.raises(ConfigError, match="part=all: with folds="):
        NamingCalibrate(data=data, out=out, part="all", folds=(tmp_path,))
    with pytest.raises(AnnotationError, match="in its test part; see part="):
        calibrate(NamingCalibrate(data=data, out=out, part="test"))
    with pytest.raises(ConfigError, match="decode=argmax"):
        NamingCalibrate(data=data, out=out, decode="argmax")
    some = json.dumps({"folds": [{"studies": ["nobody"], "weights": "default"}]})
    (tmp_path / "folds.json").write_text(some)
    with pytest.raises(ConfigError, match="in no fold"):
        calibrate(NamingCalibrate(data=data, out=out, folds=(tmp_path / "folds.json",)))
    assert not out.exists()


def test_a_fit_without_meaning_is_refused() -> None:
    """Namings that are right where their margin is small."""
    rows = [
        Row(str(n), str(n), "data", "plain", 11, n % 40 < 20, abstained=False, codes=(),
            probability=0.5, evidence={"margin": float(n % 40), "score": 40.0 + n % 3})
        for n in range(200)
    ]  # fmt: skip
    with pytest.raises(AnnotationError, match="has no meaning"):
        fit_coefficients(rows)


def test_a_spine_with_few_labels_is_left_out(data: Path, tmp_path: Path, drawn: None) -> None:
    """The phantoms have all levels; a dataset of five has nothing to calibrate on."""
    spine = draw_spine(0, (448, 448))
    assert len(spine.record.structures) == 11
    few = tmp_path / "few"
    for part in ("train", "val"):
        source = json.loads((data / "annotations" / f"{part}.json").read_text())
        source["annotations"] = [a for a in source["annotations"] if a["category_id"] <= 5]
        target = few / "annotations" / f"{part}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(source))
    (few / "images").symlink_to(data / "images")
    with pytest.raises(AnnotationError, match="at least 8 labelled levels"):
        calibrate(NamingCalibrate(data=few, out=tmp_path / "out"))
