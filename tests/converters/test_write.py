from __future__ import annotations

import numpy as np
import pytest

from spineline.converters.write import to_8_bit
from spineline.datasets.common.errors import SpinelineError


def test_deep_pixels_are_windowed_and_never_cut_to_8_bits():
    deep = np.linspace(0, 4000, 400, dtype=np.float32).reshape(20, 20)
    assert np.unique(to_8_bit(deep, "percentile")).size > 200
    with pytest.raises(SpinelineError, match="window=percentile"):
        to_8_bit(deep, "none")


def test_folds_share_their_images_on_disk(report_source, run_cli):
    files = report_source("001-000", "002-000")
    run_cli("convert", "report", *files.words(kfold=2))
    paths = sorted((files.root / "out").glob("fold*/images/*/001-000.png"))
    assert len(paths) == 2
    assert paths[0].samefile(paths[1])
