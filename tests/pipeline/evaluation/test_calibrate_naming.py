"""``naming calibrate``: the probability of names for one's own networks, and where it applies."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from spineline.datasets.common.errors import AnnotationError, ConfigError, WeightsError
from spineline.datasets.labels import LEVELS
from spineline.datasets.networks.tensors import pack_described, read_described
from spineline.datasets.phantoms.phantom import draw_spine
from spineline.pipeline.evaluation import calibrate_naming, naming_stress
from spineline.pipeline.evaluation.calibrate_naming import calibrate, checked_fit
from spineline.pipeline.evaluation.fold_weights import read_fold_weights
from spineline.pipeline.evaluation.naming_stress import StressRow, name_changed_spine
from spineline.pipeline.evaluation.settings import NamingCalibrate
from spineline.pipeline.evaluation.stress_set import STRESSES, LabelledSpine, level_distance_px
from spineline.pipeline.inference import pipeline as inference
from spineline.pipeline.inference.decode import DecodeSettings
from spineline.pipeline.inference.naming import COEFFICIENTS, NamingCoefficients, NamingEvidence
from spineline.pipeline.inference.pipeline import Pipeline, bundle_of, decoding_of
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.inference.sources.frame import Frame
from spineline.weights import resolve

TRUE = NamingCoefficients(constant=-4.0, margin=0.2, score=0.02)
"""By these, the drawn namings are right."""

OWN = "lumbar-yolov8n,lumbar-grades,lumbar-namer"
"""Networks named one by one, as one's own are."""

RunCli = Callable[..., tuple[int, str, str]]


