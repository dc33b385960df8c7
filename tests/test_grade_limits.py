"""The scripts about the limits of grades: what they count, and that they run, on phantoms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import grades_between_slices as slices
import grades_stress as stress
import label_noise as noise
import labelled_grades as common
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from spineline.classify import load_classifier
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.files import write_json
from spineline.datasets.crops.extract import extract_crops
from spineline.datasets.labels import LEVELS

SIZE = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn studies with grades, two folds, and a classifier without training for each."""
    from spineline.classify.network.build import build_network
    from spineline.classify.network.layers import NetworkConfig
    from spineline.classify.network.weights_file import network_state, save_weights
    from spineline.datasets.crops.spec import CropSpec

    root = tmp_path_factory.mktemp("limits")
    (root / "FRAMES").mkdir()
    rng = np.random.default_rng(0)
    entries, points = [], []
    for number in range(6):
        image = rng.integers(0, 60, (SIZE, SIZE), dtype=np.uint8)
        spine, marks = [], {}
        for rank, level in enumerate(LEVELS):
            x, y = 60 + rank, 9 + 10 * rank
            grade = int(rng.integers(0, 2)) + (2 if "-" in level else 0)
            cv2.ellipse(image, (x, y), (9, 3), 0, 0, 360, 120 + 50 * (grade % 2), -1)
            v5 = int("-" in level and (rank + number) % 4 == 0)
            box = [x - 10.0, y - 7.0, x + 10.0, y + 7.0]
            spine.append({"identification": rank, "class": f"({grade},{v5})", "coord": [x, y],
                          "bbox": box})  # fmt: skip
            marks[level] = [x, y]
        entries.append({"id": f"{number:03d}-000", "point": spine})
        cv2.imwrite(str(root / "FRAMES" / f"{number:03d}-000.png"), image)
        offset = (number % 5 - 2) * 3
        points.append({"image": f"{number}.png", "patient": f"p{number // 5}", "offset": offset,
                       "points": marks})  # fmt: skip
        (root / "SPIDER" / "images").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "SPIDER" / "images" / f"{number}.png"), image)
    write_json(root / "LABELS.json", entries)
    write_json(root / "SPIDER" / "points.json", points)
    folds = []
    for fold in range(2):
        config = NetworkConfig("test_resnet", "both", 0, 0.0, 1, CropSpec(32, 1.0, "spine"))
        state = network_state(build_network(config, seed=fold))
        state = {k: v * 20 if k.startswith("heads") else v for k, v in state.items()}
        save_weights(root / f"c{fold}.safetensors", state, config)
        studies = [f"{n:03d}" for n in range(6) if n % 2 == fold]
        folds.append({"studies": studies, "classifier": f"c{fold}.safetensors"})
    write_json(root / "FOLDS.json", {"schema": "spineline-fold-weights/1", "folds": folds})
    return root


def words_of(folder: Path, out: Path, *more: str) -> list[str]:
    named = [f"labels={folder / 'LABELS.json'}", f"frames={folder / 'FRAMES'}"]
    return [*named, f"folds={folder / 'FOLDS.json'}", f"out={out}", "draws=20", *more]


def keys(folder: Path, out: Path) -> Any:
    return common.LabelledSettings(
        out=out, labels=folder / "LABELS.json", frames=folder / "FRAMES",
        folds=(folder / "FOLDS.json",), draws=20,
    )  # fmt: skip


# what is graded


def test_each_study_is_graded_by_the_classifier_that_did_not_see_it(
    folder: Path, tmp_path: Path
) -> None:
    data = common.read_labelled(keys(folder, tmp_path))
    answers = common.graded(data)
    assert [item.fold for item in data.images] == [0, 0, 0, 1, 1, 1]
    assert data.studies == ("000", "002", "004", "001", "003", "005")
    assert len(data.seven) == len(answers.seven) == 66
    item = data.images[4]  # study 003, of the second fold
    points = np.array([s.point_xy for s in item.structures])
    own = load_classifier(folder / "c1.safetensors")
    crops = extract_crops(item.spine.image, points, common.boxes_of(item.structures), own.crop)
    alone = own.grade(crops, [s.kind for s in item.structures])
    np.testing.assert_allclose(answers.seven[44:55], alone.seven, atol=1e-6)
    np.testing.assert_allclose(answers.binary[44:55], alone.binary, atol=1e-6)
    labels = json.loads((folder / "LABELS.json").read_text())[3]["point"]
    assert data.seven[44:55].tolist() == [int(p["class"][1]) for p in labels]
    assert data.binary[44:55].tolist() == [int(p["class"][3]) for p in labels]


