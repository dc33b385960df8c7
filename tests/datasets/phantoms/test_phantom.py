"""Phantoms: the same seed the same bytes, sane anatomy, and files in the official shapes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from spineline.datasets.boxes import boxes_from_points
from spineline.datasets.commands.phantom import phantom
from spineline.datasets.commands.settings import DataPhantom
from spineline.datasets.dicom.geometry import pixel_to_patient
from spineline.datasets.dicom.pixels import read_pixels
from spineline.datasets.dicom.select import choose_slice
from spineline.datasets.dicom.study import scan
from spineline.datasets.images import window_to_uint8
from spineline.datasets.labels import LEVELS, encode_binary, encode_seven
from spineline.datasets.phantoms.anatomy import draw_anatomy
from spineline.datasets.phantoms.phantom import (
    LUMBAR_SIZES_HW,
    PhantomImage,
    draw_phantom,
    draw_spine,
    record_of,
    sagittal_values,
)
from spineline.datasets.phantoms.study import write_phantom_study

RunCli = Callable[..., tuple[int, str, str]]


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the run's record, which names the out folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.yaml"
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms of 192 pixels in both forms, three slices per series."""
    out = tmp_path_factory.mktemp("phantom") / "out"
    phantom(DataPhantom(out=out, n=2, size=192, slices=3, seed=5))
    return out


@pytest.fixture(scope="module")
def spines() -> list[PhantomImage]:
    return [draw_spine(seed, (256, 256)) for seed in range(12)]


def test_the_same_seed_draws_the_same_and_another_another() -> None:
    one, two, other = (draw_spine(seed, (128, 128)) for seed in (3, 3, 4))
    assert_array_equal(one.values, two.values)
    assert one.record == two.record
    assert (one.pixels != other.pixels).mean() > 0.3
    assert one.record != other.record


def test_a_generator_is_advanced() -> None:
    rng = np.random.default_rng(3)
    first, second = (draw_spine(rng, (128, 128)) for _ in range(2))
    assert first.record == draw_spine(3, (128, 128)).record
    assert first.record != second.record


def test_the_record_obeys_the_rules(spines: list[PhantomImage]) -> None:
    for image in spines:
        record = image.record
        assert tuple(s.level for s in record.structures) == LEVELS
        points = np.array([s.point_xy for s in record.structures])
        assert (np.diff(points[:, 1]) > 4).all()
        assert (points > 0).all()
        assert (points < 255).all()
        assert_array_equal(points, points.round())
        assert_array_equal([s.box_xyxy for s in record.structures], boxes_from_points(points))
        assert all(s.pathology for s in record.structures)
        assert image.pixels.shape == image.values.shape == (record.height, record.width)


def test_every_size_that_is_drawn_shows_all_levels() -> None:
    sizes = Counter()
    for seed in range(150):
        drawn = draw_phantom(np.random.default_rng(seed), None)
        record = record_of(drawn, "0-0")
        height, width = drawn.view.size_hw
        sizes[(height, width)] += 1
        points = np.array([s.point_xy for s in record.structures])
        assert (points.min(axis=0) > 0.05 * height).all()
        assert points[:, 1].max() < 0.95 * height
        assert points[:, 0].max() < 0.95 * width
    assert set(sizes) == set(LUMBAR_SIZES_HW)


def test_sizes_are_those_of_people() -> None:
    spans, gaps = [], []
    for seed in range(60):
        levels = draw_anatomy(np.random.default_rng(seed)).levels()
        points = np.array([point for _, point, _ in levels])
        steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
        spans.append(steps.sum())
        gaps.append(steps)
    assert min(spans) > 140  # T12-L1 to L5-S1, mm
    assert max(spans) < 200
    assert np.min(gaps) > 11
    assert np.max(gaps) < 24


def test_all_diseases_occur_and_grow_downwards() -> None:
    tags: dict[str, Counter[tuple[str, ...]]] = {level: Counter() for level in LEVELS}
    for seed in range(300):
        for level, _, pathology in draw_anatomy(np.random.default_rng(seed)).levels():
            tags[level][pathology] += 1
    discs = sum((tags[level] for level in LEVELS if "-" in level), Counter())
    bodies = sum((tags[level] for level in LEVELS if "-" not in level), Counter())
    assert {("v1",), ("v2",), ("v3",), ("v4",), ("v5",), ("v2", "v5")} <= set(discs)
    assert set(bodies) == {("v1",), ("v2",)}
    assert tags["L4-L5"][("v1",)] < tags["T12-L1"][("v1",)]
    assert 0.4 < discs[("v1",)] / sum(discs.values()) < 0.75


