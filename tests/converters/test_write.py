from __future__ import annotations

import numpy as np
import pytest

from spineline.converters.convert import fold_strata
from spineline.converters.write import finding_counts, to_8_bit
from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.quality_control import Finding
from spineline.datasets.types import ImageRecord, Structure


def test_deep_pixels_are_windowed_and_never_cut_to_8_bits():
    deep = np.linspace(0, 4000, 400, dtype=np.float32).reshape(20, 20)
    assert np.unique(to_8_bit(deep, "percentile")).size > 200
    with pytest.raises(SpinelineError, match="window=percentile"):
        to_8_bit(deep, "none")


def test_findings_are_counted_in_a_fixed_order():
    names = ["box_outside", "empty_tag", "box_outside", "order_kind"]
    found = [Finding("a", "a", None, name, "", "") for name in names]
    counts = finding_counts(found)
    assert list(counts.items()) == [("order_kind", 1), ("empty_tag", 1), ("box_outside", 2)]


def test_strata_count_v5_up_to_two():
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


def test_folds_share_their_images_on_disk(report_source, run_cli):
    files = report_source("001-000", "002-000")
    run_cli("convert", "report", *files.words(kfold=2))
    paths = sorted((files.root / "out").glob("fold*/images/*/001-000.png"))
    assert len(paths) == 2
    assert paths[0].samefile(paths[1])
