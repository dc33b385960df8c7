"""Pictures of a volume's slices, marked in tools that know no volumes.

Every level's voxel has a value of its own. What a picture shows at a mark is what the image of the
dataset must show at the level's point, whatever way round the file holds its voxels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from spineline.converters.export_sources import EXPORT_SETTINGS, read_export
from spineline.converters.sources.exports.marks import ExportedImage
from spineline.converters.sources.exports.slices import SliceRules
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.labels import LEVELS

WIDE, HIGH, SLICES = 60, 130, 5  # front to back, head to foot, side to side
TOOLS = ("coco", "cvat", "labelstudio", "labelme")
VALUES = tuple(1000 + 100 * n for n in range(11))


def oriented(axes: str, seed: int = 0) -> np.ndarray:
    """Voxels in the order of ``axes`` (such as ``RAS``): the spine lies in slice 3 from the left.

    Built as [from left to right, from front to back, from head to foot].
    """
    voxels = np.random.default_rng(seed).integers(0, 900, (SLICES, WIDE, HIGH)).astype(np.int16)
    for n, value in enumerate(VALUES):
        voxels[3, 20 + n, 8 + 11 * n] = value
    names = {"R": (0, 1), "L": (0, -1), "P": (1, 1), "A": (1, -1), "I": (2, 1), "S": (2, -1)}
    order = [names[letter][0] for letter in axes]
    steps = [slice(None, None, names[letter][1]) for letter in axes]
    return voxels.transpose(order)[tuple(steps)]


def write_nifti(path, axes, spacing=(4.0, 1.0, 1.0)):
    """A NIfTI file whose voxel axes run towards these sides; returns nibabel's array of it."""
    nibabel = pytest.importorskip("nibabel")
    pytest.importorskip("SimpleITK")
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, letter in enumerate(axes):
        row, sign = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1),
                     "I": (2, -1)}[letter]  # fmt: skip
        affine[row, column] = sign * spacing[row]
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(oriented(axes), affine), path)
    return np.asarray(nibabel.load(path).dataobj)


def number_in(axes):
    """The index of the spine's slice along the axis from side to side."""
    return 3 if "R" in axes else SLICES - 1 - 3


@dataclass
class Picture:
    """A saved slice: its name, its pixels, and further fields of its entry."""

    name: str
    pixels: np.ndarray
    fields: dict

    @property
    def marks(self):
        """The levels and where their voxels are seen, x and y."""
        for level, value in zip(LEVELS, VALUES, strict=True):
            ((y, x),) = np.argwhere(self.pixels == value).tolist()
            yield level, float(x), float(y)


def coco(pictures):
    return {
        "images": [
            {"id": n, "file_name": p.name, "width": p.pixels.shape[1], "height": p.pixels.shape[0],
             **p.fields}
            for n, p in enumerate(pictures)
        ],
        "categories": [{"id": n, "name": level} for n, level in enumerate(LEVELS)],
        "annotations": [
            {"id": 100 * n + k, "image_id": n, "category_id": k, "keypoints": [x, y, 2],
             "bbox": [x - 6, y - 2, 12, 4]}
            for n, p in enumerate(pictures) for k, (_, x, y) in enumerate(p.marks)
        ],
    }  # fmt: skip


def cvat(pictures):
    rows = ["<annotations><version>1.1</version>"]
    for n, p in enumerate(pictures):
        high, wide = p.pixels.shape
        rows.append(f'<image id="{n}" name="{p.name}" width="{wide}" height="{high}">')
        rows += [f'<points label="{v}" points="{x},{y}" occluded="0"/>' for v, x, y in p.marks]
        if p.fields:
            told = "".join(f'<attribute name="{k}">{v}</attribute>' for k, v in p.fields.items())
            rows.append(f'<tag label="about">{told}</tag>')
        rows.append("</image>")
    return "\n".join([*rows, "</annotations>"])


def labelstudio(pictures):
    tasks = []
    for n, p in enumerate(pictures):
        high, wide = p.pixels.shape
        result = [
            {"id": str(k), "type": "keypointlabels", "from_name": "l", "to_name": "i",
             "original_width": wide, "original_height": high,
             "value": {"x": 100 * x / wide, "y": 100 * y / high, "width": 1,
                       "keypointlabels": [level]}}
            for k, (level, x, y) in enumerate(p.marks)
        ]  # fmt: skip
        data = {"image": f"/data/upload/1/0a1b2c3d-{p.name}", **p.fields}
        tasks.append({"id": n, "data": data, "annotations": [{"id": n, "result": result}]})
    return tasks


