"""The cases of a source: their names, archives, and sources that hold none."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import cv2
import pytest

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.volumes.archives import MAX_NESTED, unpacking
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import load_frame

# What a source is, and what it is not


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", r"empty: .*; nor does it hold images \(.*png.*\) directly in it, nor volumes or"),
        ("notes.txt", r"notes\.txt"),
        ("study.zip", r"study\.zip: only pipeline predict unpacks archives"),
        ("nowhere", r"nowhere"),
    ],
)
def test_a_source_that_holds_nothing_to_look_at(tmp_path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "study.zip").write_bytes(b"PK")
    with pytest.raises(SpinelineError, match=message):
        find_cases(tmp_path / name)


def test_archives_beside_a_study_are_left_out_and_told_of(tmp_path, make_study, caplog) -> None:
    make_study(tmp_path / "cohort" / "a")
    (tmp_path / "cohort" / "b").mkdir()
    (tmp_path / "cohort" / "b" / "more.tar.gz").write_bytes(b"none")
    assert [case.name for case in find_cases(tmp_path / "cohort")] == ["a"]
    assert "b/more.tar.gz: left out: only pipeline predict unpacks archives" in caplog.text


def test_archives_within_archives_have_an_end(tmp_path, make_study) -> None:
    """The innermost of so many holds a study; one more, and it is not reached."""
    make_study(tmp_path / "study")
    (tmp_path / "cohort").mkdir()
    inner = Path(shutil.make_archive(str(tmp_path / "deep0"), "zip", tmp_path / "study"))
    for depth in range(1, MAX_NESTED + 1):
        outer = tmp_path / f"deep{depth}.zip"
        with zipfile.ZipFile(outer, "w") as zipped:
            zipped.write(inner, inner.name)
        inner = outer
    with unpacking() as archives:
        (problem,) = find_cases(inner, unpacking=archives)
        (case,) = find_cases(tmp_path / f"deep{MAX_NESTED - 1}.zip", unpacking=archives)
    assert f"an archive in {MAX_NESTED} others; unpack it and give the folder" in problem.problem
    with pytest.raises(SpinelineError, match=f"an archive in {MAX_NESTED} others"):
        load_frame(problem)
    assert (case.problem, case.name) == ("", f"deep{MAX_NESTED - 1}")


def test_cases_of_one_name_are_told_apart_whatever_their_kind(tmp_path, make_study) -> None:
    """And none of them is called like a file that a run writes beside its folders."""
    for folder in ("x", "y"):
        make_study(tmp_path / folder)
        (tmp_path / "cohort" / folder).mkdir(parents=True)
        for name in ("Same", "results.csv"):
            shutil.make_archive(str(tmp_path / "cohort" / folder / name), "zip", tmp_path / folder)
    with unpacking() as archives:
        cases = find_cases(tmp_path / "cohort", unpacking=archives)
    names = {"Same", "Same-2", "results.csv-2", "results.csv_study"}
    assert {case.name for case in cases} == names
    assert len(cases) == 4


def test_hidden_images_are_no_slices_of_a_stack(tmp_path, make_spots) -> None:
    for name in ("im1.png", "im2.png", ".im3.png"):
        cv2.imwrite(str(tmp_path / name), make_spots())
    (case,) = find_cases(tmp_path, stack=True)
    assert [path.name for path in case.stack] == ["im1.png", "im2.png"]