def drawn_row(pipeline: Pipeline, spine: LabelledSpine, stress: str, *, seed: int) -> StressRow:
    """A naming whose evidence is drawn; no network runs."""
    rng = np.random.default_rng([*spine.name.encode(), *stress.encode(), seed])
    evidence = NamingEvidence(rng.uniform(0, 40), rng.uniform(20, 60))
    right = bool(rng.random() < evidence.probability(TRUE))
    stated = evidence.probability(pipeline.decoding.coefficients)
    found = {"margin": evidence.margin, "score": evidence.score}
    return StressRow(
        spine.name, spine.patient, spine.source, stress, 11, right,
        abstained=False, codes=(), probability=stated, evidence=found,
    )  # fmt: skip


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming_stress, "name_changed_spine", drawn_row)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted dataset of eight phantoms, half of them in val."""
    from spineline.pipeline.cli.main import main

    folder = tmp_path_factory.mktemp("data")
    drawn = folder / "drawn"
    words = [f"annotations={drawn / 'report_labels.json'}", f"images={drawn / 'frames'}"]
    assert main(["data", "phantom", f"out={drawn}", "n=8", "format=png"]) == 0
    assert main(["convert", "report", *words, f"out={folder / 'd'}", "split=0.5"]) == 0
    return folder / "d"


def studies_of(data: Path, *parts: str) -> list[str]:
    files = [data / "annotations" / f"{part}.json" for part in parts]
    return [image["study_id"] for file in files for image in json.loads(file.read_text())["images"]]


def test_the_fit_is_stored_and_applies(data: Path, tmp_path: Path, drawn: None) -> None:
    found = calibrate(NamingCalibrate(data=data, out=tmp_path / "out"))
    files = {path.name for path in found.out.iterdir()}
    assert files == {
        "namer.safetensors", "metrics.json", "rows.json", "reliability.png", "run.yaml",
    }  # fmt: skip
    assert found.coefficients.margin == pytest.approx(TRUE.margin, abs=0.08)
    stored = json.loads((found.out / "metrics.json").read_text())
    assert stored["fitted"] == found.metrics["fitted"]
    assert stored["fitted"]["all"]["spines"] == len(STRESSES) * len(studies_of(data, "val"))
    assert stored["fitted"]["all"]["ece"] < stored["default"]["all"]["ece"]
    settings = ModelSettings(namer=str(found.namer))
    for runtime in ("auto", "torch"):
        pipeline = Pipeline.from_settings(replace(settings, runtime=runtime))
        assert pipeline.decoding == DecodeSettings(coefficients=found.coefficients)
    given = load_file(resolve("lumbar-namer", task="name").path)
    written = load_file(found.namer)
    assert given.keys() == written.keys()
    assert all(np.array_equal(given[name], written[name]) for name in given)


def test_a_second_fit_takes_the_rows_of_the_first(
    data: Path, tmp_path: Path, drawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = calibrate(NamingCalibrate(data=data, out=tmp_path / "first"))
    monkeypatch.setattr(calibrate_naming, "named_spines", None)
    again = NamingCalibrate(data=data, out=tmp_path / "again", rows=first.out / "rows.json")
    second = calibrate(replace(again, min_naming_probability=0.5))
    assert second.coefficients == first.coefficients
    assert second.metrics["fitted"]["all"]["coverage"] > first.metrics["fitted"]["all"]["coverage"]
    assert second.namer.read_bytes() == first.namer.read_bytes()
    assert (second.out / "rows.json").read_bytes() == (first.out / "rows.json").read_bytes()
    other = replace(again, out=tmp_path / "other")
    for keys in ({"seed": 1}, {"part": "all"}, {"namer": str(first.namer)}, {"iou": 0.3}):
        with pytest.raises(ConfigError, match=r"other data, networks or folds, or another value"):
            calibrate(replace(other, **keys))
    with pytest.raises(ConfigError, match="threads=: no networks run with rows="):
        calibrate(replace(other, threads=2))
    for damage in (tmp_path / "none.json", first.out / "metrics.json"):
        with pytest.raises(ConfigError, match=r"not a rows\.json of naming calibrate"):
            calibrate(replace(other, rows=damage))
    assert not other.out.exists()


@pytest.mark.parametrize(
    "keys",
    [{"slices": 3}, {"crop_boxes": "detector"}, {"force": True}, {"classifier": "lumbar-grades"}],
    ids=str,
)
def test_keys_without_effect_are_refused(
    data: Path, tmp_path: Path, keys: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(keys))}=.*: changes nothing here"):
        calibrate(NamingCalibrate(data=data, out=tmp_path / "out", **keys))


def test_threads_reach_the_networks(
    data: Path, tmp_path: Path, drawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of ONNX Runtime when they are loaded, torch's while they run."""
    loaded: list[int] = []
    set_for: list[int] = []
    whole = inference.load_by_graphs

    def watched(bundle: object, form: object, threads: int) -> object:
        loaded.append(threads)
        return whole(bundle, form, threads)  # type: ignore[arg-type]

    monkeypatch.setattr(inference, "load_by_graphs", watched)
    monkeypatch.setattr(
        calibrate_naming, "torch_threads", lambda count: nullcontext(set_for.append(count))
    )
    calibrate(NamingCalibrate(data=data, out=tmp_path / "a", threads=2))
    calibrate(NamingCalibrate(data=data, out=tmp_path / "b"))
    assert (loaded[0], set_for) == (2, [2])


def test_all_parts_for_networks_that_saw_none(data: Path, tmp_path: Path, drawn: None) -> None:
    found = calibrate(NamingCalibrate(data=data, part="all", out=tmp_path / "out"))
    studies = studies_of(data, "train", "val")
    assert found.metrics["fitted"]["plain"]["spines"] == len(studies) == 8