def test_figures_are_those_of_classify_val(folder: Path, tmp_path: Path) -> None:
    """scikit-learn is behind the metrics; here they are of the right rows."""
    data = common.read_labelled(keys(folder, tmp_path))
    answers = common.graded(data)
    table, once = data.table(answers), np.ones((1, 6))
    found = {name: float(metric(table, once)[0][0]) for name, metric in common.METRICS.items()}
    disc = np.array([kind == "disc" for kind in data.kinds])
    assert found["seven accuracy"] == accuracy_score(data.seven, answers.seven.argmax(axis=1))
    assert found["V5 AUC"] == roc_auc_score(data.binary[disc] == 1, answers.binary[disc])
    assert found["vertebra AUC"] == roc_auc_score(data.seven[~disc] == 1, answers.seven[~disc, 1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["labels="], r"wanted labels=… and frames=…, or data=…"),
        (["folds=none.json"], "none.json"),
        (["fold=x"], "unknown key 'fold'; did you mean 'folds'"),
    ],
)
def test_keys_that_do_not_fit(folder: Path, tmp_path: Path, words: list[str], message: str) -> None:
    given = dict(w.partition("=")[::2] for w in words_of(folder, tmp_path / "out"))
    given.update(w.partition("=")[::2] for w in words)
    line = [f"{k}={v}" for k, v in given.items() if v]
    for script in (stress, noise):
        with pytest.raises(ConfigError, match=message):
            script.main(line)
    assert not (tmp_path / "out").exists()


# under stress


def test_boxes_are_shifted_by_their_larger_side() -> None:
    boxes = np.array([[10.0, 20.0, 50.0, 40.0], [0.0, 0.0, 10.0, 100.0]])
    found = {name: stress.shifted(boxes, shift) - boxes for name, shift in stress.SHIFTS.items()}
    assert found["box up"].tolist() == [[0, -2, 0, -2], [0, -5, 0, -5]]
    assert found["box right"].tolist() == [[2, 0, 2, 0], [5, 0, 5, 0]]


def test_every_stress_changes_what_is_graded(folder: Path, tmp_path: Path) -> None:
    item = common.read_labelled(keys(folder, tmp_path)).images[0]
    image, boxes = common.as_labelled(item)
    for name in stress.STRESSES:
        changed, moved = stress.look_of(name, 0)(item)
        again, _ = stress.look_of(name, 0)(item)
        assert np.array_equal(changed, again)
        same = np.array_equal(changed, image), np.array_equal(moved, boxes)
        shifts = name.startswith("box")
        assert same == ((True, True) if name == "plain" else (shifts, not shifts)), name


def test_the_difference_is_paired() -> None:
    plain, other = np.array([0.8, 0.7, 0.9]), np.array([0.75, 0.65, 0.85])
    found = common.difference(other, plain, 5)
    assert found["value"] == pytest.approx(-0.05)
    assert found["ci95"] == pytest.approx([-0.05, -0.05])  # though the values themselves vary
    assert found["clear"]
    assert common.signed_text(found) == "**-0.050 (-0.050 … -0.050)**"
    assert not common.difference(plain, plain, 5)["clear"]


def test_stress_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "out", tmp_path / "page.md"
    stress.main(words_of(folder, out, f"page={page}"))
    found = json.loads((out / "grades_stress.json").read_text())
    assert tuple(found["stresses"]) == stress.STRESSES
    assert found["data"] == "6 studies, 66 labelled structures"
    assert "difference" not in found["stresses"]["plain"]["disc AUC"]
    apart = found["stresses"]["noise"]["disc AUC"]
    plain = found["stresses"]["plain"]["disc AUC"]["value"]
    assert apart["difference"]["value"] == pytest.approx(apart["value"] - plain, abs=2e-6)
    assert "spineline:grades-stress" in page.read_text()
    assert (out / "grades_stress.md").read_text().strip() in page.read_text()


