"""A plain COCO dataset: JSON files with images, annotations and categories, and their images.

These layouts of tools can be read: ``annotations/instances_PART.json`` with images beside it or in
``images`` (COCO, CVAT, Datumaro), ``PART/_annotations.coco.json`` (Roboflow), ``labels.json`` with
``data`` (FiftyOne), or one file anywhere. The name of a file or its folder gives the part. Grades
are read from ``attributes`` if they are known words (``grade: v3``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spineline.datasets.bare.classes import kind_of_name
from spineline.datasets.bare.contents import BareBox, BareContents, BareImage, contents_of
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.common.files import read_json
from spineline.datasets.common.log import LOG
from spineline.datasets.images import ImageReadError, image_size
from spineline.datasets.splits import Part
from spineline.datasets.words.grades import ordered_tags
from spineline.datasets.words.word_map import WordMap

_PART_WORDS: dict[Part, str] = {"train": r"train", "val": r"val(id|idation)?", "test": r"test"}
_NO_BOXES = ("captions_", "image_info_", "labels_", "panoptic_", "person_keypoints_", "stuff_")
"""Prefixes of files that accompany ``instances_`` files but hold no boxes."""


def coco_files(data: Path) -> dict[Part, Path]:
    """Return the COCO files of a folder by part, or the single given file.

    Raises:
        AnnotationError: a part has several files, none of which is called ``instances_…``.
    """
    if data.is_file():
        return {part_of_file(data): data}
    for pattern in ("annotations/*.json", "*.json", "*/_annotations.coco.json"):
        found: dict[Part, list[Path]] = {}
        for path in sorted(data.glob(pattern)):
            if _is_coco(path):
                found.setdefault(part_of_file(path), []).append(path)
        if found:
            return {part: _one_of(data, part, paths) for part, paths in found.items()}
    return {}


def part_of_file(path: Path) -> Part:
    """Return the part that a file's or its folder's name contains; ``train`` by default.

    >>> part_of_file(Path("a/instances_val2017.json")), part_of_file(Path("test/x.json"))
    ('val', 'test')
    """
    for name in (path.stem, path.parent.name):
        for part, word in _PART_WORDS.items():
            if re.search(rf"(^|[^a-z]){word}([^a-z]|$)", name.lower()):
                return part
    return "train"


def read_bare_coco(data: Path, images: Path | None = None) -> BareContents:
    """Read COCO files.

    Args:
        data: a JSON file, or a folder of them.
        images: the folder that each ``file_name`` is relative to; None searches near the JSON.

    Raises:
        AnnotationError: a file is not COCO, its categories differ from those of the other files,
            or none of its images is found.
    """
    parts: dict[Part, tuple[BareImage, ...]] = {}
    names: tuple[str, ...] = ()
    for part, path in coco_files(data).items():
        try:
            found, parts[part] = _read(path, images)
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            IndexError,
            OverflowError,
        ) as error:
            raise AnnotationError(f"{path}: cannot be read as COCO ({error!r:.300})") from error
        if names and found != names:
            msg = f"{path}: its categories ({', '.join(found)[:200]}) are not those of the other "
            raise AnnotationError(f"{msg}parts ({', '.join(names)[:200]})")
        names = found
    return contents_of(data if data.is_dir() else data.parent, names, parts)


def _is_coco(path: Path) -> bool:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return False
    wanted = {"images", "annotations", "categories"}
    return isinstance(content, dict) and wanted <= set(content)


def _one_of(data: Path, part: Part, paths: Sequence[Path]) -> Path:
    boxes = [p for p in paths if p.name.startswith("instances_")]
    boxes = boxes or [p for p in paths if not p.name.startswith(_NO_BOXES)] or list(paths)
    if len(boxes) > 1:
        shown = ", ".join(str(p.relative_to(data)) for p in boxes)
        raise AnnotationError(f"data={data}: {shown} are all of the {part} part; name one of them")
    return boxes[0]


def _read(path: Path, images: Path | None) -> tuple[tuple[str, ...], tuple[BareImage, ...]]:
    """Class names of a file, in the order of their ids, and its images."""
    content = read_json(path)
    categories = {int(c["id"]): c for c in content["categories"]}
    boxes: dict[int, list[BareBox]] = {int(image["id"]): [] for image in content["images"]}
    if len(boxes) < len(content["images"]):
        raise ValueError("two images have the same id")
    used: set[int] = set()
    crowds = 0
    for item in content["annotations"]:
        if item.get("iscrowd"):
            crowds += 1
            continue
        try:
            category = int(item["category_id"])
            boxes[int(item["image_id"])].append(_box(item, str(categories[category]["name"])))
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            found = ", ".join(
                f"{k} {item.get(k)!r:.80}" for k in ("image_id", "category_id", "bbox")
            )
            msg = (
                f"{path}: annotation {item.get('id')!r:.40} has {found}; wanted ids that the file "
            )
            raise AnnotationError(
                f"{msg}lists and four numbers [left, top, width, height]"
            ) from error
        used.add(category)
    if crowds:
        LOG.warning("%s: %d annotations are crowds (iscrowd) and left out", path.name, crowds)
    kept = [c for number, c in sorted(categories.items()) if not _is_group(c, categories, used)]
    names = tuple(str(c["name"]) for c in kept)
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"categories are not named one by one: {', '.join(names)[:200]!r}")
    files = _image_files([str(image["file_name"]) for image in content["images"]], path, images)
    listed = zip(content["images"], files, strict=True)
    return names, tuple(_image(item, file, boxes[int(item["id"])]) for item, file in listed)


def _is_group(
    category: Mapping[str, Any], categories: Mapping[int, Mapping[str, Any]], used: set[int]
) -> bool:
    """Whether it is the category without annotations that Roboflow adds above the others."""
    others = [c for c in categories.values() if c is not category]
    return (
        int(category["id"]) not in used
        and bool(others)
        and all(c.get("supercategory") == category["name"] for c in others)
    )


def _box(item: Mapping[str, Any], name: str) -> BareBox:
    left, top, width, height = (float(v) for v in item["bbox"])
    points = item.get("keypoints") or ()
    seen = [points[n : n + 2] for n in range(0, len(points), 3) if points[n + 2]]
    point = (float(seen[0][0]), float(seen[0][1])) if len(seen) == 1 else None
    return BareBox(name, (left, top, left + width, top + height), point, _tags(item, name))


def _tags(item: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The grade in an annotation's attributes, if the words are known."""
    given = item.get("attributes")
    if not isinstance(given, Mapping):
        return ()
    words, kind = WordMap(), kind_of_name(name)
    texts = [(str(key), str(value)) for key, value in given.items() if value is not None]
    said = [words.grade(text, kind) for text in words.grade_texts(texts, kind)]
    return ordered_tags({tag for tags in said for tag in tags or ()}, kind) or ()


