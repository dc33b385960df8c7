from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spineline.datasets.common.errors import AnnotationError, ConfigError
from spineline.datasets.dataset import load_dataset
from spineline.datasets.splits import (
    fold_folders,
    fold_strata,
    fold_studies,
    parted_patients,
    records_by_part,
    split_by_train_ratio,
    split_studies,
    write_manifest,
)
from spineline.datasets.types import ImageRecord, Structure

STUDIES = [f"{n:03d}" for n in range(100, 200)]


def sizes(parts: dict[str, str]) -> list[int]:
    return [list(parts.values()).count(part) for part in ("train", "val", "test")]


@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        ("train", [100, 0, 0]),
        ("test", [0, 0, 100]),
        ("report", [51, 0, 49]),
        ("0.67", [67, 33, 0]),
        ("0.7,0.15,0.15", [70, 15, 15]),
        ("0.5,0.5", [50, 50, 0]),
    ],
)
def test_sizes(split, wanted):
    assert sizes(split_studies(STUDIES, split)) == wanted


def test_a_train_ratio_rounds_down_as_the_older_project_did():
    studies = [f"img_{n}" for n in range(328)]
    parts = split_by_train_ratio(studies, 0.67, seed=3)
    assert sizes(parts) == [219, 109, 0]
    assert parts == split_by_train_ratio(studies[::-1] * 2, 0.67, seed=3)
    assert parts != split_by_train_ratio(studies, 0.67, seed=4)


def test_ratio_follows_the_seed_and_not_the_order():
    first = split_studies(STUDIES, "0.5", seed=1)
    assert first == split_studies(STUDIES[::-1] * 2, "0.5", seed=1)
    assert first != split_studies(STUDIES, "0.5", seed=2)
    assert list(first) == STUDIES


def test_manifest_round_trip(tmp_path):
    parts = split_studies(STUDIES, "0.7,0.2,0.1", seed=5)
    (tmp_path / "split.json").write_text(write_manifest(parts))
    assert split_studies(STUDIES, str(tmp_path / "split.json")) == parts


