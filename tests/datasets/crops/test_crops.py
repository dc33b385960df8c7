"""Crops: geometry worked out by hand, jitter, balancing, the command and its folder."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from spineline.datasets.common.errors import AnnotationError, ConfigError
from spineline.datasets.crops.extract import extract_crops, jittered_box, spine_directions
from spineline.datasets.crops.files import load_crops, write_crops
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.crops.table import CropRow, CropTable, balance_with_noise, make_crops
from spineline.datasets.dataset import load_dataset
from spineline.datasets.labels import LEVELS
from spineline.datasets.types import ImageRecord, Structure

Cli = Callable[..., tuple[int, str, str]]

TAGS: tuple[tuple[str, ...], ...] = (
    ("v1",), ("v1",), ("v1", "v5"), ("v2",), ("v2",), (), ("v3",), ("v1",), ("v4", "v5"), ("v2",),
    ("v5",),
)  # fmt: skip
"""Tags of the eleven levels; L3 is unlabelled."""

SEVEN = (2, 0, 2, 1, 3, 4, 0, 5, 1, 6)
BINARY = (0, 0, 1, 0, 0, 0, 0, 1, 0, 1)


def noise_image(shape: tuple[int, int] = (40, 50), seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def spine_record(image_id: str, make_structure: Callable[..., Structure]) -> ImageRecord:
    structures = tuple(
        make_structure(level, (40.0 + n, 10.0 + 8 * n), (7.0, 5.0), TAGS[n])
        for n, level in enumerate(LEVELS)
    )
    return ImageRecord(image_id, image_id[:3], 80, 100, structures)


@pytest.fixture
def dataset_folder(
    make_structure: Callable[..., Structure], write_dataset: Callable[..., Path]
) -> Path:
    """Two training studies, one to validate, one to test; eleven structures, ten labelled."""
    parts = {"train": ["001-000", "002-000"], "val": ["003-000"], "test": ["004-000"]}
    return write_dataset(
        {
            part: [
                (spine_record(i, make_structure), noise_image((100, 80), int(i[:3]))) for i in ids
            ]
            for part, ids in parts.items()
        }
    )


@pytest.mark.parametrize(
    ("points", "directions"),
    [
        ([[5, 5]], [[0, 1]]),
        ([[5, 5], [5, 9]], [[0, 1], [0, 1]]),
        ([[0, 0], [3, 4], [6, 0]], [[0.6, 0.8], [1, 0], [0.6, -0.8]]),
        ([[2, 2], [2, 2]], [[0, 1], [0, 1]]),
        ([], np.empty((0, 2))),
    ],
    ids=["alone", "upright", "ends and middle", "coinciding", "none"],
)
def test_spine_directions(points: object, directions: object) -> None:
    np.testing.assert_allclose(spine_directions(points), directions)


def test_a_box_of_the_crops_size_is_a_slice() -> None:
    image = noise_image()
    # Eight pixels with centres at x 8 … 15 and y 6 … 13 are centred on (11.5, 9.5).
    crop = extract_crops(image, [[11.5, 9.5]], [[7.5, 5.5, 15.5, 13.5]], CropSpec(8))[0]
    np.testing.assert_array_equal(crop, image[6:14, 8:16])


def test_margin_scales_about_the_centre() -> None:
    image = noise_image()
    box = [[9.5, 7.5, 13.5, 11.5]]
    crop = extract_crops(image, [[11.5, 9.5]], box, CropSpec(8, margin=2.0))[0]
    np.testing.assert_array_equal(crop, image[6:14, 8:16])


@pytest.mark.parametrize(
    ("pixel_xy", "crop_xy"),
    [((20, 12), (8, 8)), ((13, 12), (1, 8)), ((20, 19), (8, 15)), ((26, 5), (14, 1))],
)
def test_a_marked_pixel_lands_where_it_should(
    pixel_xy: tuple[int, int], crop_xy: tuple[int, int]
) -> None:
    image = np.zeros((30, 40), dtype=np.uint8)
    image[pixel_xy[1], pixel_xy[0]] = 255
    # The window covers x 12 … 27 and y 4 … 19 (pixel centres).
    crop = extract_crops(image, [[19.5, 11.5]], [[11.5, 3.5, 27.5, 19.5]], CropSpec(16))[0]
    assert np.unravel_index(crop.argmax(), crop.shape) == (crop_xy[1], crop_xy[0])
    assert crop.sum() == 255


def test_a_larger_box_is_averaged_over_areas() -> None:
    image = noise_image((40, 60))
    crop = extract_crops(image, [[0, 0]], [[3.5, 1.5, 51.5, 33.5]], CropSpec(16))[0]
    cells = image[2:34, 4:52].reshape(16, 2, 16, 3).mean(axis=(1, 3))
    assert np.abs(crop - cells).max() <= 0.5 + 1e-6


def test_aligned_on_a_horizontal_spine_is_a_quarter_turn() -> None:
    image = noise_image((64, 64))
    points, boxes = [[20, 31.5], [31.5, 31.5], [44, 31.5]], [[23.5, 23.5, 39.5, 39.5]] * 3
    upright = extract_crops(image, points, boxes, CropSpec(16))[1]
    turned = extract_crops(image, points, boxes, CropSpec(16, align="spine"))[1]
    # The spine leads to the right; in the crop it leads down, what was above it is at the right.
    np.testing.assert_array_equal(turned, np.rot90(upright, -1))


def test_aligned_on_a_tilted_spine_the_line_is_upright() -> None:
    image = np.zeros((200, 200), dtype=np.uint8)
    cv2.line(image, (60, 20), (140, 180), 255, 3)
    points = [[70, 40], [100, 100], [130, 160]]
    boxes = [[x - 28, y - 20, x + 28, y + 20] for x, y in points]
    for crop in extract_crops(image, points, boxes, CropSpec(32, align="spine")):
        columns = crop.mean(axis=0)
        assert columns[15:17].min() > 200
        assert columns[:13].max() == columns[19:].max() == 0
    upright = extract_crops(image, points, boxes, CropSpec(32))[1]
    assert upright[0].argmax() + 8 < upright[-1].argmax()


def test_outside_the_frame_the_edge_is_repeated() -> None:
    image = noise_image((10, 10))
    crop = extract_crops(image, [[0, 0]], [[-4.5, -4.5, 3.5, 3.5]], CropSpec(8))[0]
    np.testing.assert_array_equal(crop, np.pad(image[:4, :4], ((4, 0), (4, 0)), mode="edge"))


@pytest.mark.parametrize(
    "box",
    [(500, 500, 540, 540), (5, 5, 5, 5), (-1e6, -1e6, 1e6, 1e6), (3.2, 3.2, 3.3, 3.3)],
    ids=["outside", "empty", "huge", "below a pixel"],
)
def test_degenerate_boxes_still_give_a_crop(box: tuple[float, ...]) -> None:
    crops = extract_crops(noise_image(), [[5, 5]], [box], CropSpec(16, align="spine"))
    assert crops.shape == (1, 16, 16)


def test_no_boxes_give_no_crops() -> None:
    assert extract_crops(noise_image(), [], [], CropSpec(16)).shape == (0, 16, 16)


@pytest.mark.parametrize(
    ("image", "points", "boxes", "message"),
    [
        (np.zeros((5, 5), np.uint16), [[1, 1]], [[0, 0, 2, 2]], "uint8"),
        (np.zeros((5, 5, 3), np.uint8), [[1, 1]], [[0, 0, 2, 2]], r"\(5, 5, 3\)"),
        (np.zeros((5, 5), np.uint8), [[1, 1]], [[0, 0, np.nan, 2]], "finite"),
        (np.zeros((5, 5), np.uint8), [[1, 1], [2, 2]], [[0, 0, 2, 2]], "2 points but 1 boxes"),
    ],
    ids=["depth", "colour", "nan", "counts"],
)
def test_bad_input_is_refused(
    image: NDArray[np.uint8], points: object, boxes: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        extract_crops(image, points, boxes, CropSpec(8))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 4}, "size=4"),
        ({"margin": 0.0}, "margin=0"),
        ({"margin": float("nan")}, "margin=nan"),
        ({"align": "up"}, "align=up"),
    ],
)
def test_bad_specs_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CropSpec(**values)  # type: ignore[arg-type]


def test_unlabelled_structures_stay_out(dataset_folder: Path) -> None:
    table = make_crops(load_dataset(dataset_folder), "val", CropSpec(16))
    assert [row.level for row in table.rows] == [level for level in LEVELS if level != "L3"]
    assert tuple(table.seven) == SEVEN
    assert tuple(table.binary) == BINARY
    assert set(table.study_id) == {"003"}
    assert table.pixels.shape == (10, 16, 16)


def test_unlabelled_structures_still_give_the_direction(dataset_folder: Path) -> None:
    dataset = load_dataset(dataset_folder)
    record = dataset.records["val"][0]
    image = cv2.imread(str(dataset.image_path(record)), cv2.IMREAD_GRAYSCALE)
    spec = CropSpec(16, 1.2, "spine")
    points = [s.point_xy for s in record.structures]
    wanted = extract_crops(image, points, [s.box_xyxy for s in record.structures], spec)
    table = make_crops(dataset, "val", spec)
    np.testing.assert_array_equal(table.pixels, np.delete(wanted, LEVELS.index("L3"), axis=0))


def test_windows_of_padded_crops_are_the_plain_crops(dataset_folder: Path) -> None:
    dataset = load_dataset(dataset_folder)
    for align in ("none", "spine"):
        spec = CropSpec(16, 1.3, align)  # type: ignore[arg-type]
        padded = make_crops(dataset, "train", spec, pad=4)
        plain = make_crops(dataset, "train", spec)
        assert padded.pixels.shape == (20, 24, 24)
        difference = padded.windows().astype(int) - plain.pixels.astype(int)
        # Rounding: OpenCV before 5 takes places to a thirty-second of a pixel.
        assert np.abs(difference).max() <= (1 if int(cv2.__version__.split(".")[0]) >= 5 else 4)


@pytest.mark.parametrize(
    ("variant", "box"),
    [
        ("", [10, 20, 24, 30]),
        ("up", [10, 18.6, 24, 28.6]),
        ("down", [10, 21.4, 24, 31.4]),
        ("left", [8.6, 20, 22.6, 30]),
        ("right", [11.4, 20, 25.4, 30]),
    ],
)
def test_jitter_is_a_tenth_of_the_larger_side(variant: str, box: Sequence[float]) -> None:
    np.testing.assert_allclose(jittered_box((10, 20, 24, 30), variant), box)


def test_jitter_gives_five_crops_per_point(dataset_folder: Path) -> None:
    dataset = load_dataset(dataset_folder)
    table = make_crops(dataset, "train", CropSpec(14), jitter=True)
    assert len(table) == 5 * 20
    assert Counter(row.variant for row in table.rows) == dict.fromkeys(
        ("", "up", "down", "left", "right"), 20
    )
    record = dataset.records["train"][0]
    image = cv2.imread(str(dataset.image_path(record)), cv2.IMREAD_GRAYSCALE)
    for n, (dx, dy) in enumerate([(0, 0), (0, -1.4), (0, 1.4), (-1.4, 0), (1.4, 0)]):
        box = np.add(record.structures[0].box_xyxy, (dx, dy, dx, dy))
        wanted = extract_crops(image, [[0, 0]], [box], CropSpec(14))[0]
        np.testing.assert_array_equal(table.pixels[n], wanted)


def test_noise_balancing_evens_out_the_classes_that_occur(dataset_folder: Path) -> None:
    dataset = load_dataset(dataset_folder)
    plain = make_crops(dataset, "train", CropSpec(16))
    table = make_crops(dataset, "train", CropSpec(16), balance="noise", seed=3)
    assert list(plain.counts().values()) == [4, 4, 4, 2, 2, 2, 2]
    assert list(table.counts().values()) == [4] * 7
    assert [row.variant for row in table.rows[:20]] == [""] * 20
    np.testing.assert_array_equal(table.pixels[:20], plain.pixels)
    assert Counter(row.variant for row in table.rows[20:]) == {"noise1": 8}
    again = make_crops(dataset, "train", CropSpec(16), balance="noise", seed=3)
    other = make_crops(dataset, "train", CropSpec(16), balance="noise", seed=4)
    np.testing.assert_array_equal(again.pixels, table.pixels)
    assert not np.array_equal(other.pixels, table.pixels)


def test_balancing_by_the_binary_classes(dataset_folder: Path) -> None:
    dataset = load_dataset(dataset_folder)
    table = make_crops(dataset, "train", CropSpec(16), balance="noise", balance_by="binary")
    assert table.counts("binary") == {"not-v5": 14, "v5": 14}


def flat_table(codes: Sequence[tuple[str, ...]], level: str = "L4-L5") -> CropTable:
    rows = tuple(
        CropRow("train", f"{n:03}", f"{n:03}", level, tags) for n, tags in enumerate(codes)
    )
    return CropTable(CropSpec(64), np.full((len(rows), 64, 64), 128, np.uint8), rows)


def test_copies_are_spread_evenly_and_carry_the_noise_asked_for() -> None:
    table = balance_with_noise(flat_table([("v1",)] * 9 + [("v2",)] * 2), noise_std=12.0)
    copies = table.rows[11:]
    assert len(copies) == 7
    assert sorted(Counter(row.image_id for row in copies).values()) == [3, 4]
    assert {row.pathology for row in copies} == {("v2",)}
    assert len({(row.image_id, row.variant) for row in table.rows}) == len(table)
    assert table.pixels[11:].std() == pytest.approx(12.0, rel=0.02)
    assert table.pixels[11:].mean() == pytest.approx(128, abs=0.3)


def test_balancing_nothing_gives_nothing() -> None:
    assert len(balance_with_noise(flat_table([]))) == 0


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize(
    "option", [{"jitter": True}, {"balance": "noise"}], ids=["jitter", "noise"]
)
def test_only_training_crops_are_made_more(
    dataset_folder: Path, part: str, option: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match="only for training crops"):
        make_crops(load_dataset(dataset_folder), part, CropSpec(16), **option)  # type: ignore[arg-type]


def read_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "crops.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_writes_crops_and_says_how(
    dataset_folder: Path, tmp_path: Path, run_cli: Cli
) -> None:
    out = tmp_path / "crops"
    code, stdout, _ = run_cli(
        "data", "crops", f"data={dataset_folder}", f"out={out}", "size=16", "jitter=true",
        "balance=noise", "align=spine", "margin=1.2",
    )  # fmt: skip
    assert code == 0
    rows = read_csv(out)
    counts = Counter((row["part"], row["seven"]) for row in rows)
    assert {counts["train", str(code)] for code in range(7)} == {20}
    assert [sum(row["part"] == part for row in rows) for part in ("val", "test")] == [10, 10]
    assert all(row["variant"] == "" for row in rows if row["part"] != "train")
    for row in rows:
        variant = f"_{row['variant']}" if row["variant"] else ""
        assert row["file"] == f"{row['part']}/{row['image_id']}_{row['level']}{variant}.png"
        assert cv2.imread(str(out / row["file"]), cv2.IMREAD_UNCHANGED).shape == (16, 16)
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png")) == sorted(
        row["file"] for row in rows
    )
    record = yaml.safe_load((out / "run.yaml").read_text())
    assert record["counts"]["before"]["train"]["disc-bulging"] == 2
    assert record["counts"]["after"]["train"]["disc-bulging"] == 20
    assert record["counts"]["after"]["val"] == record["counts"]["before"]["val"]
    assert "disc-bulging" in stdout


def test_the_same_settings_give_the_same_bytes(
    dataset_folder: Path, tmp_path: Path, run_cli: Cli
) -> None:
    found = []
    for name in ("one", "two"):
        out = tmp_path / name
        words = (f"data={dataset_folder}", f"out={out}", "size=16", "balance=noise")
        assert run_cli("data", "crops", *words)[0] == 0
        files = sorted(p for p in out.rglob("*") if p.is_file() and p.name != "run.yaml")
        found.append([(p.relative_to(out), p.read_bytes()) for p in files])
    assert found[0] == found[1]


def test_existing_output_is_refused(dataset_folder: Path, tmp_path: Path, run_cli: Cli) -> None:
    out = tmp_path / "crops"
    words = ("data", "crops", f"data={dataset_folder}", f"out={out}", "size=16")
    assert run_cli(*words)[0] == 0
    before = (out / "crops.csv").stat().st_mtime_ns
    code, _, stderr = run_cli(*words)
    assert code == 1
    assert "overwrite=true" in stderr
    assert (out / "crops.csv").stat().st_mtime_ns == before
    assert run_cli(*words, "overwrite=true", "margin=2")[0] == 0


def test_an_unreadable_image_is_a_failure_and_the_rest_is_done(
    dataset_folder: Path, tmp_path: Path, run_cli: Cli
) -> None:
    (dataset_folder / "images" / "train" / "002-000.png").write_bytes(b"no image")
    out = tmp_path / "crops"
    code, _, stderr = run_cli("data", "crops", f"data={dataset_folder}", f"out={out}", "size=16")
    assert code == 1
    assert "002-000" in stderr
    assert {row["image_id"] for row in read_csv(out)} == {"001-000", "003-000", "004-000"}


def test_a_dataset_without_labels_is_refused(
    make_structure: Callable[..., Structure],
    write_dataset: Callable[..., Path],
    tmp_path: Path,
    run_cli: Cli,
) -> None:
    record = ImageRecord("001", "001", 80, 100, (make_structure("L1", (40, 40), (7, 5)),))
    folder = write_dataset({"train": [(record, noise_image((100, 80)))]})
    code, _, stderr = run_cli("data", "crops", f"data={folder}", f"out={tmp_path / 'out'}")
    assert code == 1
    assert "unlabelled" in stderr
    assert "empty_tag=v1" in stderr
    assert not (tmp_path / "out").exists()


def test_a_dataset_without_levels_is_refused(
    write_dataset: Callable[..., Path], tmp_path: Path, run_cli: Cli
) -> None:
    disc = Structure("", "disc", (40, 40), (30, 35, 50, 45), ("sick",))
    record = ImageRecord("001", "001", 80, 100, (disc,))
    folder = write_dataset({"train": [(record, noise_image((100, 80)))]})
    code, _, stderr = run_cli("data", "crops", f"data={folder}", f"out={tmp_path / 'out'}")
    assert code == 1
    assert "its discs have no level and are graded healthy or sick alone" in stderr
    assert "use detect train and detect val on it" in stderr
    assert not (tmp_path / "out").exists()


def test_a_dataset_without_structures_is_refused(
    write_dataset: Callable[..., Path], tmp_path: Path, run_cli: Cli
) -> None:
    record = ImageRecord("001", "001", 80, 100, ())
    folder = write_dataset({"train": [(record, noise_image((100, 80)))]})
    code, _, stderr = run_cli("data", "crops", f"data={folder}", f"out={tmp_path / 'out'}")
    assert code == 1
    assert "it holds no structure" in stderr


@pytest.fixture
def crops_folder(dataset_folder: Path, tmp_path: Path, run_cli: Cli) -> Path:
    out = tmp_path / "crops"
    words = (f"data={dataset_folder}", f"out={out}", "size=16", "margin=1.5", "align=spine")
    assert run_cli("data", "crops", *words)[0] == 0
    return out


def test_a_crops_folder_is_read_back(dataset_folder: Path, crops_folder: Path) -> None:
    dataset = load_dataset(dataset_folder)
    tables = load_crops(crops_folder)
    assert list(tables) == ["train", "val", "test"]
    for part, table in tables.items():
        wanted = make_crops(dataset, part, CropSpec(16, 1.5, "spine"))
        assert table.spec == wanted.spec
        assert table.rows == wanted.rows
        np.testing.assert_array_equal(table.pixels, wanted.pixels)


def test_without_a_run_record_the_size_is_the_files(crops_folder: Path) -> None:
    (crops_folder / "run.yaml").unlink()
    assert load_crops(crops_folder)["train"].spec == CropSpec(16, 1.0, "none")


def change_csv(folder: Path, old: str, new: str) -> None:
    path = folder / "crops.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("pathology", "tags", "column 'pathology' is missing"),
        ("train,train/001-000_L1.png", "fit,train/001-000_L1.png", "line 3: part 'fit'"),
        ("001,L1,vertebra,v1,0,0", "001,L1,vertebra,v1,1,0", "line 3: kind, seven, binary are"),
        ("001,L1,vertebra,v1,0,0", "001,L9,vertebra,v1,0,0", "line 3: level 'L9'"),
        ("001,L1,vertebra,v1,0,0", "001,L1,vertebra,v4,0,0", "pathology 'v4'"),
        ("001,L1,vertebra,v1,0,0", "001,L1,vertebra,,0,0", "pathology ''"),
        ("train/001-000_L1.png", "train/none.png", "none.png: cannot be read"),
        ("train/001-000_L1.png", "../../secret.png", "outside the folder"),
        ("train/001-000_L1.png", "/secret.png", "outside the folder"),
        ("train/001-000_L1.png", "run.yaml", "run.yaml: cannot be read as an image"),
    ],
)
def test_a_damaged_table_is_refused(crops_folder: Path, old: str, new: str, message: str) -> None:
    change_csv(crops_folder, old, new)
    with pytest.raises(AnnotationError, match=message):
        load_crops(crops_folder)


def test_a_crop_of_another_size_is_refused(crops_folder: Path) -> None:
    cv2.imwrite(str(crops_folder / "train/001-000_L1.png"), np.zeros((20, 20), np.uint8))
    with pytest.raises(AnnotationError, match="20x20 pixels, wanted 16x16"):
        load_crops(crops_folder)


def test_no_crops_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="spineline data crops"):
        load_crops(tmp_path)


@pytest.mark.parametrize(
    "keys", ["size: 16", "size: .inf, margin: 1, align: none"], ids=["few", "endless"]
)
def test_a_run_record_that_says_nothing_is_refused(crops_folder: Path, keys: str) -> None:
    (crops_folder / "run.yaml").write_text(f"settings: {{{keys}}}\n")
    with pytest.raises(AnnotationError, match="does not say how"):
        load_crops(crops_folder)


def test_written_windows_leave_the_surroundings_out(tmp_path: Path, dataset_folder: Path) -> None:
    table = make_crops(load_dataset(dataset_folder), "val", CropSpec(16), pad=4)
    write_crops(tmp_path / "folder", {"val": table})
    np.testing.assert_array_equal(load_crops(tmp_path / "folder")["val"].pixels, table.windows())
