"""`spineline convert` to YOLO, VOC and COCO against the converters of supervision, in one run.

    python benchmarks/convert_speed.py [n=2000] [repeats=3] …

`python benchmarks/convert_speed.py help` lists the keys. Frames with the report's annotation are
drawn and copied. Arms run in turn on the same records:

- ours: `convert report` from the JSON and the frames. Every frame is checked, decoded, windowed,
  compressed as PNG, and written once for all three formats; another arm uses `window=none`;
- supervision: `DetectionDataset.from_coco` of our output, then `as_yolo`, `as_pascal_voc` and
  `as_coco`, each with its own copy of the images, as they are used; another arm has one copy of the
  images only. It neither checks nor windows nor compresses.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import harness

from spineline.converters.convert import convert_report
from spineline.converters.settings import ConvertReport
from spineline.datasets.commands.phantom import phantom
from spineline.datasets.commands.settings import DataPhantom
from spineline.datasets.common.files import write_json
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key

DRAWN = 20
OURS = "convert report"
AS_IS = "convert report window=none"
THEIRS = "supervision, images with each format"
LEAN = "supervision, images once"
ABOUT = f"""\
Both convert the same records to YOLO, VOC and COCO. spineline starts from the report's JSON and the
frames: every frame is checked, decoded, windowed, packed as PNG and written once for all formats.
supervision starts from the COCO file and the images that spineline wrote, and copies the images
with each format, or with only one. The target is to be faster.
{harness.ABOUT}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertSpeedSettings(harness.BenchSettings):
    n: int = key("frames", default=2000, minimum=1)
    repeats: int = key("rounds, after one that warms up", default=3, minimum=1)


def draw_frames(folder: Path, n: int, seed: int) -> tuple[Path, Path]:
    """Write frames and their annotation: some are drawn, the rest are copies under other names."""
    drawn = min(n, DRAWN)
    phantom(DataPhantom(out=folder / "drawn", n=drawn, seed=seed, format=("png",)))
    entries = json.loads((folder / "drawn" / "report_labels.json").read_text())
    frames, annotations = folder / "frames", folder / "labels.json"
    frames.mkdir()
    copies = []
    for number in range(n):
        entry = entries[number % drawn]
        name = f"{number:04d}-000"
        shutil.copyfile(folder / "drawn" / "frames" / f"{entry['id']}.png", frames / f"{name}.png")
        copies.append(entry | {"id": name})
    write_json(annotations, copies)
    return frames, annotations


def supervise(dataset: Path, out: Path, *, images: bool) -> None:
    """Convert with supervision into three folders."""
    import supervision

    records = supervision.DetectionDataset.from_coco(
        images_directory_path=str(dataset / "images" / "train"),
        annotations_path=str(dataset / "annotations" / "train.json"),
    )

    def copies(name: str) -> str | None:
        return str(out / name / "images") if images or name == "yolo" else None

    records.as_yolo(
        images_directory_path=copies("yolo"),
        annotations_directory_path=str(out / "yolo" / "labels"),
        data_yaml_path=str(out / "yolo" / "data.yaml"),
    )
    records.as_pascal_voc(
        images_directory_path=copies("voc"),
        annotations_directory_path=str(out / "voc" / "annotations"),
    )
    records.as_coco(
        images_directory_path=copies("coco"), annotations_path=str(out / "coco" / "coco.json")
    )


def work(settings: ConvertSpeedSettings, folder: Path) -> harness.BenchResult:
    frames, annotations = draw_frames(folder, settings.n, settings.seed)

    def convert(out: Path, window: str) -> None:
        keys = {"annotations": annotations, "images": frames, "split": "train"}
        convert_report(ConvertReport(out=out, window=window, **keys))

    dataset, out = folder / "dataset", folder / "out"
    convert(dataset, "percentile")
    arms = {
        OURS: harness.afresh(out, lambda: convert(out, "percentile")),
        AS_IS: harness.afresh(out, lambda: convert(out, "none")),
        THEIRS: harness.afresh(out, lambda: supervise(dataset, out, images=True)),
        LEAN: harness.afresh(out, lambda: supervise(dataset, out, images=False)),
    }
    turns = harness.take_turns(arms, settings.repeats)
    return harness.BenchResult(
        title="Converting to three formats, against supervision",
        about=ABOUT,
        data=f"{settings.n} phantom frames, {min(settings.n, DRAWN)} of them distinct",
        packages=("supervision", "numpy", "opencv-python", "pillow", "lxml"),
        tables=(harness.arms_table(turns, OURS, "ours"),),
        report={**harness.ratios_json(turns, OURS), "turns": harness.turns_json(turns)},
    )


def main(words: list[str]) -> None:
    harness.run_bench(words, ConvertSpeedSettings, work, "convert_speed")


if __name__ == "__main__":
    run_script(main)
