"""What is for us and what is not: the limits, drawn frames and real ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.dicom.geometry import Reorientation
from spineline.datasets.images import read_image, window_to_uint8
from spineline.datasets.phantoms.foreign import draw_foreign, list_foreign
from spineline.datasets.phantoms.phantom import draw_spine
from spineline.datasets.scanner_looks import blur, gamma
from spineline.pipeline.inference.pipeline import Analysis, Pipeline
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import Frame, load_frame
from spineline.pipeline.inference.suitability import (
    GAMMAS,
    TURNS,
    Suitability,
    SuitabilityLimits,
    refusal_of,
)
from spineline.pipeline.inference.warnings import codes_of

LIMITS = SuitabilityLimits(
    spine=0.5, lumbar=1.0, contrast=0.0, contrast_sure=0.0, whole=1.75, upright=0.7
)


# The limits


NO_BETTER = dict.fromkeys(TURNS, 0.0)


@pytest.mark.parametrize(
    ("score", "reading", "contrast", "reason"),
    [
        (0.2, 0.2, None, "no_spine"),
        (0.5, 0.4, 0.3, "region"),
        (0.6, 0.6, -0.1, "contrast"),
        (0.6, 0.6, 0.1, None),
        (0.6, 0.6, None, None),
        (0.6, None, 0.1, None),  # without a reader the score counts twice
        (0.4, None, 0.1, "region"),
    ],
)
def test_reasons(score, reading, contrast, reason) -> None:
    refusal = refusal_of(Suitability(score, reading, contrast), NO_BETTER, LIMITS)
    assert (refusal and refusal.reason) == reason


@pytest.mark.parametrize(
    ("levels", "reason"), [(7, None), (8, None), (9, "region"), (11, "region")]
)
def test_a_chain_of_many_levels_needs_more_evidence(levels: int, reason: str | None) -> None:
    limits = replace(
        LIMITS, lumbar_whole=1.375, whole_unseen=1.0
    )  # 1.0 for eight levels, 1.125 for nine
    found = Suitability(0.5, 0.55, 0.3, levels=levels)
    refusal = refusal_of(found, NO_BETTER, limits)
    assert (refusal and refusal.reason) == reason


@pytest.mark.parametrize(
    ("reading", "contrast", "continuation", "levels", "reason"),
    [
        (0.6, 0.9, 0.0, 0, "contrast"),
        (0.6, 1.1, 0.0, 0, None),
        (0.6, None, 0.0, 0, None),
        (1.2, 1.1, 0.0, 11, "region"),  # the whole chain needs 1.75
        (1.3, 1.1, 0.0, 11, None),
        (1.3, 1.1, None, 11, "region"),  # and 2.0 if the sacrum is not seen
        (1.6, 1.1, None, 11, None),
        (0.6, 1.1, 0.0, 8, "region"),  # eight levels need 1.273
        (0.6, 1.1, 0.0, 6, None),
    ],
)
def test_a_frame_that_hardly_reaches_the_limits(
    reading, contrast, continuation, levels, reason
) -> None:
    limits = replace(LIMITS, contrast_sure=1.0, lumbar_whole=1.375, whole_unseen=2.0)
    found = Suitability(0.5, reading, contrast, continuation, levels)
    refusal = refusal_of(found, NO_BETTER, limits)
    assert (refusal and (refusal.reason, refusal.certain)) == (reason and (reason, False))
    if refusal is not None:
        warning = refusal.remark(forced=False)
        assert warning.code == "suitability_in_doubt"
        assert "may not be a sagittal T2 image" in warning.text


@pytest.mark.parametrize("words", TURNS)
def test_a_turn_that_is_much_better(words: str) -> None:
    refusal = refusal_of(Suitability(0.5, 0.7, 0.3), {**NO_BETTER, words: 0.9}, LIMITS)
    assert refusal is not None
    assert refusal.reason == TURNS[words][0]
    assert words in refusal.text


@pytest.mark.parametrize("score", [0.6, 0.69])
def test_a_turn_that_is_little_better_is_not_believed(score: float) -> None:
    found = Suitability(0.5, 0.7, 0.3)
    assert refusal_of(found, dict.fromkeys(TURNS, score), LIMITS) is None


def test_the_warning() -> None:
    refusal = refusal_of(Suitability(0.6, 0.6, -0.1), NO_BETTER, LIMITS)
    assert refusal is not None
    plain, forced = (refusal.remark(forced=forced) for forced in (False, True))
    assert plain.code == forced.code == "not_lumbar_t2"
    assert dict(plain.parameters) == {"reason": "contrast", "contrast": -0.1, "wanted": 0.0}
    assert "nothing is named or graded" in plain.text
    assert "because of force=true" in forced.text


# The bundled networks


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Pipeline.load()
    torch.set_num_threads(before)


def looked_at(pipeline: Pipeline, image: np.ndarray) -> Analysis:
    height, width = image.shape
    turn = Reorientation(False, False, False, (height, width))
    return pipeline.analyse([Frame("x", np.ascontiguousarray(image), turn, width, height)])[0]


def reason_of(analysis: Analysis) -> str | None:
    """The reason of a refusal, of which it is seen that nothing is named or graded."""
    if analysis.result.status == "ok":
        assert "not_lumbar_t2" not in codes_of(analysis.result.warnings)
        return None
    assert analysis.result.structures == analysis.spine.structures == ()
    assert analysis.result.naming is None
    return str(dict(analysis.result.warnings[0].parameters)["reason"])


@pytest.mark.parametrize("what", list_foreign())
def test_drawn_ones_are_refused(pipeline, what: str) -> None:
    assert reason_of(looked_at(pipeline, draw_foreign(what, 0))) is not None


def test_a_drawn_t1_is_refused_for_its_contrast(pipeline) -> None:
    assert reason_of(looked_at(pipeline, draw_foreign("t1", 1))) == "contrast"


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] * (seed > 2)) for seed in range(6)]
)
def test_phantoms_are_ours(pipeline, seed: int) -> None:
    assert reason_of(looked_at(pipeline, draw_spine(seed, None).pixels)) is None


def test_a_good_frame_costs_no_second_look(pipeline, monkeypatch) -> None:
    looks: list[int] = []
    detect = type(pipeline.detector).detect

    def counted(self, images, **keys):
        looks.append(len(images))
        return detect(self, images, **keys)

    monkeypatch.setattr(type(pipeline.detector), "detect", counted)
    looked_at(pipeline, draw_spine(2, (384, 384)).pixels)
    assert looks == [1]
    looked_at(pipeline, draw_foreign("cat", 0))
    again = 2  # a brighter image, and the lower part of it
    assert sum(looks) == 1 + 1 + again + len(GAMMAS) + len(TURNS)


def test_a_photograph_is_refused(pipeline) -> None:
    """Those that come with scikit-learn, of which no module is needed for it."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    paths = sorted((Path(package.origin).parent / "datasets" / "images").glob("*.jpg"))
    assert len(paths) == 2
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert image is not None
        assert reason_of(looked_at(pipeline, image)) is not None