def test_with_folds_each_is_judged_by_the_others(
    data: Path, tmp_path: Path, drawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = studies_of(data, "train", "val")
    folds = [{"studies": studies[n::2], "weights": "default"} for n in range(2)]
    given = tmp_path / "folds.json"
    given.write_text(json.dumps({"schema": "spineline-fold-weights/1", "folds": folds}))
    fitted: list[set[str]] = []

    def watched(rows: list[StressRow], without: str) -> NamingCoefficients:
        fitted.append({row.patient for row in rows})
        return checked_fit(rows, without)

    monkeypatch.setattr(calibrate_naming, "checked_fit", watched)
    out = tmp_path / "deep" / "out"
    calibrate(NamingCalibrate(data=data, folds=(given,), weights=OWN, out=out))
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
    keys = {"data": data, "folds": (Path("folds.json"),), "weights": OWN}
    (tmp_path / "elsewhere").mkdir()
    Path("link").symlink_to("elsewhere")
    calibrate(NamingCalibrate(**keys, out=Path("link/out")))
    monkeypatch.chdir(tmp_path / "elsewhere" / "out")
    (first, _) = read_fold_weights([Path("fold_weights.json")])
    bundle = bundle_of(first.applied(ModelSettings()))
    assert bundle.detector.sha256 == resolve("lumbar-yolov8n", task="detect").sha256
    assert decoding_of(bundle).coefficients != COEFFICIENTS


def test_the_networks_themselves_run(data: Path, tmp_path: Path, run_cli: RunCli) -> None:
    """Real looks at two changes; too few to fit, and nothing is left behind."""
    with pytest.MonkeyPatch.context() as patch:
        few = {name: STRESSES[name] for name in ("plain", "gamma 2")}
        patch.setattr(naming_stress, "STRESSES", few)
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
        ({"coefficients": {"constant": 10**400, "margin": 1, "score": 0}, "detector": "x"}, "num"),
        ({"coefficients": {"constant": 0, "margin": 1, "score": 0}}, "'detector' is missing"),
    ],
)
def test_damaged_coefficients_are_refused(tmp_path: Path, value: object, message: str) -> None:
    described, tensors = read_described(resolve("lumbar-namer", task="name").path)
    file = tmp_path / "namer.safetensors"
    changed = {**described, "naming_probability": value}
    file.write_bytes(pack_described(tensors, json.dumps(changed), half=True))
    with pytest.raises(WeightsError, match=message):
        Pipeline.from_settings(ModelSettings(namer=str(file)))