def _image(item: Mapping[str, Any], file: Path, boxes: Sequence[BareBox]) -> BareImage:
    if not file.is_file():
        problem = f"{file}: no such image file"
        return BareImage(file, problem=problem, problem_name="label_without_frame")
    try:
        size_wh = image_size(file)
    except ImageReadError as error:
        return BareImage(file, problem=str(error), problem_name="unreadable_image")
    stated = (int(item.get("width") or size_wh[0]), int(item.get("height") or size_wh[1]))
    if stated != size_wh:
        problem = f"{file}: the image is {size_wh[0]}x{size_wh[1]}, its label says "
        problem += f"{stated[0]}x{stated[1]}"
        return BareImage(file, problem=problem, problem_name="unreadable_image")
    return BareImage(file, tuple(boxes), size_wh)


def _image_files(names: Sequence[str], path: Path, images: Path | None) -> list[Path]:
    """Paths of the images: each in the first folder that has it."""
    here = path.absolute().parent
    above = here.parent
    word = re.sub(r"^(instances|person_keypoints)_", "", path.stem)
    roots = [images.absolute()] if images is not None else [
        here, here / "images", here / "data",
        *((above / "images" / word, above / "images", above / word, above)
          if here.name == "annotations" else ()),
    ]  # fmt: skip
    files = []
    for name in names:
        relative = Path(name.replace("\\", "/"))
        found = (root / relative for root in roots if (root / relative).is_file())
        files.append(next(found, roots[0] / relative))
    if names and not any(file.is_file() for file in files):
        shown = ", ".join(str(root) for root in roots)
        msg = f"{path}: none of its {len(names)} images is in {shown}; images=… names their folder"
        raise AnnotationError(msg)
    return files
