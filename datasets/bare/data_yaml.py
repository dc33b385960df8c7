"""``data.yaml`` by Ultralytics' own rules, with nothing downloaded or executed.

The rules are those of ``ultralytics.data.utils.check_det_dataset`` and its image loader, as of
version 8.4.190. ``path`` is searched from the current folder, then in Ultralytics' folder of
datasets; an empty one means the file's own folder. Roboflow's ``../train/images`` is read without
its ``../`` if nothing is there. A part is a folder, a text file of images, or a list of both. If
these rules find no image, ``path`` is also searched from the folder of ``data.yaml``.
"""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spineline.datasets.common.errors import AnnotationError, first_line
from spineline.datasets.common.log import LOG
from spineline.datasets.common.yaml_files import YamlError, read_yaml
from spineline.datasets.splits import PARTS, Part

YOLO_SUFFIXES: tuple[str, ...] = (
    ".avif", ".bmp", ".dng", ".heic", ".heif", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif",
    ".tiff", ".webp",
)  # fmt: skip
"""File suffixes of a part's images in Ultralytics, lower case."""


@dataclass(frozen=True, slots=True)
class DataYaml:
    """The content of a ``data.yaml``.

    Attributes:
        file: absolute path of the file.
        names: class names, by class index.
        parts: image files of each part, in Ultralytics' order.
        keypoint_shape: number of key points after each box, and the length of each; (0, 0) without
            key points.
    """

    file: Path
    names: tuple[str, ...]
    parts: dict[Part, tuple[Path, ...]]
    keypoint_shape: tuple[int, int] = (0, 0)


def find_data_yaml(data: Path) -> Path | None:
    """Find the ``data.yaml`` of a folder, or return the file itself; None if there is none.

    As in Ultralytics, the folder is searched first, then the folders below it; of several files,
    the one named like the folder is used. A file called ``data.yaml`` in the folder itself comes
    first. A ``run.yaml``, the record of one of our commands, does not count.

    Raises:
        AnnotationError: there are several, and none is named like the folder.
    """
    if not data.is_dir():
        return data if data.suffix.lower() in (".yaml", ".yml") and data.is_file() else None
    if (data / "data.yaml").is_file():
        return data / "data.yaml"
    for pattern in ("*.yaml", "*.yml"):
        found = _sorted_but_records(data.glob(pattern)) or _sorted_but_records(data.rglob(pattern))
        if len(found) > 1:
            named = [file for file in found if file.stem == data.resolve().name]
            if len(named) != 1:
                shown = ", ".join(str(file.relative_to(data)) for file in found[:5])
                msg = f"data={data}: holds {len(found)} YAML files ({shown} …); name one of them"
                raise AnnotationError(msg)
            found = named
        if found:
            return found[0]
    return None


def _sorted_but_records(files: Iterable[Path]) -> list[Path]:
    return sorted(file for file in files if file.name != "run.yaml")


