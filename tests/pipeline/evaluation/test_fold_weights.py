"""Weights by fold: the file, joined files, how studies are found in it, and ``pipeline val``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.dicom.study import scan
from spineline.datasets.types import ImageRecord
from spineline.pipeline.evaluation.fold_weights import (
    FOLD_WEIGHTS_FILE,
    FoldWeights,
    fold_by_study,
    read_fold_weights,
    write_fold_weights,
)
from spineline.pipeline.evaluation.settings import PipelineVal


def record(study: str, *, uid: str | None = None, image: str | None = None) -> ImageRecord:
    return ImageRecord(image or f"{study}-000", study, 10, 10, (), study_uid=uid)


def fold(*studies: str, uids: tuple[str | None, ...] = (), **models: object) -> FoldWeights:
    return FoldWeights(studies, uids or (None,) * len(studies), models)


def written(path: Path, *folds: dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"folds": list(folds)}))
    return path


def test_what_is_written_is_read_again(tmp_path) -> None:
    folds = (
        fold("a", "b", uids=("1.2", None), detector="registry-name", confidence=0.5),
        fold("c", detector="other"),
    )
    write_fold_weights(tmp_path / FOLD_WEIGHTS_FILE, folds)
    assert read_fold_weights([tmp_path / FOLD_WEIGHTS_FILE]) == folds
    assert read_fold_weights([tmp_path]) == folds


def test_files_are_looked_for_beside_the_folds(tmp_path, monkeypatch) -> None:
    (tmp_path / "runs" / "fold0").mkdir(parents=True)
    (tmp_path / "runs" / "fold0" / "d.safetensors").touch()
    file = written(
        tmp_path / "runs" / "f.json",
        {"studies": ["a"], "detector": "fold0/d.safetensors", "weights": "x,fold0/d.safetensors"},
    )
    monkeypatch.chdir(tmp_path)
    found = read_fold_weights([file])[0]
    beside = str(tmp_path / "runs" / "fold0" / "d.safetensors")
    assert found.models == {"detector": beside, "weights": f"x,{beside}"}
    settings = PipelineVal(data=Path("d"), out=Path("o"), classifier="mine")
    applied = found.applied(settings)
    assert (applied.detector, applied.classifier, applied.out) == (beside, "mine", Path("o"))


def test_two_files_are_joined_whatever_the_order_of_their_folds(tmp_path) -> None:
    first = written(
        tmp_path / "d.json",
        {"studies": ["a", "b"], "detector": "d0"},
        {"studies": ["c"], "detector": "d1"},
    )
    second = written(
        tmp_path / "c.json",
        {"studies": ["c"], "study_uids": ["1.3"], "classifier": "c1"},
        {"studies": ["b", "a"], "study_uids": ["1.2", "1.1"], "classifier": "c0"},
    )
    assert read_fold_weights([first, second]) == (
        fold("a", "b", uids=("1.1", "1.2"), detector="d0", classifier="c0"),
        fold("c", uids=("1.3",), detector="d1", classifier="c1"),
    )


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([{"studies": ["a"]}, {"studies": ["b", "c"]}], "not made with the same folds"),
        ([{"studies": ["a", "b"]}], "not made with the same folds"),
        ([{"studies": ["a", "b"], "detector": "x"}, {"studies": ["c"]}], "both give detector"),
    ],
    ids=["other_folds", "fewer_folds", "same_key"],
)
def test_files_that_cannot_be_joined(tmp_path, second, message: str) -> None:
    first = written(
        tmp_path / "d.json", {"studies": ["a", "b"], "detector": "d"}, {"studies": ["c"]}
    )
    with pytest.raises(ConfigError, match=message):
        read_fold_weights([first, written(tmp_path / "c.json", *second)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "wanted"),
        ('{"folds": []}', "holds no fold"),
        ('{"folds": [{"detector": "x"}]}', r"fold 0: studies: wanted a list"),
        ('{"folds": [{"studies": ["a"], "detecter": "x"}]}', "did you mean 'detector'"),
        ('{"folds": [{"studies": ["a"], "decode": "best"}]}', "decode=best"),
        ('{"folds": [{"studies": ["a"], "study_uids": ["1", "2"]}]}', "wanted 1, one for each"),
        ('{"folds": [{"studies": ["a"]}, {"studies": ["a"]}]}', "'a' is in fold 0 and fold 1"),
        (
            '{"folds": [{"studies": ["a"], "study_uids": ["1"]},'
            ' {"studies": ["b"], "study_uids": ["1"]}]}',
            "'1' is in fold 0 and fold 1",
        ),
    ],
)
def test_files_that_are_refused(tmp_path, text: str, message: str) -> None:
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_fold_weights([tmp_path / "f.json"])


def test_a_folder_without_the_file(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"no fold_weights\.json there"):
        read_fold_weights([tmp_path])


# Finding studies


def test_the_uid_decides_where_both_have_one() -> None:
    """The names would say otherwise: ``b`` of the annotation is ``a`` of the folds."""
    folds = [fold("a", uids=("1.1",)), fold("b", uids=("1.2",))]
    assert fold_by_study([record("b", uid="1.1")], folds) == {"b": (0, "a")}
    assert fold_by_study([record("b")], folds) == {"b": (1, "b")}
    with pytest.raises(ConfigError, match="1 of 1 studies are in no fold, such as 'a'"):
        fold_by_study([record("a", uid="1.9")], folds)


def test_names_of_studies_images_and_uids_are_taken_whole() -> None:
    folds = [fold("a", "c-000"), fold("1.5")]
    records = [record("a"), record("c"), record("x", uid="1.5")]
    assert fold_by_study(records, folds) == {"a": (0, "a"), "c": (0, "c-000"), "x": (1, "1.5")}


def test_numbers_are_compared_when_asked_for() -> None:
    folds = [fold("000", "012"), fold("003")]
    records = [record("study12"), record("study3", uid="1.2"), record("study0")]
    assert fold_by_study(records, folds, match="number") == {
        "study12": (0, "012"),
        "study3": (1, "003"),
        "study0": (0, "000"),
    }
    with pytest.raises(ConfigError, match="fold_match=number compares"):
        fold_by_study(records, folds)


@pytest.mark.parametrize(
    ("studies", "names", "message"),
    [
        (["study1"], ["01", "1"], "'01' and '1' of the folds have the same number 1"),
        (["study1"], ["a1b2"], "'a1b2' of the folds has not one number"),
        (["1", "s1"], ["001"], "'1' and 's1' are both '001'"),
        (["a1b1"], ["1"], "1 of 1 studies are in no fold"),
        (["study1", "study2"], ["1"], "1 of 2 studies are in no fold, such as 'study2'"),
    ],
)
def test_numbers_that_do_not_tell(studies: list[str], names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fold_by_study([record(s) for s in studies], [fold(*names)], match="number")


# The command


@pytest.fixture
def cohort(tmp_path, make_study, make_annotation, make_points) -> tuple[Path, Path]:
    """Three studies whose middle slice is annotated exactly."""
    names = ("s1", "s2", "s3")
    for name in names:
        make_study(tmp_path / "studies" / name)
    points = {name: make_points() for name in names}
    return tmp_path / "studies", make_annotation(tmp_path / "labels.json", points)


def weights_of(out: Path, study: str) -> str:
    result = json.loads((out / "predictions" / study / "result.json").read_text())
    return str(result["weights"]["name"])


def test_each_study_is_run_with_its_folds_weights_and_scored_with_the_others(
    tmp_path, fake_models, cohort, val
) -> None:
    folds = written(
        tmp_path / "f.json",
        {"studies": ["002"], "detector": "d0", "classifier": "c0"},
        {"studies": ["001", "003", "777"], "detector": "d1", "classifier": "c1"},
        {"studies": ["888"], "detector": "d2", "classifier": "c2"},
    )
    out = tmp_path / "o"
    code, said, warned = val(*cohort, f"folds={folds}", "fold_match=number", out=out)
    assert (code, warned) == (0, "")
    loaded = [(p.settings.detector, p.settings.classifier) for p in fake_models]
    assert loaded == [("d0", "c0"), ("d1", "c1")]  # nothing of the fold without studies
    assert [weights_of(out, s) for s in ("s1", "s2", "s3")] == [
        "fold 1: fake", "fold 0: fake", "fold 1: fake",
    ]  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["studies"] == 3
    assert metrics["weights"]["name"] == "fold 0: fake; fold 1: fake"
    assert metrics["level_accuracy_8px"]["n"] == 33
    assert "fold 1: scores 2 studies, such as s1 (there 001)" in said
    rows = (out / "results.csv").read_text().splitlines()[1:]
    assert list(dict.fromkeys(row.split(",")[0] for row in rows)) == ["s1", "s2", "s3"]

    val(*cohort, f"predictions={out}", out=tmp_path / "again")
    assert json.loads((tmp_path / "again" / "metrics.json").read_text()) == metrics
    val(*cohort, out=tmp_path / "whole")
    whole = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert {**whole, "weights": metrics["weights"]} == metrics


def test_study_uids_find_the_studies_and_annotated_slices_follow(
    tmp_path, fake_models, cohort, val
) -> None:
    uid = {study.name: study.study_uid for study in scan(cohort[0])}
    folds = written(
        tmp_path / "f.json",
        {"studies": ["x", "y"], "study_uids": [uid["s3"], uid["s1"]], "detector": "d0"},
        {"studies": ["z"], "study_uids": [uid["s2"]], "detector": "d1"},
    )
    code, _, warned = val(*cohort, f"folds={folds}", "slice=annotated")
    assert code == 0
    assert "folds share a classifier" in warned
    assert "share a detector" not in warned
    names = [weights_of(tmp_path / "o", s) for s in ("s1", "s2", "s3")]
    assert names == ["fold 0: fake", "fold 1: fake", "fold 0: fake"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "1 of 3 studies are in no fold, such as 's3'"),
        (("predictions=p",), "stored predictions run no weights"),
        (("fold_match=uid",), "fold_match=uid"),
    ],
)
def test_the_command_refuses(tmp_path, fake_models, cohort, val, more, message) -> None:
    folds = written(tmp_path / "f.json", {"studies": ["s1"]}, {"studies": ["s2"]})
    code, _, warned = val(*cohort, f"folds={folds}", *more)
    assert code == 2
    assert message in warned
    assert not (tmp_path / "o").exists()
    assert not fake_models


def test_ids_leave_studies_without_a_fold_away(tmp_path, fake_models, cohort, val) -> None:
    folds = written(tmp_path / "f.json", {"studies": ["s1"]}, {"studies": ["s2"]})
    assert val(*cohort, f"folds={folds}", "ids=s1,s2")[0] == 0
    assert json.loads((tmp_path / "o" / "metrics.json").read_text())["studies"] == 2


def test_overwriting_does_not_delete_the_folds(tmp_path, fake_models, cohort, val) -> None:
    folds = written(tmp_path / "o" / "f.json", {"studies": ["s1"]})
    code, _, warned = val(*cohort, f"folds={folds}", "overwrite=true")
    assert code == 2
    assert "which it would replace" in warned
    assert folds.exists()


def test_a_file_cannot_say_that_pickles_are_trusted(tmp_path) -> None:
    path = written(tmp_path / "f.json", {"studies": ["a"], "detector": "a.pt", "trust": True})
    with pytest.raises(ConfigError, match="unknown key 'trust'"):
        read_fold_weights([path])
