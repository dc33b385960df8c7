"""Synthetic necks: C2 to T4 with dens, cord and airway, and a cervical source that goes with them.

Frame: mm in the mid-sagittal plane, x to the back, y to the feet, origin at the centre of C5. What
is drawn, and how it is marked, follows from the generator alone. The source has what real ones
have: slices beside the midline that are not usable, thoracic and deleted objects, a shape that is
no rectangle, boxes marked twice, wrapped XML, and stray ends of file names.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from lxml import etree

from spineline.datasets.cervical import USABLE_VALUE, CervicalColumns
from spineline.datasets.labels import NO_LEVEL
from spineline.datasets.phantoms.anatomy import Anatomy, Body, Disc
from spineline.datasets.phantoms.phantom import Phantom
from spineline.datasets.phantoms.render import (
    Canvas,
    Contrast,
    FloatImage,
    Look,
    View,
    coil_sensitivity,
    draw_look,
    ellipse,
    local,
    paint_body,
    paint_disc,
    paint_herniation,
)
from spineline.datasets.types import ImageRecord, Structure

FloatArray = npt.NDArray[np.float64]
BoxXyxy = tuple[float, float, float, float]

FRAME_SIZES_HW: tuple[tuple[int, int], ...] = ((384, 384), (384, 384), (512, 512))
"""Sizes that are drawn from where none is asked for."""

LATERAL_MM = 15.0
"""How far beside the midline the slice lies that is not usable."""

PATIENT_COLUMN = "Пациент"

_UNUSABLE_VALUE = "Не визуализируются"
_COMMENT_COLUMN = "Комментарий"
_DISC_CLASS = "mezhpozvonochnyj-disk"
_HEALTHY = "zdorovyj"

_NAMES = ("C2", "C3", "C4", "C5", "C6", "C7", "T1", "T2", "T3", "T4")
# Typical adult sizes in mm, top to bottom; C2 without its dens.
_HEIGHTS = (19.0, 13.5, 13.5, 13.0, 13.5, 14.5, 16.5, 17.5, 18.0, 18.5)
_DEPTHS = (15.5, 16.0, 16.5, 17.0, 17.5, 17.5, 18.0, 19.0, 20.0, 21.0)
_DISC_HEIGHTS = (5.6, 5.8, 5.8, 5.8, 5.8, 5.4, 4.6, 4.2, 4.2)
# Direction of the line of centres at each vertebra: degrees from straight down, to the back.
_ANGLES = (-7.0, -4.0, 0.0, 5.0, 11.0, 17.0, 21.0, 21.0, 17.0, 12.0)
_MARKED = ("C2-C3", "C3-C4", "C4-C5", "C5-C6", "C6-C7")
_LAST = "C7-T1"  # marked in a few images
_THORACIC = "T1-T2"
_MARGIN_MM = 1.5  # between a disc and the rectangle around it
_CANAL_MM = 13.0


@dataclass(frozen=True, slots=True)
class MarkedObject:
    """One object as a reader marked it: class, corners in whole pixels, and whether deleted."""

    name: str
    points_xy: tuple[tuple[int, int], ...]
    deleted: bool = False


def draw_neck_phantom(
    rng: np.random.Generator, size_hw: tuple[int, int] | None = (384, 384)
) -> Phantom:
    """A random neck in a random frame; C2 to T1 lie inside it."""
    drawn_size = FRAME_SIZES_HW[int(rng.integers(len(FRAME_SIZES_HW)))]
    height, width = drawn_size if size_hw is None else size_hw
    anatomy, look = draw_neck(rng), draw_look(rng)
    spacing = round(float(rng.uniform(215, 250)) / max(height, width), 5)
    x, y = rng.normal(0.52, 0.025) * width, rng.normal(0.53, 0.025) * height
    csf = float(np.exp(rng.uniform(*np.log((260.0, 2600.0)))))
    look = replace(look, noise=look.noise * 0.8, coil_centre_mm=float(rng.uniform(-10, 15)))
    view = View((height, width), spacing, (round(float(x), 2), round(float(y), 2)))
    return Phantom(anatomy, look, view, csf, region="cervical")


def draw_neck(rng: np.random.Generator) -> Anatomy:
    """A random neck: size, lordosis, and disease that is commonest at C5-C6."""
    scale, age = float(rng.uniform(0.9, 1.08)), float(rng.beta(1.6, 1.6))
    tilt, curve = rng.normal(0, 4.0), rng.normal(1, 0.25)
    angles = np.radians(tilt + curve * np.array(_ANGLES) + rng.normal(0, 0.8, len(_ANGLES)))
    traits = [_disc_traits(rng, n, age) for n in range(len(_DISC_HEIGHTS))]
    heights = [h * scale * rng.normal(1, 0.025) for h in _HEIGHTS]
    depths = [d * scale * rng.normal(1, 0.02) for d in _DEPTHS]
    gaps = [
        h * scale * rng.normal(1, 0.05) * (1 - loss)
        for h, (*_, loss) in zip(_DISC_HEIGHTS, traits, strict=True)
    ]
    line, middles = _line(heights, gaps, angles)
    lipped = rng.random(len(_NAMES)) < 0.35 * age
    lips = [
        (float(rng.uniform(1, 2.5)), float(rng.uniform(0.5, 1.5))) if has else (0.0, 0.0)
        for has in lipped
    ]
    bodies = tuple(
        Body(
            name, (middles[2 * n][1], middles[2 * n][2]), float(angles[n]), heights[n], depths[n],
            lips=lips[n],
        )
        for n, name in enumerate(_NAMES)
    )  # fmt: skip
    discs = tuple(
        Disc(
            f"{_NAMES[n]}-{_NAMES[n + 1]}", (middles[2 * n + 1][1], middles[2 * n + 1][2]),
            float((angles[n] + angles[n + 1]) / 2), gaps[n], (depths[n] + depths[n + 1]) / 2,
            middles[2 * n + 1][0], (tag,), nucleus, bulge * scale, 0.4 * bulge * scale, migration,
        )
        for n, (tag, nucleus, bulge, migration, _) in enumerate(traits)
    )  # fmt: skip
    return Anatomy(bodies, discs, line, scale, conus_s=1e3, sac_end_s=1e3)


def neck_record(phantom: Phantom, image_id: str) -> ImageRecord:
    """The annotation of the mid-sagittal slice: the discs that a reader marks as cervical."""
    structures = []
    for disc in _marked_discs(phantom):
        box = disc_box(disc, phantom.view)
        point = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        tag = "healthy" if disc.tags == ("v1",) else "sick"
        structures.append(Structure(NO_LEVEL, "disc", point, box, (tag,)))
    height, width = phantom.view.size_hw
    spacing = (phantom.view.spacing_mm, phantom.view.spacing_mm)
    study = image_id.split("-", maxsplit=1)[0]
    ordered = tuple(sorted(structures, key=lambda s: s.place))
    return ImageRecord(image_id, study, width, height, ordered, spacing)


def disc_box(disc: Disc, view: View) -> BoxXyxy:
    """The upright rectangle around a disc, corners at whole pixels inside the frame."""
    half = disc.depth / 2
    front, back = -half - disc.bulge_front - _MARGIN_MM, half + disc.bulge + _MARGIN_MM
    v = disc.height / 2 + _MARGIN_MM
    corners = local(disc.centre, disc.angle, [front, back, back, front], [-v, -v, v, v])
    pixels = np.rint(view.to_pixels(corners))
    height, width = view.size_hw
    low = np.clip(pixels.min(axis=0), 0, [width - 1, height - 1])
    high = np.clip(pixels.max(axis=0), 0, [width - 1, height - 1])
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def marked_objects(phantom: Phantom, rng: np.random.Generator) -> tuple[MarkedObject, ...]:
    """What a reader marked: the discs, and at times what conversion has to leave out."""
    discs = {disc.name: disc for disc in phantom.anatomy.discs}
    found = [
        MarkedObject(_class_of(disc, "shejnyj"), _corners(disc_box(disc, phantom.view)))
        for disc in _marked_discs(phantom)
    ]
    sick = [disc for disc in _marked_discs(phantom) if disc.tags != ("v1",)]
    first = _corners(disc_box(_marked_discs(phantom)[0], phantom.view))
    healthy = f"shejnyj-{_DISC_CLASS}-{_HEALTHY}"
    if rng.random() < 0.4:
        disc = discs[_THORACIC]
        box = disc_box(disc, phantom.view)
        found.append(MarkedObject(_class_of(disc, "grudnoj"), _corners(box)))
    if rng.random() < 0.3:
        moved = tuple((x + 3, y + 2) for x, y in first)
        found.append(MarkedObject(healthy, moved, deleted=True))
    if rng.random() < 0.2:
        found.append(MarkedObject(healthy, (*first[:3], (first[3][0] + 2, first[3][1] - 1))))
    if sick and rng.random() < 0.3:  # marked twice: the sick one stays
        found.insert(0, MarkedObject(healthy, _corners(disc_box(sick[0], phantom.view))))
    return tuple(found)


def labelme_xml(
    filename: str, size_hw: tuple[int, int], objects: Sequence[MarkedObject], *, wrapped: bool
) -> str:
    """A LabelMe annotation as text, at times wrapped in ``annotationgroup``."""
    root = etree.Element("annotation")
    _add(root, "filename", filename)
    _add(root, "folder", "spine")
    size = _add(root, "imagesize")
    _add(size, "nrows", str(size_hw[0]))
    _add(size, "ncols", str(size_hw[1]))
    for number, item in enumerate(objects):
        node = _add(root, "object")
        for name, text in (
            ("name", item.name), ("deleted", str(int(item.deleted))), ("verified", "0"),
            ("occluded", "no"), ("id", str(number)),
        ):  # fmt: skip
            _add(node, name, text)
        polygon = _add(node, "polygon")
        _add(polygon, "username", "anonymous")
        for x, y in item.points_xy:
            corner = _add(polygon, "pt")
            _add(corner, "x", str(x))
            _add(corner, "y", str(y))
    if wrapped:
        group = etree.Element("annotationgroup")
        group.append(root)
        root = group
    return str(etree.tostring(root, encoding="unicode"))


def source_rows(number: int, image_id: str, xml: str) -> list[list[str]]:
    """The rows of one patient: the mid-sagittal slice, and one beside it that is not usable."""
    stray = ("", "/n", "", "\n")[number % 4]
    patient = f"phantom {number:03d}"
    beside = f"{image_id.split('-', maxsplit=1)[0]}-001.png"
    return [
        [str(2 * number), f"{image_id}.png{stray}", USABLE_VALUE, xml, "", patient],
        [str(2 * number + 1), beside, _UNUSABLE_VALUE, "", "", patient],
    ]


def source_csv(rows: Sequence[Sequence[str]], *, mark: bool) -> bytes:
    """Rows as a CSV file in UTF-8, with a byte-order mark or without."""
    columns = CervicalColumns()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["ID", columns.file, columns.usable, columns.xml, _COMMENT_COLUMN, PATIENT_COLUMN]
    )
    writer.writerows(rows)
    return text.getvalue().encode("utf-8-sig" if mark else "utf-8")


def render_neck(
    anatomy: Anatomy, look: Look, view: View, *, contrast: Contrast = "t2", lateral_mm: float = 0.0
) -> FloatImage:
    """One sagittal slice of a neck; arguments and result as of ``render_sagittal``."""
    canvas = Canvas(view, contrast, np.random.default_rng(look.seed))
    _paint_outline(canvas, anatomy, look)
    _paint_head(canvas, anatomy, lateral_mm)
    _paint_throat(canvas, anatomy, lateral_mm)
    _paint_nape(canvas, anatomy, lateral_mm)
    _paint_canal(canvas, anatomy, lateral_mm)
    _paint_front_strip(canvas, anatomy)
    for disc in anatomy.discs:
        paint_disc(canvas, disc)
    _paint_dens(canvas, anatomy, look, lateral_mm)
    for body in anatomy.bodies:
        paint_body(canvas, body, look, lateral_mm)
    for disc in anatomy.discs:
        paint_herniation(canvas, disc, lateral_mm)
    noise = np.random.default_rng([look.seed, 11, round(lateral_mm * 10) + 10_000, len(contrast)])
    return canvas.finish(look, coil_sensitivity(anatomy, look, view), noise)


def _disc_traits(
    rng: np.random.Generator, n: int, age: float
) -> tuple[str, float, float, float, float]:
    """Tag (v2 degenerative, v3 protrusion, v4 extrusion), nucleus, bulge, migration, loss."""
    commonness = (0.1, 0.2, 0.35, 0.5, 0.4, 0.15, 0.05, 0.05, 0.05)[n]
    sick = float(np.clip(0.05 + 0.55 * age + commonness - 0.15, 0.03, 0.9))
    tag = str(
        rng.choice(["v1", "v2", "v3", "v4"], p=[1 - sick, 0.4 * sick, 0.4 * sick, 0.2 * sick])
    )
    well = tag == "v1"
    nucleus = float(rng.uniform(0.45, 0.9) if well else rng.beta(1.2, 6.0))
    low, high = {"v1": (0.0, 0.3), "v2": (0.4, 1.0), "v3": (1.8, 2.8), "v4": (3.2, 4.6)}[tag]
    migration = float(rng.uniform(0, 4)) if tag == "v4" else 0.0
    loss = float(rng.uniform(0, 0.06) if well else rng.uniform(0.1, 0.4))
    return tag, nucleus, float(rng.uniform(low, high)), migration, loss


def _line(
    heights: Sequence[float], gaps: Sequence[float], angles: FloatArray
) -> tuple[FloatArray, list[tuple[float, float, float]]]:
    """The line of centres as dense (s, x, y) samples, and (s, x, y) of bodies and discs in turn."""
    sizes = [v for pair in zip(heights, [*gaps, 0.0], strict=True) for v in pair][:-1]
    turns = np.interp(np.arange(len(sizes)), np.arange(0, len(sizes), 2), angles)
    ends = np.concatenate([[0.0], np.cumsum(sizes)])
    middles = (ends[:-1] + ends[1:]) / 2
    s = np.arange(-110.0, ends[-1] + 60.0, 0.5)
    turn = np.interp(s, middles, turns)
    xy = np.cumsum(np.stack([np.sin(turn), np.cos(turn)], axis=1) * 0.5, axis=0)
    origin = middles[2 * _NAMES.index("C5")]
    xy -= [np.interp(origin, s, xy[:, k]) for k in (0, 1)]
    x, y = (np.interp(middles, s, xy[:, k]) for k in (0, 1))
    places = [
        (float(m - origin), float(a), float(b)) for m, a, b in zip(middles, x, y, strict=True)
    ]
    return np.column_stack([s - origin, xy]), places


def _marked_discs(phantom: Phantom) -> list[Disc]:
    """The five discs C2-C3 to C6-C7, and C7-T1 in one neck of eight."""
    names = (*_MARKED, _LAST) if phantom.look.seed % 8 == 0 else _MARKED
    return [disc for disc in phantom.anatomy.discs if disc.name in names]


def _class_of(disc: Disc, region: str) -> str:
    kinds = {"v1": _HEALTHY, "v2": "degeneraciya", "v3": "protruziya", "v4": "ekstruziya"}
    kind = "sekvestr" if disc.migration > 2.5 else kinds[disc.tags[0]]
    return f"{region}-{_DISC_CLASS}-{kind}"


def _corners(box: BoxXyxy) -> tuple[tuple[int, int], ...]:
    left, top, right, bottom = (round(value) for value in box)
    return (left, top), (right, top), (right, bottom), (left, bottom)


def _add(parent: etree._Element, name: str, text: str | None = None) -> etree._Element:
    node = etree.SubElement(parent, name)
    node.text = text
    return node


def _smooth(points: Sequence[tuple[float, float]], scale: float) -> FloatArray:
    """A smooth line through points that go down, as (N, 2) mm."""
    xy = np.array(points, dtype=np.float64) * scale
    y = np.linspace(xy[0, 1], xy[-1, 1], 90)
    x = np.interp(y, xy[:, 1], xy[:, 0])
    kernel = np.hanning(13)
    padded = np.pad(x, 6, mode="edge")
    return np.stack([np.convolve(padded, kernel / kernel.sum(), mode="valid"), y], axis=1)


def _paint_outline(canvas: Canvas, anatomy: Anatomy, look: Look) -> None:
    """Head, neck and shoulders: skin, fat, and muscle inside."""
    scale, fat = anatomy.scale, 3 + 0.25 * look.belly_fat_mm
    rng = np.random.default_rng(look.seed + 1)
    chin, nape = rng.normal(0, 4), rng.normal(0, 4)
    front = _smooth(
        [(-98, -190), (-98, -75), (-97 + chin, -40), (-66, -22), (-53, 6), (-57, 38), (-76, 64),
         (-105, 110), (-118, 190)], scale,
    )  # fmt: skip
    back = _smooth(
        [(116, -190), (114, -120), (92, -85), (70 + nape, -48), (66 + nape, 0), (78, 35), (98, 75),
         (114, 120), (120, 190)], scale,
    )  # fmt: skip
    canvas.fill(np.concatenate([front, back[::-1]]), "fat")
    inside = np.concatenate([front + np.array([0.6 * fat, 0]), (back - np.array([fat, 0]))[::-1]])
    canvas.fill(inside, "abdomen", 0.75)
    canvas.stroke(front, "muscle", 1.5)
    canvas.stroke(back, "muscle", 1.5)


def _paint_head(canvas: Canvas, anatomy: Anatomy, lateral_mm: float) -> None:
    """Brain, cerebellum, brainstem and clivus above C2, the back of the skull behind."""
    scale = anatomy.scale
    top = anatomy.bodies[0]
    x, y = top.centre[0], top.centre[1] - 46 * scale

    def at(dx: float, dy: float, radii: tuple[float, float], turn: float) -> FloatArray:
        return ellipse((x + dx * scale, y + dy * scale), (radii[0] * scale, radii[1] * scale), turn)

    canvas.fill(at(30, -50, (76, 62), 0), "cortex")
    canvas.fill(at(30, -50, (73, 59), 0), "marrow", 1.2)
    canvas.fill(at(30, -50, (69, 55), 0), "csf", 0.9)
    canvas.fill(at(30, -58, (66, 50), 0), "cord", 0.95)
    canvas.fill(at(46, -16, (30, 20), 0.3), "csf", 0.8)
    canvas.blend(at(47, -17, (27, 17), 0.3), canvas.tissue("cord") * 0.95, 1.0)
    for n in range(6):  # folia of the cerebellum
        leaf = at(46 + 5 * (n - 2.5), -17 + 2 * (n - 2.5), (0.9, 14), 0.5 + 0.1 * n)
        canvas.blend(leaf, canvas.tissue("csf") * 0.75, 0.7)
    if abs(lateral_mm) < 9:
        canvas.blend(at(7, -16, (9, 30), -0.12), canvas.tissue("csf"), 1.5)
        canvas.blend(at(9, -24, (11, 14), -0.1), canvas.tissue("cord"), 0.8)
        canvas.blend(at(10, -4, (6.5, 24), -0.1), canvas.tissue("cord"), 0.8)
    clivus = np.array([(-14, -40), (-5, -42), (0, -6), (-5, -3), (-12, -14)], float) * scale + (
        x,
        y,
    )
    canvas.stroke(clivus, "cortex", 2.0, closed=True)
    canvas.fill(clivus, "marrow", 1.1)


def _paint_throat(canvas: Canvas, anatomy: Anatomy, lateral_mm: float) -> None:
    """Tongue, jaw, palate, the airway down to the trachea, and the gullet behind it."""
    rng, scale = canvas.rng, anatomy.scale
    middle = abs(lateral_mm) < 9
    top = anatomy.bodies[0].centre[1]
    for dx, dy, radii, tissue, factor in (
        (-54, 2, (27, 18), "muscle", 2.4),
        (-60, -16, (34, 6), "viscera_dark", 0.8),
        (-66, -34, (32, 13), "viscera_bright", rng.uniform(0.5, 1.0)),
        (-80, 16, (7, 10), "cortex", 1.0),
        (-80, 16, (5, 8), "marrow", 1.2),
        (-44, 30, (4, 7), "fat_deep", 1.0),
        (-46, 62, (9, 14), "muscle", 1.3),
    ):
        outline = ellipse((dx * scale, top + dy * scale), (radii[0] * scale, radii[1] * scale), 0.1)
        canvas.blend(outline, canvas.tissue(tissue) * factor, 1.2)
    s = np.arange(anatomy.s_of((0.0, top)) - 46, 130, 2.0)
    from_c2 = (s - anatomy.s_of((0.0, top))) / scale
    gap = np.interp(from_c2, (-40, 0, 45, 60, 100), (5.0, 5.0, 7.0, 13.0, 14.0)) * scale
    wide = (
        np.interp(from_c2, (-40, -10, 20, 45, 60, 120), (9.0, 7.0, 10.0, 5.0, 13.0, 15.0)) * scale
    )
    near = -anatomy.depth_at(s) / 2 - gap - 1.5 * np.sin(s / 17 + rng.uniform(0, 6))
    airway = [anatomy.place(s, near), anatomy.place(s, near - wide)[::-1]]
    canvas.blend(np.concatenate(airway), canvas.tissue("gas" if middle else "muscle"), 1.0)
    low = s[from_c2 > 55]
    gullet = -anatomy.depth_at(low) / 2 - 7 * scale
    tube = [anatomy.place(low, gullet + 2.5), anatomy.place(low, gullet - 2.5)[::-1]]
    canvas.blend(np.concatenate(tube), canvas.tissue("muscle") * 1.4, 0.8)


def _paint_front_strip(canvas: Canvas, anatomy: Anatomy) -> None:
    """Soft tissue and ligament along the front of the bodies."""
    s = np.arange(anatomy.s_of(anatomy.bodies[0].centre) - 10, 140, 2.0)
    front = -anatomy.depth_at(s) / 2
    strip = [anatomy.place(s, front), anatomy.place(s, front - 3.5 * anatomy.scale)[::-1]]
    canvas.blend(np.concatenate(strip), canvas.tissue("muscle") * 1.6, 0.8)
    canvas.stroke(anatomy.place(s, front - 0.3), "ligament", 1.0)


def _paint_nape(canvas: Canvas, anatomy: Anatomy, lateral_mm: float) -> None:
    """Muscle behind the canal, spinous processes; beside the midline articular pillars."""
    rng, scale = canvas.rng, anatomy.scale
    s = np.arange(anatomy.s_of(anatomy.bodies[0].centre) - 22, 150, 2.0)
    wall = anatomy.depth_at(s) / 2 + _CANAL_MM * scale
    strip = [anatomy.place(s, wall), anatomy.place(s, wall + 30 * scale)[::-1]]
    canvas.fill(np.concatenate(strip), "muscle", 1.15)
    for _ in range(int(rng.integers(14, 26))):  # fat between the muscles
        arc, behind = s[int(rng.integers(len(s)))], rng.uniform(16, 38) * scale
        along = np.array([-9.0, 0.0, 9.0, 0.0])
        offset = np.array([0.0, -1.2, 0.0, 1.2]) + 0.3 * along
        place = anatomy.place(arc + along, anatomy.depth_at(arc) / 2 + behind + offset)
        canvas.blend(place, canvas.tissue("fat_deep") * rng.uniform(0.5, 1.0), 0.8)
    lengths = (22.0, 13.0, 13.0, 15.0, 19.0, 28.0, 30.0, 28.0, 27.0, 27.0)
    for body, length in zip(anatomy.bodies, lengths, strict=True):
        arc = anatomy.s_of(body.centre)
        root = body.depth / 2 + (_CANAL_MM + 1.5) * scale
        tall = (
            (6.0 if body.name.startswith("C") else 7.5) * scale * (1.6 if body.name == "C2" else 1)
        )
        if abs(lateral_mm) > 9:
            pillar = local(body.centre, body.angle, *_pillar(body))
            canvas.blend(pillar, canvas.tissue("cortex"), 0.6)
            canvas.blend(pillar * 0.88 + pillar.mean(axis=0) * 0.12, canvas.tissue("process"), 0.6)
            continue
        u = np.array([0.0, 0.3, 0.8, 1.0, 0.9, 0.4, 0.1]) * length * scale
        v = np.array([-0.2, -0.4, -0.5, 0.0, 0.5, 0.4, 0.2]) * tall
        drop = 6.0 * scale + 0.42 * u
        canvas.blend(anatomy.place(arc + drop + v, root + u), canvas.tissue("cortex"), 0.7)
        inner = anatomy.place(arc + drop + 0.6 * v, root + 1 + 0.92 * u)
        canvas.blend(inner, canvas.tissue("process") * float(rng.uniform(0.9, 1.2)), 0.6)
    ring = ellipse(_behind_dens(anatomy), (3.2 * scale, 4.5 * scale), 0.2)
    canvas.blend(ring, canvas.tissue("process"), 0.7)


def _pillar(body: Body) -> tuple[FloatArray, FloatArray]:
    u = np.array([0.3, 1.35, 1.5, 0.45]) * body.depth
    v = np.array([-0.25, -0.6, 0.35, 0.5]) * body.height
    return u, v


def _behind_dens(anatomy: Anatomy) -> tuple[float, float]:
    """The back arch of C1, behind the canal at the height of the dens."""
    top = anatomy.bodies[0]
    s = anatomy.s_of(top.centre) - top.height / 2 - 7 * anatomy.scale
    u = top.depth / 2 + (_CANAL_MM + 6) * anatomy.scale
    place = anatomy.place([s], [u])[0]
    return float(place[0]), float(place[1])


def _paint_canal(canvas: Canvas, anatomy: Anatomy, lateral_mm: float) -> None:
    inside = 1 - (abs(lateral_mm) / 9.0) ** 2
    if inside <= 0:
        return
    scale = anatomy.scale
    top = anatomy.s_of(anatomy.bodies[0].centre)
    s = np.arange(top - 60 * scale, 150, 1.0)
    wall = anatomy.depth_at(s) / 2
    extra = np.interp(s, (top - 60 * scale, top - 8 * scale, top + 14 * scale), (10.0, 4.0, 0.0))
    width = _CANAL_MM * scale + extra
    front = np.asarray(wall + 0.8)
    for disc in anatomy.discs:
        dent = max(disc.bulge - 0.6, 0.0) * np.exp(
            -(((s - disc.s) / (0.7 * disc.height + 1.5)) ** 2)
        )
        front += dent
    back = wall + width
    middle, half = (front + back) / 2, (back - front) / 2 * np.sqrt(inside)
    sac = [anatomy.place(s, middle - half), anatomy.place(s, middle + half)[::-1]]
    canvas.stroke(np.concatenate(sac), "ligament", 1.4, closed=True)
    canvas.fill(np.concatenate(sac), "csf")
    if inside > 0.5:
        share = np.interp(s, (top - 40, top + 20, 40, 90, 140), (0.6, 0.56, 0.6, 0.5, 0.48))
        cord = np.minimum(share * width / 2, 0.92 * half) * inside
        shape = [anatomy.place(s, middle - cord), anatomy.place(s, middle + cord)[::-1]]
        canvas.blend(np.concatenate(shape), canvas.tissue("cord"), 0.6)


def _paint_dens(canvas: Canvas, anatomy: Anatomy, look: Look, lateral_mm: float) -> None:
    """The dens of C2 and the front arch of C1 before it; both lie near the midline."""
    if abs(lateral_mm) > 7:
        return
    scale, top = anatomy.scale, anatomy.bodies[0]
    rise = top.height / 2
    v = np.array([2.0, -6.0, -13.0, -16.5, -17.5, -16.5, -13.0, -6.0, 2.0]) * scale - rise
    u = np.array([5.6, 4.8, 4.8, 3.4, 0.0, -3.4, -4.8, -4.8, -5.6]) * scale - 0.6
    canvas.fill(local(top.centre, top.angle, u * 1.16, v * 1.02), "cortex")
    canvas.fill(local(top.centre, top.angle, u, v), "marrow", look.marrow)
    place = local(top.centre, top.angle, -9.5 * scale, -rise - 10.5 * scale)
    centre = (float(place[0]), float(place[1]))
    canvas.blend(ellipse(centre, (3.4 * scale, 5.4 * scale), 0), canvas.tissue("cortex"), 0.4)
    signal = canvas.tissue("marrow") * look.marrow
    canvas.blend(ellipse(centre, (2.4 * scale, 4.2 * scale), 0), signal, 0.4)