def labelme(picture):
    shapes = [
        {"label": level, "points": [[x, y]], "shape_type": "point", "flags": {}}
        for level, x, y in picture.marks
    ]
    high, wide = picture.pixels.shape
    return {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": picture.name,
            "imageHeight": high, "imageWidth": wide, **picture.fields}  # fmt: skip


def export(tool, pictures, folder):
    folder.mkdir()
    if tool == "cvat":
        (folder / "annotations.xml").write_text(cvat(pictures))
    elif tool == "labelme":
        for n, picture in enumerate(pictures):
            (folder / f"{n}.json").write_text(json.dumps(labelme(picture)))
    else:
        content = {"coco": coco, "labelstudio": labelstudio}[tool](pictures)
        (folder / "export.json").write_text(json.dumps(content))
    return folder


def read(tool, annotations, images, **keys):
    settings = EXPORT_SETTINGS[tool](
        annotations=annotations, images=images, out=annotations.parent / "out", **keys
    )
    return read_export(settings)


def check(source, images=1):
    """Each level's point is the voxel of that level, in an image that has its head up."""
    assert [entry.detail for entry in source.left_out] == []
    assert len(source.records) == images
    for record in source.records:
        assert [s.level for s in record.structures] == list(LEVELS)
        pixels = source.pixels(record)
        assert pixels.shape == (record.height, record.width) == (HIGH, WIDE)
        seen = [pixels[int(y), int(x)] for x, y in (s.point_xy for s in record.structures)]
        assert seen == list(VALUES)
        xs = [s.point_xy[0] for s in record.structures]
        assert xs == sorted(xs)  # the spine that was drawn leans back: face left
    return True


def upright(voxels, axes):
    """The slice with the head up and the face left, by the letters of its axes alone."""
    plane = [letter for letter in axes if letter not in "RL"]
    picture = voxels.take(number_in(axes), axis=next(n for n, v in enumerate(axes) if v in "RL"))
    if plane[0] in "AP":
        picture, plane = picture.T, plane[::-1]  # rows from head to foot
    picture = picture[::-1] if plane[0] == "S" else picture
    return picture[:, ::-1] if plane[1] == "A" else picture


@pytest.mark.parametrize("axes", ["RAS", "LPI", "PSR", "SRA", "AIL"])
@pytest.mark.parametrize("tool", TOOLS)
def test_upright_pictures_of_a_volume_whatever_its_axes(tmp_path, tool, axes):
    voxels = write_nifti(tmp_path / "volumes/case7.nii.gz", axes)
    picture = Picture(f"case7_s{number_in(axes):03d}.png", upright(voxels, axes), {})
    marks = export(tool, [picture], tmp_path / "marks")
    source = read(tool, marks, tmp_path / "volumes")
    assert check(source)
    (record,) = source.records
    assert (record.image_id, record.study_id, record.file) == ("case7", "case7", "case7.nii.gz")
    assert record.spacing_rc_mm == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize(
    ("view", "shown"),
    [
        ("array", lambda voxels: voxels[3]),
        ("rot90", lambda voxels: np.rot90(voxels[3])),
        ("stored", None),
    ],
)
def test_the_views_of_libraries(tmp_path, view, shown):
    path = tmp_path / "volumes/case7.nii.gz"
    voxels = write_nifti(path, "RAS")
    if shown is None:
        import SimpleITK

        pixels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[:, :, 3]
    else:
        pixels = shown(voxels)
    marks = export("coco", [Picture("case7_3.png", pixels, {})], tmp_path / "marks")
    assert check(read("coco", marks, path.parent, view=view))