# noise of labels


def test_confident_joint_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1])
    of_one = np.array([0.1, 0.2, 0.9, 0.8, 0.6])
    p = np.stack([1 - of_one, of_one], axis=1)
    # thresholds: 0.6 of class 0 (0.9, 0.8, 0.1), 0.7 of class 1: the last reaches neither
    joint = noise.confident_joint(labels, p, np.ones(5))
    np.testing.assert_allclose(joint, [[2, 1], [0, 2]])
    np.testing.assert_allclose(noise.noise_of(joint), [1 / 3, 0])
    assert noise.oracle_auc(joint) == pytest.approx((2 / 3 + 1) / 2)
    twice = noise.confident_joint(labels, p, np.array([1, 1, 2, 1, 1]))
    repeated = np.array([0, 1, 2, 2, 3, 4])
    np.testing.assert_allclose(
        twice, noise.confident_joint(labels[repeated], p[repeated], np.ones(6))
    )


def test_confident_joint_agrees_with_cleanlab() -> None:
    count = pytest.importorskip("cleanlab.count", reason="cleanlab is not installed")
    rng = np.random.default_rng(0)
    positive = rng.random(400)
    p = np.stack([1 - positive, positive], axis=1)
    labels = (rng.random(400) < 0.2 + 0.6 * positive).astype(np.int64)
    theirs = count.compute_confident_joint(labels, p, calibrate=False).astype(float)
    theirs *= (np.bincount(labels) / theirs.sum(axis=1))[:, None]
    np.testing.assert_allclose(noise.confident_joint(labels, p, np.ones(400)), theirs)


def test_noise_that_was_put_in_is_found() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 20000)
    flips = rng.random(20000) < np.where(truth == 1, 0.3, 0.1)
    labels = np.where(flips, 1 - truth, truth)
    sure = np.where(truth == 1, 0.97, 0.03)
    p = np.stack([1 - sure, sure], axis=1)
    found = noise.noise_of(noise.confident_joint(labels, p, np.ones(20000)))
    wanted = [(truth[labels == k] != k).mean() for k in (0, 1)]
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    oracle = noise.oracle_auc(noise.confident_joint(labels, p, np.ones(20000)))
    assert oracle == pytest.approx(roc_auc_score(labels, truth))
    question = noise.Question(("a", "b"), np.zeros(20000, np.int64), labels, p)
    none = noise.noise_of(noise.null_joint(question, 1, 0))
    assert (none < 0.04).all()  # where no label is wrong, next to none is found


def test_a_class_without_labels_has_no_noise() -> None:
    joint = noise.confident_joint(np.zeros(3, np.int64), np.full((3, 2), 0.5), np.ones(3))
    np.testing.assert_allclose(noise.noise_of(joint), [0, np.nan])


def test_rates_bound_the_auc() -> None:
    """Half of the first habit's 40 V5 of 100 are invented if 20 % is right, and so on."""
    found = noise.rate_bounds({"a": (40, 100), "b": (20, 100)})
    assert found["a"]["rate"] == 0.4
    labels = np.repeat([1, 0], [20, 80])
    truth = np.repeat([1, 0], [40, 60])  # b misses half of them
    assert found["a"]["auc"]["b"] == pytest.approx(roc_auc_score(labels, truth), abs=1e-6)
    assert found["a"]["auc"]["a"] == 1.0
    assert found["b"]["auc"]["a"] == pytest.approx(0.75)
    pooled = roc_auc_score(
        np.concatenate([np.repeat([1, 0], [40, 60]), labels]), np.concatenate([truth, truth])
    )
    assert found["a"]["auc"]["all"] == pytest.approx(pooled, abs=1e-6)


def test_noise_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    noise.main(words_of(folder, out, "boundary=2"))
    found = json.loads((out / "label_noise.json").read_text())
    assert list(found["noise"]) == ["up to 2", "after 2", "all"]
    shares = [found["figures"][n]["v5_share"] for n in found["noise"]]
    labels = json.loads((folder / "LABELS.json").read_text())
    discs = [int(p["class"][3]) for e in labels[:3] for p in e["point"][::2]]
    assert shares[0] == pytest.approx(np.mean(discs), abs=1e-6)
    assert [found["figures"][n]["studies"] for n in found["noise"]] == [3, 3, 6]
    assert found["crossed"] == {}
    classes = found["noise"]["all"]["classes"]
    assert classes["disc-extrusion"]["n"] == 0
    assert classes["disc-extrusion"]["value"] is None
    text = (out / "label_noise.md").read_text()
    assert "| disc-extrusion" in text
    assert "no label" in text
    with pytest.raises(ConfigError, match="all studies lie on one side"):
        noise.main(words_of(folder, tmp_path / "x", "boundary=99"))
    assert not (tmp_path / "x").exists()