@pytest.mark.parametrize(("words", "back"), [
    ("turned by 180 degrees", lambda image: image[::-1, ::-1]),
    ("with left and right exchanged", lambda image: image[:, ::-1]),
    ("turned by 90 degrees to the left", lambda image: np.rot90(image, 3)),
    ("turned by 90 degrees to the right", np.rot90),
])  # fmt: skip
def test_the_wrong_way_round_is_told(pipeline, words: str, back) -> None:
    analysis = looked_at(pipeline, back(draw_spine(2, (384, 384)).pixels))
    assert reason_of(analysis) == TURNS[words][0]
    assert words in str(analysis.result.refusal)


def test_by_force_it_is_named_all_the_same(pipeline) -> None:
    forced = replace(pipeline, settings=replace(pipeline.settings, force=True))
    result = looked_at(forced, draw_foreign("t1", 0)).result
    assert result.status == "forced"
    assert len(result.structures) > 5
    assert result.warnings[0].code == "not_lumbar_t2"


# Real frames, where they are


@pytest.mark.slow
def test_real_ones_that_are_not_ours(pipeline, shared_external: Path) -> None:
    paths = sorted((shared_external / "negatives").iterdir())
    images = {path.stem: window_to_uint8(read_image(path)) for path in paths}
    reasons = {name: reason_of(looked_at(pipeline, image)) for name, image in images.items()}
    assert [name for name, reason in reasons.items() if reason is None] == []
    assert {reason for name, reason in reasons.items() if "_t1_" in name} == {"contrast"}


@pytest.fixture
def rsna_slice(shared_external: Path) -> Callable[[str, int], np.ndarray]:
    """The image of a series and an instance number of a study of another hospital."""
    study = shared_external / "rsna" / "study7001"

    def read(series: str, number: int) -> np.ndarray:
        import pydicom

        return window_to_uint8(pydicom.dcmread(study / series / f"{number}.dcm").pixel_array)

    return read


T1_LOOKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda image: image,
    "brighter": lambda image: gamma(image, 0.5),
    "darker": lambda image: gamma(image, 2.0),
    "blurred": lambda image: blur(image, 1.5),
    "enlarged": lambda image: cv2.resize(image, None, fx=1.5, fy=1.5),
    "stretched": lambda image: cv2.resize(image, None, fx=1, fy=1.3),
    "middle": lambda image: image[40:-40, 80:-40],
}


@pytest.mark.parametrize(
    "look",
    [pytest.param(k, marks=[pytest.mark.slow] * (n > 1)) for n, k in enumerate(T1_LOOKS)],
)
def test_a_t1_from_another_scanner_is_refused_for_its_contrast(
    pipeline, rsna_slice, look: str
) -> None:
    for number in (8, 9, 10):
        image = T1_LOOKS[look](rsna_slice("102", number))
        assert reason_of(looked_at(pipeline, image)) == "contrast"


@pytest.mark.parametrize("number", [9, 10])
def test_a_fat_suppressed_t2_is_ours(pipeline, rsna_slice, number: int) -> None:
    assert reason_of(looked_at(pipeline, rsna_slice("101", number))) is None


def test_lumbar_frames_are_ours(pipeline, shared_lumbar: Path) -> None:
    for path in sorted((shared_lumbar / "images").iterdir())[::15]:
        assert reason_of(looked_at(pipeline, window_to_uint8(read_image(path)))) is None, path.stem


def test_a_file_that_is_no_picture_stays_an_error(tmp_path) -> None:
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(SpinelineError):
        load_frame(find_cases(tmp_path / "x.png")[0])