@pytest.mark.parametrize("tool", TOOLS)
def test_another_view_than_the_pictures_is_refused_with_those_that_fit(tmp_path, tool):
    voxels = write_nifti(tmp_path / "volumes/case7.nii.gz", "RAS")
    upside_down = Picture("case7_3.png", voxels[3].T, {})
    marks = export(tool, [upside_down], tmp_path / "marks")
    (entry,) = read(tool, marks, tmp_path / "volumes").failures
    assert entry.reason == "level_order"
    assert "do not run from top to bottom" in entry.detail
    assert entry.detail.endswith("view=stored says that they do")
    on_its_side = export(tool, [Picture("case7_3.png", voxels[3], {})], tmp_path / "side")
    (entry,) = read(tool, on_its_side, tmp_path / "volumes").failures
    assert entry.reason == "other_size"
    assert "130x60 pixels" in entry.detail
    assert "has 60x130 as view=upright shows it" in entry.detail
    assert entry.detail.endswith("view=array fits")


def test_pictures_with_pixels_made_square(tmp_path):
    cv2 = pytest.importorskip("cv2")
    voxels = write_nifti(tmp_path / "volumes/case7.nii.gz", "RAS", spacing=(4.0, 1.0, 2.0))
    small = upright(voxels, "RAS")
    tall = Picture("case7_3.png", small, {})
    marks = json.loads((export("coco", [tall], tmp_path / "a") / "export.json").read_text())
    shape = cv2.resize(small, (WIDE, 2 * HIGH)).shape
    marks["images"][0].update(height=shape[0], width=shape[1])
    for entry in marks["annotations"]:
        entry["keypoints"][1] = (entry["keypoints"][1] + 0.5) * 2 - 0.5
    (tmp_path / "a/export.json").write_text(json.dumps(marks))
    source = read("coco", tmp_path / "a", tmp_path / "volumes")
    assert check(source)
    assert source.records[0].spacing_rc_mm == pytest.approx((2.0, 1.0))
    marks["images"][0].update(height=300)
    (tmp_path / "a/export.json").write_text(json.dumps(marks))
    (entry,) = read("coco", tmp_path / "a", tmp_path / "volumes").failures
    assert (entry.reason, "60x300" in entry.detail) == ("other_size", True)


NAMES = [
    ("case7_3.png", {}),
    ("case7-s003.jpg", {}),
    ("CASE7_slice_3.png", {}),
    ("case7.nii.gz_003.png", {}),
    ("case7_frame3.png", {}),
    ("case7/003.png", {}),
    ("case7.nii.gz/slice_3.png", {}),
    ("case7.png", {"slice": 3}),
    ("a.png", {"volume": "case7", "slice": "3"}),
    ("a.png", {"Volume": "/data/case7.nii.gz", "Frame_ID": 3}),
    ("a.png", {"slice_index": 3}),
    ("frame_000003.png", {}),
]


@pytest.mark.parametrize(("name", "fields"), NAMES, ids=[f"{n}-{'-'.join(f)}" for n, f in NAMES])
@pytest.mark.parametrize("tool", ["coco", "cvat", "labelme"])
def test_how_pictures_say_their_slice(tmp_path, tool, name, fields):
    voxels = write_nifti(tmp_path / "volumes/case7.nii.gz", "RAS")
    marks = export(tool, [Picture(name, upright(voxels, "RAS"), fields)], tmp_path / "marks")
    assert check(read(tool, marks, tmp_path / "volumes"))


@pytest.mark.parametrize(
    ("name", "fields", "keys"),
    [
        ("im4_of_case7.png", {}, {"slices": r"im(?P<slice>\d+)_of_(?P<volume>.+)",
                                  "first_slice": 1}),
        ("case7_s4.png", {}, {"first_slice": 1}),
        ("case7.png", {"layer": 3}, {"slices": "layer"}),
        ("x3.png", {"volume": "case7.nii.gz"}, {"slices": r"x(?P<slice>\d+)"}),
    ],
    ids=["pattern", "from-one", "field", "pattern-and-field"],
)  # fmt: skip
def test_keys_say_how_pictures_are_named(tmp_path, name, fields, keys):
    voxels = write_nifti(tmp_path / "volumes/case7.nii.gz", "RAS")
    write_nifti(tmp_path / "volumes/case70.nii.gz", "RAS")
    marks = export("coco", [Picture(name, upright(voxels, "RAS"), fields)], tmp_path / "marks")
    source = read("coco", marks, tmp_path / "volumes", **keys)
    assert check(source)
    assert source.records[0].file == "case7.nii.gz"