def read_data_yaml(file: Path) -> DataYaml:
    """Read a ``data.yaml`` and list the images of its parts.

    Raises:
        AnnotationError: the file cannot be read, a key is missing or malformed, or a part does not
            exist.
    """
    try:
        content = read_yaml(file)
    except (OSError, YamlError) as error:
        raise AnnotationError(f"{file}: cannot be read as YAML ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise AnnotationError(f"{file}: holds no keys; wanted path, train, val and names")
    if "val" not in content and "validation" in content:
        content = {**content, "val": content["validation"]}
    names = _names(content, file)
    try:
        parts = _parts(content, file)
    except (OSError, ValueError) as error:  # a zero byte, too long a name, no permission
        raise AnnotationError(
            f"{file}: names something that cannot be looked up ({first_line(error)})"
        ) from error
    return DataYaml(file.absolute(), names, parts, _keypoint_shape(content, file))


def _parts(content: Mapping[str, Any], file: Path) -> dict[Part, tuple[Path, ...]]:
    root, reason = _root(content, file)
    parts: dict[Part, tuple[Path, ...]] = {}
    for part in PARTS:
        places = _places(root, content.get(part), file, part)
        missing = [place for place in places if not place.exists()]
        if missing and part == "test":  # Ultralytics also checks it only when this part is used
            LOG.warning("%s: test: %s does not exist; the part is empty", file, missing[0])
            places = []
        elif missing:
            raise AnnotationError(f"{file}: {part}: {missing[0]} does not exist{reason}")
        parts[part] = tuple(sorted(f for place in places for f in _images_of(place)))
    return parts


def label_file(image: Path) -> Path:
    """Return the path of an image's labels: the last folder ``images`` becomes ``labels``.

    >>> label_file(Path("set/images/train/7.png")).as_posix()
    'set/labels/train/7.txt'
    """
    parts = list(image.parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _names(content: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    value, count = content.get("names"), content.get("nc")
    names: tuple[str, ...] = ()
    if isinstance(value, dict) and value:
        numbered = {str(key).strip(): str(name) for key, name in value.items()}
        if set(numbered) == {str(i) for i in range(len(value))}:
            names = tuple(numbered[str(i)] for i in range(len(value)))
    elif isinstance(value, list):
        names = tuple(str(name) for name in value)
    elif value is None and str(count).isdigit():
        names = tuple(f"class_{i}" for i in range(int(str(count))))
    if not names:
        msg = f"{file}: names: wanted the class names as a list, or numbered from 0; found "
        raise AnnotationError(f"{msg}{value!r:.200}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise AnnotationError(f"{file}: names: {twice!r:.60} names two classes; wanted one each")
    if value is not None and count is not None and str(count) != str(len(names)):
        raise AnnotationError(f"{file}: nc is {count!r:.20}, but names are {len(names)}")
    return names


def _keypoint_shape(content: Mapping[str, Any], file: Path) -> tuple[int, int]:
    shape = content.get("kpt_shape")
    if shape is None:
        return 0, 0
    if (
        isinstance(shape, list)
        and len(shape) == 2
        and all(type(n) is int and n > 0 for n in shape)
        and shape[1] in (2, 3)
    ):
        return shape[0], shape[1]
    msg = f"{file}: kpt_shape is {shape!r:.60}, wanted [points, 2 or 3]"
    raise AnnotationError(msg)


def _root(content: Mapping[str, Any], file: Path) -> tuple[Path, str]:
    """The folder that parts are relative to, and the other places tried, for messages."""
    given = str(content.get("path") or "")
    here = file.absolute().parent
    if not given:
        tried = [here]
    elif Path(given).is_absolute():
        tried = [Path(given)]
    else:
        path = Path(given)
        tried = [path if path.exists() else _datasets_folder() / path, here / path]
    wanted = next((part for part in PARTS if content.get(part)), None)
    reason = f" (path: {given})" if given else ""
    if content.get("download"):
        reason += "; its download: is never executed, fetch the data yourself"
    if wanted is not None:
        for root in tried:
            if all(p.exists() for p in _places(root, content[wanted], file, wanted)):
                return root, reason
    return tried[-1], reason


def _places(root: Path, value: Any, file: Path, part: str) -> list[Path]:
    """Folders and text files of a part."""
    if not value:
        return []
    if isinstance(value, str):
        place = (root / value).resolve()
        if not place.exists() and value.startswith("../"):
            place = (root / value[3:]).resolve()
        return [place]
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return [(root / entry).resolve() for entry in value if entry]
    msg = f"{file}: {part}: is {value!r:.60}, wanted a folder, a text file, or a list of them"
    raise AnnotationError(msg)


def _images_of(place: Path) -> list[Path]:
    """Images below a folder, or listed in a text file."""
    if place.is_dir():
        pattern = str(Path(glob.escape(str(place))) / "**" / "*.*")
        listed = glob.glob(pattern, recursive=True)  # noqa: PTH207  as Ultralytics: none hidden
        return [f for f in map(Path, listed) if f.suffix.lower() in YOLO_SUFFIXES and f.is_file()]
    try:
        lines = place.read_text(encoding="utf-8-sig").strip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(
            f"{place}: cannot be read as a list of images ({first_line(error)})"
        ) from error
    files = []
    for line in (line.strip() for line in lines if line.strip()):
        path = place.parent / line[2:] if line.startswith("./") else Path(line)
        if not path.is_absolute():  # relative to the current folder, else to the list's
            path = path.absolute() if path.exists() else place.parent / path
        if path.suffix.lower() not in YOLO_SUFFIXES:
            msg = f"{place}: lists {line[:100]!r}, which is not an image; allowed: "
            raise AnnotationError(msg + ", ".join(YOLO_SUFFIXES))
        files.append(path)
    return files


def _datasets_folder() -> Path:
    """Ultralytics' folder of datasets in the user's settings; else ``datasets`` here."""
    folder = os.environ.get("YOLO_CONFIG_DIR") or os.environ.get("XDG_CONFIG_HOME")
    try:
        if not folder:
            below = {"win32": "AppData/Roaming", "darwin": "Library/Application Support"}
            folder = str(Path.home() / below.get(sys.platform, ".config"))
        settings = Path(folder).expanduser() / "Ultralytics" / "settings.json"
        return Path(json.loads(settings.read_text(encoding="utf-8"))["datasets_dir"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return Path("datasets").absolute()
