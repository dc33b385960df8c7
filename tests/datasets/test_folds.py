from __future__ import annotations

from pathlib import Path

import pytest

from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.dataset import load_dataset
from spineline.datasets.folds import fold_folders, fold_strata
from spineline.datasets.types import ImageRecord, Structure


def folder(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


def test_folds_are_taken_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = [f"fold{n}" for n in range(11)]
    folder(tmp_path, *sorted(names), "foldings")
    assert [path.name for path in fold_folders(tmp_path)] == names
    (tmp_path / "folds.json").write_text("{}")
    assert len(fold_folders(tmp_path / "folds.json")) == 11


@pytest.mark.parametrize("names", [(), ("annotations", "fold0", "fold2"), ("images",)])
def test_a_dataset_is_no_folder_of_folds(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert fold_folders(folder(tmp_path, *names)) == ()


@pytest.mark.parametrize(
    ("names", "missing"),
    [(("fold0", "fold2"), "fold1"), (("fold1",), "fold0"), (("fold0", "fold1", "fold3"), "fold2")],
)
def test_a_missing_fold_is_named_by_whoever_is_given_the_folder(
    tmp_path: Path, names: tuple[str, ...], missing: str
) -> None:
    folder(tmp_path, *names)
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