def test_frames_of_a_video_task_of_cvat(tmp_path):
    voxels = write_nifti(tmp_path / "volumes/case7.nii.gz", "RAS")
    write_nifti(tmp_path / "volumes/case8.nii.gz", "RAS")
    marks = Picture("", upright(voxels, "RAS"), {}).marks
    tracks = [
        f'<track id="{n}" label="{level}"><points frame="3" outside="0" points="{x},{y}"/></track>'
        for n, (level, x, y) in enumerate(marks)
    ]
    size = f"<original_size><width>{WIDE}</width><height>{HIGH}</height></original_size>"
    for n, about in enumerate(
        (
            "<name>case7</name><source>t2.zip</source>",
            "<name>batch</name><source>case7.mp4</source>",
        )
    ):
        path = tmp_path / f"{n}.xml"
        meta = f"<meta><task><id>1</id>{about}{size}</task></meta>"
        path.write_text(f"<annotations>{meta}{''.join(tracks)}</annotations>")
        source = read("cvat", path, tmp_path / "volumes")
        assert check(source)
        assert source.records[0].file == "case7.nii.gz"
    path.write_text(f"<annotations><meta>{size}</meta>{''.join(tracks)}</annotations>")
    (entry,) = read("cvat", path, tmp_path / "volumes").failures
    assert "no file frame_000003 in the images folder, nor a volume" in entry.detail


def test_videos_of_coco(tmp_path):
    voxels = write_nifti(tmp_path / "volumes/case7.nii.gz", "RAS")
    write_nifti(tmp_path / "volumes/case8.nii.gz", "RAS")
    picture = Picture("x/1.png", upright(voxels, "RAS"), {"video_id": 4, "frame_id": 3})
    content = {**coco([picture]), "videos": [{"id": 4, "name": "case7"}]}
    (tmp_path / "vid.json").write_text(json.dumps(content))
    assert check(read("coco", tmp_path / "vid.json", tmp_path / "volumes"))


def test_volumes_of_one_name_are_several_studies(tmp_path):
    for case in ("a", "b"):
        voxels = write_nifti(tmp_path / f"volumes/{case}/T2.nii.gz", "RAS")
    pictures = [Picture(f"{case}/T2_3.png", upright(voxels, "RAS"), {}) for case in ("a", "b")]
    source = read("coco", export("coco", pictures, tmp_path / "marks"), tmp_path / "volumes")
    assert check(source, images=2)
    assert [r.study_id for r in source.records] == ["a-T2", "b-T2"]
    nowhere = export("coco", [Picture("T2_3.png", upright(voxels, "RAS"), {})], tmp_path / "n")
    (entry,) = read("coco", nowhere, tmp_path / "volumes").failures
    assert (entry.reason, "2 volumes fit" in entry.detail) == ("several_images", True)


@pytest.mark.parametrize(
    ("name", "fields", "keys", "reason", "words"),
    [
        ("case9_3.png", {}, {}, "label_without_frame",
         "slice 12 of case7.nii.gz would be called case7_012"),
        ("case7.png", {}, {}, "no_slice", "name such as case7_012, a field slice, or slices="),
        ("case7_5.png", {}, {}, "no_slice", "has 5, from 0; with first_slice=1, they count from 1"),
        ("case7_77.png", {}, {}, "no_slice", "slice 77 is none of case7.nii.gz, which has 5"),
        ("case7_0.png", {}, {"first_slice": 1}, "no_slice", "which has 5, from 1"),
        ("case7.png", {"slice": "mid"}, {}, "no_slice", "slice is 'mid', wanted a whole number"),
        ("a.png", {"volume": "other", "slice": 3}, {}, "label_without_frame",
         "nor a volume 'other'; the nearest is case7.nii.gz"),
        ("case7_3.png", {}, {"slices": r"(?P<volume>.+)\.(?P<slice>\d+)"}, "", ""),
        ("../../etc/case7_3.png", {}, {}, "", ""),
    ],
    ids=["none", "no-number", "one-based", "far", "zero", "word", "other", "no-match", "outside"],
)  # fmt: skip
def test_what_says_no_slice_is_left_out(tmp_path, name, fields, keys, reason, words):
    voxels = write_nifti(tmp_path / "volumes/case7.nii.gz", "RAS")
    marks = export("coco", [Picture(name, upright(voxels, "RAS"), fields)], tmp_path / "marks")
    source = read("coco", marks, tmp_path / "volumes", **keys)
    if not reason:
        assert check(source)
        return
    (entry,) = source.failures
    assert (entry.reason, words in entry.detail) == (reason, True), entry.detail
    assert source.records == ()