def region(image: PhantomImage, level: str, radius: int = 2) -> np.ndarray:
    x, y = next(s.point_xy for s in image.record.structures if s.level == level)
    column, row = int(x), int(y)
    return image.pixels[row - radius : row + radius + 1, column - radius : column + radius + 1]


def test_signals_relate_as_in_t2(spines: list[PhantomImage]) -> None:
    healthy, sick, marrow, brightest = [], [], [], []
    for image in spines:
        brightest.append(np.percentile(image.pixels, 99))
        for structure in image.record.structures:
            value = float(np.median(region(image, structure.level, 1)))
            if structure.kind == "vertebra":
                marrow.append(value)
            else:
                (healthy if structure.pathology == ("v1",) else sick).append(value)
    assert np.mean(sick) < 0.7 * np.mean(healthy)
    assert np.mean(sick) < 0.7 * np.mean(marrow)
    assert 60 < np.mean(marrow) < 150
    assert min(brightest) > 170


def test_fluid_is_bright_in_t2_and_dark_in_t1() -> None:
    drawn = draw_phantom(np.random.default_rng(0), (256, 256))
    anatomy, view = drawn.anatomy, drawn.view
    s = np.array([20.0])
    inside = view.to_pixels(anatomy.place(s, anatomy.depth_at(s) / 2 + 6.0))[0]
    column, row = int(inside[0]), int(inside[1])
    body = record_of(drawn, "0-0").structures[5].point_xy
    for contrast, brighter in (("t2", True), ("t1", False)):
        values = sagittal_values(drawn, contrast=contrast)
        fluid = np.median(values[row - 1 : row + 2, column - 1 : column + 2])
        marrow = np.median(values[int(body[1]) - 2 : int(body[1]) + 3, int(body[0])])
        assert (fluid > 1.5 * marrow) == brighter


@pytest.mark.slow
def test_brightness_varies_by_a_factor() -> None:
    tops = [np.percentile(draw_spine(seed, (128, 128)).values, 99) for seed in range(12)]
    assert max(tops) / min(tops) > 3
    assert max(tops) <= 4095


def test_asking_for_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; import spineline.datasets.commands.settings; "
        "print([m for m in ('cv2', 'pydicom', 'torch', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_files(written: Path) -> None:
    names = set(digest(written))
    studies = {f"studies/study{n}/image{k}.dcm" for n in range(2) for k in range(1, 10)}
    frames = {f"frames/{n:03d}-000.png" for n in range(2)}
    assert names == studies | frames | {"annotations.json", "report_labels.json"}
    assert (written / "run.yaml").read_text().startswith("command: spineline data phantom\n")


@pytest.mark.slow
def test_the_same_seed_writes_the_same_bytes_however_many_there_are(
    written: Path, tmp_path: Path
) -> None:
    for name, seed in (("same", 5), ("other", 6)):
        phantom(DataPhantom(out=tmp_path / name, n=1, size=192, slices=3, seed=seed))
    first = {k: v for k, v in digest(written).items() if "study0" in k or "000-000" in k}
    assert len(first) == 10
    assert first.items() <= digest(tmp_path / "same").items()
    for name in ("annotations.json", "report_labels.json"):
        both, one = (json.loads((out / name).read_text()) for out in (written, tmp_path / "same"))
        assert both[:1] == one
    assert not set(digest(tmp_path / "other").values()) & set(digest(written).values())


def test_studies_are_chosen_as_annotated(written: Path) -> None:
    annotations = json.loads((written / "annotations.json").read_text())
    studies = scan(written)
    assert [s.name for s in studies] == ["study0", "study1"]
    by_uid = {entry["studyUid"]: entry["data"] for entry in annotations}
    for study in studies:
        assert len(study.series) == 3
        choice = choose_slice(study)
        (data,) = by_uid[study.study_uid]
        assert choice.warnings == ()
        assert (choice.slice.series_uid, choice.slice.instance_uid) == (
            data["seriesUid"], data["instanceUid"],
        )  # fmt: skip
        frame = written / "frames" / f"{int(study.name[5:]):03d}-000.png"
        shown = window_to_uint8(read_pixels(choice.slice))
        assert_array_equal(shown, cv2.imread(str(frame), cv2.IMREAD_UNCHANGED))