def test_networks_that_give_no_name_have_no_share(
    data: Path, tmp_path: Path, drawn: None, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    with caplog.at_level("INFO"):
        calibrate(NamingCalibrate(data=data, out=out, min_naming_probability=1.0))
    stored = json.loads((out / "metrics.json").read_text())
    assert stored["fitted"]["all"]["coverage"] == 0
    assert stored["fitted"]["all"]["right_of_named"] is None
    assert "of these right -" in caplog.text


def test_a_calibration_can_be_repeated(data: Path, tmp_path: Path) -> None:
    """What the level reader's file already says decides nothing, not even about a second look."""
    described, tensors = read_described(resolve("lumbar-namer", task="name").path)
    detector = resolve("lumbar-yolov8n", task="detect").sha256
    unsure = {"constant": -9.0, "margin": 0.001, "score": 0.0}
    values = {"coefficients": unsure, "detector": detector}
    calibrated = tmp_path / "namer.safetensors"
    text = json.dumps({**described, "naming_probability": values})
    calibrated.write_bytes(pack_described(tensors, text, half=True))
    spine = draw_spine(0, (448, 448))
    points = {s.level: s.point_xy for s in spine.record.structures}
    labelled = LabelledSpine("a", "a", "data", spine.pixels, points)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(naming_stress, "STRESSES", {"plain": STRESSES["plain"]})
        keys = {"data": data, "out": tmp_path / "out", "runtime": "torch"}
        rows = [
            calibrate_naming._named(NamingCalibrate(**keys, namer=name), [labelled])
            for name in (str(calibrated), "lumbar-namer")
        ]
    assert rows[0][0].evidence == pytest.approx(rows[1][0].evidence)
    assert rows[0][0].probability == pytest.approx(rows[1][0].probability)


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
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    with pytest.raises(ConfigError, match="is an exported bundle; calibrate the networks"):
        calibrate(NamingCalibrate(data=data, out=out, weights=str(bundle)))
    assert not out.exists()


@pytest.mark.parametrize(
    ("folds", "keys", "message"),
    [
        ([{"studies": ["a"], "weights": "default"}], {}, "one fold; wanted two or more"),
        ([{"weights": "default"}, {"detector": "lumbar-yolov8n"}], {}, "fold 1: names no level"),
        ([{"weights": "default"}] * 2, {"weights": "default"}, "say which networks"),
        (
            [{"studies": ["x"], "weights": "default"}, {"studies": ["y"], "weights": "default"}],
            {},
            r"in no fold, such as '\w+' \(the folds hold 2, such as 'x'\)$",
        ),
        (
            [{"weights": "default"}, {"studies": ["y"], "weights": "default"}],
            {},
            "no spine of fold 1 is in data=",
        ),
    ],
)
def test_folds_that_show_nothing_are_refused_at_once(
    data: Path, tmp_path: Path, folds: list[dict[str, object]], keys: dict[str, str], message: str
) -> None:
    """Before any network runs: nothing is drawn here."""
    studies = studies_of(data, "train", "val")
    several = sum("studies" not in fold for fold in folds)
    rest = iter(range(several))
    whole = [{"studies": studies[next(rest) :: several], **fold} if "studies" not in fold else fold
             for fold in folds]  # fmt: skip
    (tmp_path / "folds.json").write_text(json.dumps({"folds": whole}))
    given = {"weights": OWN, **keys}
    with pytest.raises((ConfigError, AnnotationError), match=message):
        calibrate(
            NamingCalibrate(
                data=data, folds=(tmp_path / "folds.json",), out=tmp_path / "out", **given
            )
        )


def test_the_window_is_that_of_the_pipeline() -> None:
    """``window=none`` takes an image as it is."""
    seen: list[np.ndarray] = []

    class Watches:
        settings = ModelSettings(window="none")

        def analyse(self, frames: list[Frame]) -> list[object]:
            seen.append(frames[0].image)
            raise InterruptedError

    dark = np.full((300, 200), 40, np.uint8)
    dark[100:200] = 90
    points = {level: (100.0, 20.0 + 20 * rank) for rank, level in enumerate(LEVELS)}
    spine = LabelledSpine("a", "a", "data", dark, points)
    for window in ("none", "percentile"):
        Watches.settings = ModelSettings(window=window)
        with pytest.raises(InterruptedError):
            name_changed_spine(Watches(), spine, "plain", seed=0)  # type: ignore[arg-type]
    assert np.array_equal(seen[0], dark)
    assert seen[1].max() == 255


def test_a_spine_with_gaps_in_its_labels_can_be_changed() -> None:
    points = {level: (100.0, 20.0 + 20 * rank) for rank, level in enumerate(LEVELS)}
    some = {k: xy for n, (k, xy) in enumerate(points.items()) if n not in (5, 7, 9)}
    spine = LabelledSpine("a", "a", "data", np.zeros((300, 200), np.uint8), some)
    for change in STRESSES.values():
        changed = change(spine, np.random.default_rng(0))
        assert level_distance_px(changed) > 0
    assert level_distance_px(spine) == 20


def test_a_fit_without_meaning_is_refused() -> None:
    """Namings that are right where their margin is small."""
    rows = [
        StressRow(str(n), str(n), "data", "plain", 11, n % 40 < 20, abstained=False, codes=(),
            probability=0.5, evidence={"margin": float(n % 40), "score": 40.0 + n % 3})
        for n in range(200)
    ]  # fmt: skip
    with pytest.raises(AnnotationError, match="has no meaning"):
        checked_fit(rows, "")


@pytest.mark.parametrize("few", [1, 4])
def test_a_spine_with_few_labels_is_left_out(
    data: Path, tmp_path: Path, drawn: None, few: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Of ``few`` of the four spines in val, five levels are labelled."""
    copy = tmp_path / "copy"
    (copy / "annotations").mkdir(parents=True)
    (copy / "images").symlink_to(data / "images")
    for part in ("train", "val"):
        source = json.loads((data / "annotations" / f"{part}.json").read_text())
        short = {image["id"] for image in source["images"][:few]}
        source["annotations"] = [
            a for a in source["annotations"] if a["image_id"] not in short or a["category_id"] <= 5
        ]
        (copy / "annotations" / f"{part}.json").write_text(json.dumps(source))
    settings = NamingCalibrate(data=copy, out=tmp_path / "out")
    if few == 4:
        with pytest.raises(AnnotationError, match="at least 8 labelled levels in its val part"):
            calibrate(settings)
        return
    assert calibrate(settings).metrics["fitted"]["plain"]["spines"] == 3
    assert "1 of 4 images are left out: fewer than 8 labelled levels" in caplog.text