@pytest.mark.parametrize("name", ["other.nii.gz", "other.png"])
def test_a_table_that_names_another_volume_is_not_taken_for_the_only_one(tmp_path, name):
    voxels = write_nifti(tmp_path / "volumes/case7.nii.gz", "RAS")
    assert voxels.shape == (SLICES, WIDE, HIGH)
    (tmp_path / "points.csv").write_text(f"image,slice,x,y,level\n{name},3,5,5,L1\n")
    (entry,) = read("csv", tmp_path / "points.csv", tmp_path / "volumes").failures
    assert entry.reason == "label_without_frame"


def test_a_volume_that_cannot_be_read_says_so_by_its_name(tmp_path):
    voxels = write_nifti(tmp_path / "volumes/case7.nii.gz", "RAS")
    (tmp_path / "volumes/case8.nii.gz").write_bytes(b"\x1f\x8bnothing")
    pictures = [Picture("case8_3.png", upright(voxels, "RAS"), {})]
    source = read("coco", export("coco", pictures, tmp_path / "marks"), tmp_path / "volumes")
    (entry,) = source.failures
    assert "case8.nii.gz: cannot be read as NIfTI" in entry.detail
    assert str(tmp_path) not in entry.detail
    assert "0x" not in entry.detail  # no place in memory: the same input gives the same bytes


def test_plain_images_come_before_slices(tmp_path, spine):
    """A picture that is there itself is taken, though its name begins with a volume's."""
    write_nifti(spine.images / "a.nii.gz", "RAS")
    (spine.images / "a-1.png").rename(spine.images / "a_3.png")
    rows = ["image,x,y,level"]
    rows += [f"a_3.png,{x},{y},{level}" for level, (x, y), _ in spine.marks]
    (tmp_path / "points.csv").write_text("\n".join(rows))
    (record,) = read("csv", tmp_path / "points.csv", spine.images).records
    assert record.file == "a_3.png"


@pytest.mark.parametrize("axes", ["RAS", "PSR", "SRA"])
def test_a_table_and_markups_of_volumes_stored_the_other_way(tmp_path, axes):
    """Points by voxels and points in the patient reach the same upright image."""
    path = tmp_path / "volumes/case7.nii.gz"
    voxels = write_nifti(path, axes)
    import nibabel

    affine, across = nibabel.load(path).affine, next(n for n, v in enumerate(axes) if v in "RL")
    rows, points = ["image,slice,x,y,level"], []
    for level, value in zip(LEVELS, VALUES, strict=True):
        (index,) = np.argwhere(voxels == value).tolist()
        x, y = (v for n, v in enumerate(index) if n != across)
        rows.append(f"case7.nii.gz,{index[across]},{x},{y},{level}")
        place = (affine @ [*index, 1])[:3].tolist()
        points.append({"label": level, "position": place})
    (tmp_path / "points.csv").write_text("\n".join(rows))
    assert check(read("csv", tmp_path / "points.csv", path.parent))
    markups = [{"type": "Fiducial", "coordinateSystem": "RAS", "controlPoints": points}]
    (tmp_path / "case7.mrk.json").write_text(json.dumps({"markups": markups}))
    assert check(read("slicer", tmp_path / "case7.mrk.json", path.parent))


@pytest.mark.parametrize(
    ("slices", "match"),
    [
        (r"(?P<volume>.+)_\d+", "has no group slice"),
        ("(?P<slice>", "is not a regular expression"),
        ("lyaer", "is not a field of the export's images; did you mean 'layer'"),
    ],
    ids=["group", "broken", "field"],
)
def test_keys_that_cannot_say_a_slice(slices, match):
    entry = ExportedImage("x", "a.png", attributes=(("layer", "3"),))
    with pytest.raises(ConfigError, match=match):
        SliceRules(slices).check_field([entry])
