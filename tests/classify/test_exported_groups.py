"""Members of a combination that one exported network answers for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spineline.classify.combined import CombinedClassifier
from spineline.classify.exported import ExportedGroup, groups_alike
from spineline.pipeline.inference.pipeline import Pipeline


def said(model: str = "gradients", *, size: int = 64, mean: float = 0.0) -> dict[str, Any]:
    crop = {"size": size, "margin": 1.0, "align": "none"}
    return {"model": model, "crop": crop, "mean": mean, "std": 1.0}


@pytest.mark.parametrize(
    ("descriptions", "groups"),
    [
        pytest.param([], [], id="none"),
        pytest.param([said()], [(0,)], id="one"),
        pytest.param([said(), said("resnet18"), said()], [(0, 2), (1,)], id="two-of-three"),
        pytest.param([said(), said(size=96), said(mean=0.1)], [(0,), (1,), (2,)], id="differ"),
        pytest.param([said("resnet18")] * 2, [(0,), (1,)], id="networks-of-their-own"),
    ],
)
def test_who_is_together(descriptions: list[dict[str, Any]], groups: list[Any]) -> None:
    assert groups_alike(descriptions) == groups


@pytest.fixture(scope="module")
def combined() -> CombinedClassifier:
    classifier = Pipeline.load(runtime="onnx").classifier
    assert isinstance(classifier, CombinedClassifier)
    return classifier


@pytest.mark.parametrize("count", [0, 1, 9])
def test_a_group_says_what_its_members_say(combined: CombinedClassifier, count: int) -> None:
    """By one network together, by the same network alone, and by torch."""
    by_torch = Pipeline.load(runtime="torch").classifier
    assert isinstance(by_torch, CombinedClassifier)
    rng = np.random.default_rng(count)
    ((numbers, group),) = combined.groups
    assert isinstance(group, ExportedGroup)
    assert [each for each, _ in by_torch.groups] == [numbers]
    size = group.members[0].crop.size
    crops = rng.integers(0, 256, (count, size, size), dtype=np.uint8)
    levels = rng.integers(-1, 11, count)
    for number, together in zip(numbers, group.grades(crops, levels=levels), strict=True):
        alone = combined.members[number].grade(crops, levels=levels)
        wanted = by_torch.members[number].grade(crops, levels=levels)
        for mine, own, other in (
            (together.seven, alone.seven, wanted.seven),
            (together.binary, alone.binary, wanted.binary),
        ):
            assert mine is not None
            assert own is not None
            assert other is not None
            np.testing.assert_array_equal(mine, own)
            np.testing.assert_allclose(mine, other, atol=1e-4)


def test_a_group_refuses_other_crops(combined: CombinedClassifier) -> None:
    ((_, group),) = combined.groups
    with pytest.raises(ValueError, match=r"uint8 crops, found \(2, 9, 9\) float64"):
        group.grades(np.zeros((2, 9, 9)))  # type: ignore[arg-type]
    size = combined.members[0].crop.size
    with pytest.raises(ValueError, match="3 crops but levels of shape"):
        group.grades(np.zeros((3, size, size), np.uint8), levels=np.zeros(2, np.int64))