def test_the_official_shape(written: Path) -> None:
    (entry, _) = json.loads((written / "annotations.json").read_text())
    points = entry["data"][0]["annotation"][0]["data"]["point"]
    assert [p["tag"]["identification"] for p in points] == list(LEVELS)
    for point in points:
        kind = "disc" if "-" in point["tag"]["identification"] else "vertebra"
        assert set(point["tag"]) == {"identification", kind}
        assert set(point["tag"][kind].split(",")) <= {"v1", "v2", "v3", "v4", "v5"}
        assert point["zIndex"] == 1
        assert all(isinstance(v, int) for v in point["coord"])
    # the middle slice lies at x = 0 and L3 at the origin of the patient's frame
    choice = choose_slice(scan(written / "studies" / "study0")[0])
    (third,) = pixel_to_patient(choice.slice, [points[5]["coord"]])
    assert_allclose(third, 0, atol=choice.slice.spacing_rc_mm[0])  # type: ignore[index]


def test_both_annotations_say_the_same(written: Path) -> None:
    studies = json.loads((written / "annotations.json").read_text())
    frames = json.loads((written / "report_labels.json").read_text())
    assert [frame["id"] for frame in frames] == ["000-000", "001-000"]
    for study, frame in zip(studies, frames, strict=True):
        official = study["data"][0]["annotation"][0]["data"]["point"]
        assert [p["identification"] for p in frame["point"]] == list(range(10, -1, -1))
        for there, here in zip(official, frame["point"], strict=True):
            level = there["tag"]["identification"]
            kind = "disc" if "-" in level else "vertebra"
            tags = tuple(there["tag"][kind].split(","))
            assert there["coord"] == here["coord"]
            assert here["class"] == f"({encode_seven(kind, tags)},{encode_binary(kind, tags)})"
        boxes = boxes_from_points([p["coord"] for p in frame["point"]])
        assert_allclose([p["bbox"] for p in frame["point"]], boxes, atol=1e-4)


def test_dicom_tags_are_sane(written: Path) -> None:
    seen = set()
    for path in sorted((written / "studies" / "study0").iterdir()):
        dataset = pydicom.dcmread(path)
        seen.add((dataset.SeriesDescription, dataset.SeriesInstanceUID))
        assert pydicom.uid.UID(dataset.SOPInstanceUID).is_valid
        assert dataset.PatientIdentityRemoved == "YES"
        assert dataset.PatientBirthDate == ""
        assert dataset.StudyDate == ""
        assert dataset.pixel_array.max() > 50
        assert dataset.pixel_array.max() <= 4095
    assert {name for name, _ in seen} == {"T1_TSE_SAG", "T2_TSE_SAG", "T2_TSE_TRA"}
    assert len(seen) == 3


def test_writing_one_study(tmp_path: Path) -> None:
    drawn = draw_phantom(np.random.default_rng(1), (160, 192))
    record = write_phantom_study(
        tmp_path / "s", drawn, record_of(drawn, "x-1"), identity="1", slices=1
    )
    (study,) = scan(tmp_path / "s")
    choice = choose_slice(study)
    assert (study.study_uid, choice.slice.instance_uid) == (record.study_uid, record.instance_uid)
    assert tmp_path / str(record.file) == choice.slice.path
    assert (choice.slice.rows, choice.slice.columns) == (160, 192)


@pytest.mark.parametrize(
    ("format", "there", "absent"),
    [("png", "frames", "studies"), ("dicom", "studies", "frames")],
)
def test_one_form_alone(
    run_cli: RunCli, tmp_path: Path, format: str, there: str, absent: str
) -> None:
    out = tmp_path / "out"
    words = (f"out={out}", "n=1", "size=128", "slices=1", f"format={format}")
    code, output, _ = run_cli("data", "phantom", *words)
    assert code == 0
    assert f"{out}: 1 phantom" in output
    assert (out / there).is_dir()
    assert not (out / absent).exists()


def test_existing_output_is_kept_unless_asked(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    words = ("data", "phantom", f"out={tmp_path}", "n=1", "size=128", "slices=1", "format=png")
    code, _, errors = run_cli(*words)
    assert (code, "exists already" in errors) == (1, True)
    assert (tmp_path / "mine.txt").read_text() == "keep me"
    assert run_cli(*words, "overwrite=true")[0] == 0
    assert not (tmp_path / "mine.txt").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("n=0", "n=0: out of range"),
        ("size=7", "size=7: out of range"),
        ("region=thoracic", "region=thoracic: not an allowed value"),
        ("format=png,tiff", "format=tiff: not an allowed value"),
        ("seeds=1", "unknown key 'seeds'; did you mean 'seed'?"),
    ],
)
def test_bad_keys(run_cli: RunCli, tmp_path: Path, word: str, message: str) -> None:
    code, _, errors = run_cli("data", "phantom", f"out={tmp_path / 'out'}", word)
    assert code == 2
    assert message in errors
    assert not (tmp_path / "out").exists()
