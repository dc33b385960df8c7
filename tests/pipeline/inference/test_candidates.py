"""What a namer's reading does: places by hand, worth by hand, and spines that it puts right."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.datasets.straighten import StripSpec
from spineline.detect.results import Detections
from spineline.pipeline.inference.candidates import (
    Candidates,
    Context,
    DecodedStructure,
    candidates_of,
    ranks_by_distance,
    read_context,
    with_other_names,
    worth,
)
from spineline.pipeline.inference.decode import DecodeSettings, decode_spine
from spineline.pipeline.inference.pipeline import Pipeline, bundle_of
from spineline.pipeline.inference.settings import ModelSettings


def boxes(rows: list[tuple[int, float, float]]) -> Candidates:
    """Candidates of rank, y, confidence; rungs of 12 px, boxes twice as high."""
    rank, y, confidence = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    xyxy = np.stack([83.2 + 0 * y, y - 12, 116.8 + 0 * y, y + 12], axis=1).astype(np.float32)
    found = Detections(xyxy, confidence.astype(np.float32), rank.astype(np.int64), LEVELS)
    return candidates_of(found, 15)


def found(rank: int, y: float, height: float = 24.0) -> DecodedStructure:
    level = LEVELS[rank]
    box = (80.0, y - height / 2, 120.0, y + height / 2)
    return DecodedStructure(level, kind_of_level(level), (100.0, y), box, 0.9)


@dataclass
class SureNamer:
    """Reads the level of each place by its y: T12-L1 at 30, a rung of 12 px each."""

    top: float = 30.0
    sure: float = -0.01
    strip: StripSpec = field(default_factory=StripSpec)
    curves: list[np.ndarray] = field(default_factory=list)

    def read(self, image: np.ndarray, curve_xy: np.ndarray) -> np.ndarray:
        assert image.dtype == np.uint8
        self.curves.append(curve_xy)
        shares = np.full((len(curve_xy), 13), -8.0)
        rank = np.rint((curve_xy[:, 1] - self.top) / 12).astype(int)
        shares[np.arange(len(curve_xy)), np.clip(rank, -1, 11) + 1] = self.sure
        return shares


IMAGE = np.zeros((220, 200), np.uint8)


# ---- where structures lie


@pytest.mark.parametrize(
    ("structures", "ranks"),
    [
        pytest.param([(r, 30 + 12 * r) for r in range(11)], list(range(11)), id="even"),
        pytest.param(
            [(0, 30), (1, 42), (2, 54), (5, 66), (6, 78)], [0, 1, 2, 3, 4], id="names skip a rung"
        ),
        pytest.param(
            [(2, 54), (3, 66), (4, 102), (5, 114)], [2, 3, 6, 7], id="a rung is missing in between"
        ),
        pytest.param([(2, 54), (4, 78), (6, 102)], [2, 4, 6], id="discs alone"),
        pytest.param([(2, 54), (4, 56), (5, 68)], [2, 4, 5], id="two at one place"),
        pytest.param(
            [(4, 30), (5, 42), (6, 162), (7, 174)], [2, 3, 12, 13], id="too long for the strip"
        ),
    ],
)
def test_ranks_by_distance(structures, ranks: list[int]) -> None:
    given = ranks_by_distance([found(r, y) for r, y in structures])
    if ranks[-1] > 12:
        assert given[-1] in (11, 12)
        assert np.diff(given).tolist() == np.diff(ranks).tolist()
    else:
        assert given == ranks


def test_the_curve_reaches_beyond_both_ends() -> None:
    namer = SureNamer()
    context = read_context(namer, IMAGE, [found(r, 30 + 12 * r) for r in range(2, 9)])
    assert context.curve_xy.shape == (23, 2)
    np.testing.assert_allclose(context.curve_xy[:, 1], 30 + 12 * np.arange(-6, 17))
    np.testing.assert_allclose(context.curve_xy[:, 0], 100)


def test_too_few_structures_are_not_read() -> None:
    assert read_context(SureNamer(), IMAGE, [found(2, 54), found(3, 66)]) is None


# ---- what it is worth


def test_worth_by_hand() -> None:
    shares = np.full((3, 13), -6.0)
    shares[0, 3], shares[0, 5] = -0.2, -1.7  # place 0: rank 2, rank 4 less so
    shares[1, 4] = -0.1
    shares[2, 12] = -0.1  # place 2: below the lowest level
    context = Context(np.array([[50.0, 10.0], [50.0, 20.0], [50.0, 30.0]]), shares)
    rows = [
        (2, 10.0, 0.0),  # the likeliest
        (4, 10.0, -1.5),  # -1.7 + 0.2
        (0, 10.0, -5.0),  # -6.0 + 0.2, no more than 5
        (3, 14.0, 0.0 - 5.0),  # nearest to place 0, where rank 3 is unlikely
        (3, 16.0, 0.0),  # nearest to place 1
        (10, 30.0, -5.0),  # -6.0 + 0.1
        (2, 45.0, -5.0),  # 15 px from the last place, more than 0.4 of 20 px
    ]
    y = np.array([row[1] for row in rows])
    box = np.stack([40 + 0 * y, y - 10, 60 + 0 * y, y + 10], axis=1)
    candidates = Candidates(np.array([row[0] for row in rows]), box, np.full(len(rows), 0.5))
    np.testing.assert_allclose(worth(context, candidates, most=5.0), [row[2] for row in rows])


def test_other_names_by_hand() -> None:
    """Odds of 0.8 are 4; at a cost of ln 4 they are 1, a confidence of one half."""
    one = Candidates(np.array([1, 9]), np.array([[0.0, 0, 4, 4], [1.0, 1, 5, 5]]), np.full(2, 0.8))
    more = with_other_names(one, math.log(4))
    assert more.rank.tolist() == [1, 3, 7, 9]
    np.testing.assert_allclose(more.confidence, [0.8, 0.5, 0.5, 0.8])
    np.testing.assert_array_equal(more.box_xyxy[1], one.box_xyxy[0])
    np.testing.assert_array_equal(more.box_xyxy[2], one.box_xyxy[1])


# ---- spines put right


def levels_at(spine) -> dict[str, float]:
    return {s.level: s.point_xy[1] for s in spine.structures}


RIGHT = {level: 30.0 + 12 * rank for rank, level in enumerate(LEVELS)}


@pytest.mark.parametrize("shift", [-2, 2], ids=["too high", "too low"])
def test_a_spine_that_slipped_whole_is_put_right(shift: int) -> None:
    """No box bears its right name: nine bear the next one."""
    rows = [(r + shift, 30 + 12 * r, 0.8) for r in range(11) if 0 <= r + shift < 11]
    plain = decode_spine(boxes(rows))
    assert plain.structures[0].level != LEVELS[rows[0][0] - shift]
    context = read_context(SureNamer(), IMAGE, plain.structures)
    spine = decode_spine(boxes(rows), None, context)
    assert levels_at(spine).items() <= RIGHT.items()
    assert len(spine.structures) == 9
    assert all(s.confidence < 0.8 for s in spine.structures)  # not the detector's own names


def test_a_spine_of_which_a_part_slipped_is_put_right() -> None:
    """The upper four bear names one rung too low, which the lower seven have taken."""
    rows = [(r + 2, 30 + 12 * r, 0.8) for r in range(4)]
    rows += [(r, 30 + 12 * r, 0.8) for r in range(4, 11)]
    plain = decode_spine(boxes(rows))
    assert len(plain.structures) < 11
    context = read_context(SureNamer(), IMAGE, plain.structures)
    spine = decode_spine(boxes(rows), None, context)
    assert levels_at(spine) == RIGHT
    assert spine.missing == ()


def test_a_reading_that_agrees_makes_the_naming_surer() -> None:
    rows = [(r, 30 + 12 * r, 0.5) for r in range(11)]
    rows += [(r + 2, 30 + 12 * r, 0.4) for r in range(9)]
    settings = DecodeSettings(temperature_in_context=DecodeSettings().temperature)
    plain = decode_spine(boxes(rows), settings)
    context = read_context(SureNamer(), IMAGE, plain.structures)
    spine = decode_spine(boxes(rows), settings, context)
    assert levels_at(spine) == levels_at(plain) == RIGHT
    assert spine.naming.probability > plain.naming.probability


def test_no_weight_and_no_other_names_change_nothing() -> None:
    rng = np.random.default_rng(0)
    rows = [(r, 30 + 12 * r + rng.normal(0, 3), rng.uniform(0.1, 0.9)) for r in range(11)] * 2
    plain = decode_spine(boxes(rows))
    context = read_context(SureNamer(top=6.0), IMAGE, plain.structures)
    settings = DecodeSettings(
        context_weight=0.0, rename_cost=50.0, temperature_in_context=DecodeSettings().temperature
    )
    spine = decode_spine(boxes(rows), settings, context)
    assert spine.structures == plain.structures
    assert spine.naming.probability == pytest.approx(plain.naming.probability)


def test_the_pipeline_asks_its_namer(fake_pipeline, tmp_path, make_study, make_points) -> None:
    """The detector's spots are named from the top; the namer says they begin one level lower."""
    make_study(tmp_path / "s")
    y = make_points()[:, 1]

    @dataclass
    class Lower(SureNamer):
        def read(self, image, curve_xy):
            shares = np.full((len(curve_xy), 13), -8.0)
            rank = np.rint((curve_xy[:, 1] - y[0]) / 10).astype(int) + 2
            shares[np.arange(len(rank)), np.clip(rank, -1, 11) + 1] = -0.01
            return shares

    pipeline = Pipeline(
        fake_pipeline.detector, fake_pipeline.classifier, "fake", "0" * 64, ModelSettings(), Lower()
    )
    result = pipeline.predict(tmp_path / "s")
    assert [s.level for s in result.structures][:3] == ["L1-L2", "L2", "L2-L3"]
    assert result.structures[0].point_xy[1] == pytest.approx(y[0])
    argmax = ModelSettings(decode="argmax")
    plain = Pipeline(fake_pipeline.detector, None, "fake", "0" * 64, argmax, Lower())
    assert plain.predict(tmp_path / "s").structures[0].level == "T12-L1"


