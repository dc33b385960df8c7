"""Pictures of what is no lumbar spine: they follow from their seed, and differ by it."""

from __future__ import annotations

import numpy as np
import pytest

from spineline.datasets.phantoms.foreign import draw_foreign, list_foreign

OF_ANATOMY = ("t1", "axial", "neck", "chest")  # their drawing has tests of its own


@pytest.mark.parametrize("what", [what for what in list_foreign() if what not in OF_ANATOMY])
def test_a_picture_follows_from_its_seed(what: str) -> None:
    picture, again, other = (draw_foreign(what, seed) for seed in (0, 0, 1))
    assert (picture.dtype, picture.shape) == (np.uint8, (384, 384))
    np.testing.assert_array_equal(picture, again)
    assert (picture != other).any()
    assert np.ptp(picture) > 200


def test_what_cannot_be_drawn_is_an_error() -> None:
    with pytest.raises(KeyError, match="dog"):
        draw_foreign("dog", 0)