def test_a_classifier_of_each_habit_is_tested_on_the_other(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What trains is replaced; what is trained on and tested is looked at."""
    commands = []

    def train(out: Path, *words: str, made: Path | None = None) -> None:
        commands.append(words)
        if made is not None:
            made.parent.mkdir(parents=True)
            made.write_bytes((folder / "c0.safetensors").read_bytes())

    monkeypatch.setattr(noise, "once", train)
    out, runs = tmp_path / "out", tmp_path / "runs"
    noise.main(words_of(folder, out, "boundary=2", f"runs={runs}"))
    assert [words[:2] for words in commands] == [("convert", "report"), ("classify", "train")] * 2
    split = json.loads((runs / "split-up-to-2.json").read_text())
    assert split == {"train": ["000", "001", "002"], "val": [], "test": ["003", "004", "005"]}
    found = json.loads((out / "label_noise.json").read_text())["crossed"]
    first = found["up to 2, tested after 2"]
    assert (first["fitted"], first["tested"]) == ("up to 2", "after 2")
    data = common.read_labelled(keys(folder, tmp_path))
    alone = [load_classifier(folder / "c0.safetensors")] * 2
    answers = common.graded(replace(data, classifiers=tuple(alone)))
    late = np.array([int(data.studies[n]) > 2 for n in data.study])
    wanted = accuracy_score(data.seven[late], answers.seven[late].argmax(axis=1))
    assert first["seven accuracy"]["value"] == pytest.approx(wanted, abs=1e-6)


# neighbouring slices


def test_flips_and_sides_by_hand() -> None:
    places = [slices.Place("p", "L4-L5", offset) for offset in (6, -6, 0, -3, 3)]
    assert slices.by_level(places) == {("p", "L4-L5"): [1, 3, 2, 4, 0]}
    assert slices._sides(places, [1, 3, 2, 4, 0]) == ([1, 3], [4, 0])
    assert slices._sides(places, [1, 2, 4, 0]) is None
    one, other = (
        slices.Answers(np.eye(7)[[2, 3]], np.array(v5), np.array(abnormal))
        for v5, abnormal in (([0.4, 0.6], [0.2, 0.9]), ([0.6, 0.6], [0.4, 0.3]))
    )
    found = slices.flipped(one, other)
    assert {name: flips.tolist() for name, flips in found.items()} == {
        "grade": [False, False], "normal or abnormal": [False, True], "V5 or not": [True, False],
    }  # fmt: skip
    mean = one.mean([np.array([0, 1])])
    assert mean.v5.tolist() == [0.5]
    assert mean.seven[0].tolist() == [0, 0, 0.5, 0.5, 0, 0, 0]


def test_slices_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    two = f"{folder / 'c0.safetensors'},{folder / 'c1.safetensors'}"
    slices.main([f"external={folder / 'SPIDER'}", f"classifiers={two}", f"out={out}", "draws=20"])
    found = json.loads((out / "grades_between_slices.json").read_text())
    assert list(found["classifiers"]) == ["c0", "c1", "mean of all"]
    assert found["data"] == "6 slices of 2 patients, 66 places"
    disc = found["classifiers"]["c0"]["disc"]
    assert disc["flips"]["grade"]["n"] == 6 * 4  # five slices of one patient, six discs
    assert disc["mean of a side"]["grade"]["n"] == 6
    assert disc["spread"]["abnormal"]["n"] == 6
    assert "correctness is not known" in (slices.__doc__ or "")
    assert "whether a grade is right is not" in (out / "grades_between_slices.md").read_text()
    with pytest.raises(ConfigError, match=r"holds no points\.json"):
        slices.main([f"external={folder}", f"out={tmp_path / 'x'}"])