# ---- which namer


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry whose bundle ``default`` holds d0, c0 and n0; any other name is a file."""
    from spineline.weights import WeightsFile, make_bundle

    def file(name: str, *, task: str = "", trust: bool = False, **_: object) -> WeightsFile:
        if name.startswith(("d", "c", "n")) and task and not name.startswith(task[0]):
            raise WeightsError(f"{name}: wanted weights to {task}")
        return WeightsFile(name, Path(name), (name * 32)[:64])

    bundle = make_bundle("default", file("d0"), file("c0"), file("n0"))
    monkeypatch.setattr("spineline.pipeline.inference.pipeline.resolve", file)
    monkeypatch.setattr("spineline.weights.registry.resolve", file)
    monkeypatch.setattr(
        "spineline.pipeline.inference.pipeline.resolve_bundle", lambda name="default": bundle
    )


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        pytest.param({}, "default", id="the bundle's"),
        pytest.param({"namer": "none"}, "d0,c0", id="none"),
        pytest.param({"namer": "n1"}, "d0,c0,n1", id="another"),
        pytest.param({"detector": "d1"}, "d1,c0", id="another detector has none"),
        pytest.param({"detector": "d0", "classifier": "c1"}, "d0,c1", id="nor has a pair"),
        pytest.param({"detector": "d0"}, "default", id="the same detector keeps it"),
        pytest.param({"detector": "d1", "namer": "n1"}, "d1,c0,n1", id="unless it is named"),
        pytest.param({"classifier": "c1"}, "d0,c1,n0", id="another classifier keeps it"),
        pytest.param({"weights": "d1,c1"}, "d1,c1", id="a pair has none"),
        pytest.param({"weights": "d1,c1,n1"}, "d1,c1,n1", id="three"),
        pytest.param({"weights": "d1,c1,n1", "namer": "none"}, "d1,c1", id="three, but none"),
        pytest.param({"weights": "d1,c1,n1", "namer": "n2"}, "d1,c1,n2", id="the key beats it"),
    ],
)
def test_which_namer(files, keys: dict, name: str) -> None:
    bundle = bundle_of(ModelSettings(**keys))
    assert bundle.name == name
    members = (bundle.detector, bundle.classifier, bundle.namer)
    if name != "default":
        assert ",".join(member.name for member in members if member) == name


def test_four_weights_are_too_many(files) -> None:
    with pytest.raises(ConfigError, match=r"wanted a bundle, or DETECTOR,CLASSIFIER\[,NAMER\]"):
        bundle_of(ModelSettings(weights="d1,c1,n1,n2"))


def test_a_namer_of_another_task_is_refused(files) -> None:
    with pytest.raises(WeightsError, match="c1: wanted weights to name"):
        bundle_of(ModelSettings(namer="c1"))


def test_a_level_that_the_detector_never_named_has_no_candidate_with_a_reading_either() -> None:
    rows = [(rank, 30.0 + 12 * rank, 0.9) for rank in range(1, 11)]
    plain = decode_spine(boxes(rows))
    context = read_context(SureNamer(), IMAGE, plain.structures)
    for spine in (plain, decode_spine(boxes(rows), None, context)):
        assert dict(spine.missing) == {"T12-L1": "no_candidate"}