def test_manifest_of_parts_by_study(tmp_path):
    parts = {"100": "val", "101": "train"}
    (tmp_path / "split.json").write_text(json.dumps(parts))
    assert split_studies(["100", "101"], str(tmp_path / "split.json")) == parts


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("1.5", "between 0 and 1"),
        ("0", "between 0 and 1"),
        ("0.7,0.7", "add up to 1"),
        ("0.5.5", "not a ratio"),
        ("half", "readable manifest"),
        ("reprt", "did you mean 'report'"),
    ],
)
def test_splits_that_are_none(split, message):
    with pytest.raises(ConfigError, match=message):
        split_studies(STUDIES, split)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["100"], "val": ["100", "101"]}, "'100' is named more than once"),
        ({"train": ["100"]}, "names no part for 1 studies, such as '101'"),
        ([], "readable manifest"),
        ({"train": 5}, "readable manifest"),
    ],
)
def test_manifests_that_do_not_fit(tmp_path, content, message):
    (tmp_path / "split.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        split_studies(["100", "101"], str(tmp_path / "split.json"))


@pytest.mark.parametrize("study", ["abc", "1.2.826.0.1.3680043.8.498.1"], ids=["word", "UID"])
def test_report_split_needs_a_study_number(study):
    with pytest.raises(ConfigError, match="has no number in its name"):
        split_studies([study], "report")


def test_report_split_reads_the_number_of_a_folder():
    assert split_studies(["study150", "study151"], "report") == {
        "study150": "train",
        "study151": "test",
    }


def test_folds_are_even_within_each_stratum():
    strata = {study: "rare" if n < 9 else "common" for n, study in enumerate(STUDIES)}
    folds = fold_studies(STUDIES, 3, seed=4, strata=strata)
    assert sorted(list(folds.values()).count(n) for n in range(3)) == [33, 33, 34]
    rare = [folds[study] for study in STUDIES[:9]]
    assert [rare.count(n) for n in range(3)] == [3, 3, 3]
    assert folds != fold_studies(STUDIES, 3, seed=5, strata=strata)


@pytest.mark.parametrize("k", [1, 3])
def test_folds_that_cannot_be(k):
    with pytest.raises(ConfigError, match=f"kfold={k}"):
        fold_studies(["a", "b"], k)


def test_images_of_a_study_stay_together():
    records = [ImageRecord(f"{s}-{n}", s, 9, 9, ()) for s in STUDIES for n in range(2)]
    parts = records_by_part(records, split_studies(STUDIES, "0.5"))
    train = {r.study_id for r in parts["train"]}
    assert not train & {r.study_id for r in parts["val"]}
    assert len(parts["train"]) == 2 * len(train)


def folder_with(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


def test_folds_are_taken_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = [f"fold{n}" for n in range(11)]
    folder_with(tmp_path, *sorted(names), "foldings")
    assert [path.name for path in fold_folders(tmp_path)] == names
    (tmp_path / "folds.json").write_text("{}")
    assert len(fold_folders(tmp_path / "folds.json")) == 11


@pytest.mark.parametrize("names", [(), ("annotations", "fold0", "fold2"), ("images",)])
def test_a_dataset_is_no_folder_of_folds(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert fold_folders(folder_with(tmp_path, *names)) == ()


@pytest.mark.parametrize(
    ("names", "missing"),
    [(("fold0", "fold2"), "fold1"), (("fold1",), "fold0"), (("fold0", "fold1", "fold3"), "fold2")],
)
def test_a_missing_fold_is_named_by_whoever_is_given_the_folder_with(
    tmp_path: Path, names: tuple[str, ...], missing: str
) -> None:
    folder_with(tmp_path, *names)
    for read in (fold_folders, load_dataset):
        with pytest.raises(AnnotationError, match=f"{missing} is missing among its"):
            read(tmp_path)


def test_strata_count_v5_up_to_two() -> None:
    def record(name: str, study: str, *tags: tuple[str, ...]) -> ImageRecord:
        levels = ("T12-L1", "L1-L2", "L2-L3")
        structures = tuple(
            Structure(level, "disc", (5, 5), (0, 0, 9, 9), tag)
            for level, tag in zip(levels, tags, strict=False)
        )
        return ImageRecord(name, study, 10, 10, structures)

    records = [
        record("a", "a", ("v1",), ("v2",)),
        record("b", "b", ("v5",)),
        record("c", "c", ("v5",), ("v1", "v5")),
        record("c-2", "c", ("v2", "v5")),
    ]
    assert fold_strata(records) == {"a": "0", "b": "1", "c": "2"}


def strata_of(studies: list[str]) -> dict[str, str]:
    return {study: str(int(study) % 3) for study in studies}


@pytest.mark.parametrize("seed", range(3))
def test_without_patients_the_draw_is_the_plain_one(seed: int) -> None:
    order = [STUDIES[i] for i in np.random.default_rng(seed).permutation(len(STUDIES))]
    parts = split_studies(STUDIES, "0.6,0.25,0.15", seed=seed, patients={})
    wanted = dict(zip(order, ["train"] * 60 + ["val"] * 25 + ["test"] * 15, strict=True))
    assert parts == wanted
    strata = strata_of(STUDIES)
    order.sort(key=strata.__getitem__)
    folds = fold_studies(STUDIES, 7, seed=seed, strata=strata)
    assert folds == {study: n % 7 for n, study in enumerate(order)}


@pytest.mark.parametrize("seed", range(5))
def test_patients_are_never_parted_and_sizes_stay_even(seed: int) -> None:
    rng = np.random.default_rng(seed)
    patients = {study: f"p{rng.integers(0, 40)}" for study in STUDIES[:90]}
    parts = split_studies(STUDIES, "0.6,0.2,0.2", seed=seed, patients=patients)
    assert parted_patients(patients, parts) == []
    most = max(list(patients.values()).count(p) for p in set(patients.values()))
    assert np.abs(np.subtract(sizes(parts), (60, 20, 20))).max() <= most
    folds = fold_studies(STUDIES, 4, seed=seed, strata=strata_of(STUDIES), patients=patients)
    assert parted_patients(patients, folds) == []
    counts = [list(folds.values()).count(n) for n in range(4)]
    assert max(counts) - min(counts) <= most


def test_more_folds_than_patients_are_refused() -> None:
    patients = {study: str(int(study) % 3) for study in STUDIES}
    with pytest.raises(ConfigError, match=r"wanted 2 … 3, the number of patients \(100 studies\)"):
        fold_studies(STUDIES, 4, patients=patients)
