"""`spineline pipeline predict` against a plain script that chains the same steps, in one run.

    python benchmarks/naive_chain.py [n=24] [repeats=5] …

`python benchmarks/naive_chain.py help` lists the keys. The naive chain processes one study after
the other, with models loaded beforehand:

- read: every file of the folder with pydicom, including pixels; the middle slice of the sagittal T2
  series by its description and position; 8 bits between minimum and maximum;
- detect: one `predict` of ultralytics with our detector, at its own size; the most confident box
  per class;
- grade: one forward pass per box, of a timm resnet18 on crops of 224 pixels and three channels. The
  fairer arm uses our own classifier on the crops that ours cuts;
- draw: boxes and names with matplotlib into a PNG, or, in the fairer arm, with OpenCV;
- write: a JSON file.

Each step is timed within the arm. Ours also names the spine as a whole, abstains, warns, and writes
a manifest, which the naive chain does not.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import harness
import numpy as np
import numpy.typing as npt
import pydicom
import torch
from labelled_grades import as_one

from spineline.classify.combined import CombinedClassifier
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import markdown_table
from spineline.datasets.crops.extract import extract_crops
from spineline.detect.checkpoints import network_from_safetensors
from spineline.detect.yolo.environment import import_ultralytics
from spineline.pipeline.inference.pipeline import Pipeline, bundle_of
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.run import predict as command
from spineline.pipeline.run.settings import PipelinePredict

GOAL = 5
OURS = "pipeline predict"
PARTS = ("read", "detect", "grade", "draw", "write")
ABOUT = f"""\
The *naive* script reads every file of the folder with its pixels and runs ultralytics' own
predictor on the middle sagittal T2 slice. It then makes one forward pass per crop and draws the
result. The first variant grades with a timm resnet18 on crops of 224 pixels and draws with
matplotlib, as such scripts do. The second grades with our own classifier, one crop at a time, and
draws with OpenCV. All have their models loaded. The target is to be {GOAL} times faster than the
first.
{harness.ABOUT}"""
Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class NaiveSettings(harness.BenchSettings):
    n: int = key("studies", default=24, minimum=1)
    slices: int = key("slices per series, of three", default=7, minimum=1, maximum=31)


@dataclass(frozen=True)
class Naive:
    """The chain with its models.

    Attributes:
        yolo: ultralytics' own class around the detector.
        classifier: ours, or None for a resnet18 of timm.
        resnet: the resnet18.
        draw: `matplotlib` or `cv2`.
        spent: seconds by step, over all studies and rounds.
    """

    yolo: Any
    classifier: CombinedClassifier | None
    resnet: torch.nn.Module
    draw: str
    imgsz: int
    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def run(self, cohort: Path, out: Path) -> None:
        """Process all studies of a cohort, one after the other."""
        for study in sorted(cohort.iterdir()):
            self._study(study, out / study.name)

    def _study(self, study: Path, out: Path) -> None:
        out.mkdir(parents=True)
        image = self._part("read", lambda: middle_slice(study))
        boxes = self._part("detect", lambda: self._detect(image))
        grades = self._part("grade", lambda: [self._grade(image, box) for _, _, box in boxes])
        drawn = {"matplotlib": draw_matplotlib, "cv2": draw_cv2}[self.draw]
        self._part("draw", lambda: drawn(image, boxes, grades, out / "overlay.png"))
        self._part("write", lambda: write_result(boxes, grades, out / "result.json"))

    def _part(self, name: str, call: Callable[[], Any]) -> Any:
        answer = []
        self.spent[name] += harness.timed(lambda: answer.append(call())).wall_s
        return answer[0]

    def _detect(self, image: Grey) -> list[tuple[str, float, npt.NDArray[np.float64]]]:
        """The most confident box of each class, top to bottom."""
        (found,) = self.yolo.predict(
            cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), imgsz=self.imgsz, device="cpu", verbose=False
        )
        best: dict[str, tuple[str, float, npt.NDArray[np.float64]]] = {}
        for xyxy, confidence, index in zip(
            found.boxes.xyxy.numpy(), found.boxes.conf.tolist(), found.boxes.cls.int().tolist(),
            strict=True,
        ):  # fmt: skip
            name = found.names[index]
            if name not in best or confidence > best[name][1]:
                best[name] = (name, confidence, xyxy.astype(float))
        return sorted(best.values(), key=lambda row: row[2][1])

    def _grade(self, image: Grey, box: npt.NDArray[np.float64]) -> list[float]:
        """Probabilities of one box."""
        if self.classifier is not None:
            centre = np.array([[(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]])
            crops = self.classifier.cut(partial(extract_crops, image, centre, box[None]))
            return list(map(float, self.classifier.grade(crops).seven[0]))
        left, top, right, bottom = (max(int(value), 0) for value in box)
        crop = cv2.resize(image[top : bottom + 1, left : right + 1], (224, 224))
        pixels = torch.from_numpy(crop).float().div(255).expand(1, 3, -1, -1)
        with torch.no_grad():
            return list(map(float, self.resnet(pixels).softmax(dim=1)[0]))


def middle_slice(study: Path) -> Grey:
    """Read every file with its pixels; return the middle sagittal T2 slice."""
    images = [pydicom.dcmread(path) for path in sorted(study.iterdir())]
    pixels = [image.pixel_array for image in images]
    sagittal = [
        (float(image.ImagePositionPatient[0]), number)
        for number, image in enumerate(images)
        if "t2" in image.SeriesDescription.lower() and "sag" in image.SeriesDescription.lower()
    ]
    _, number = sorted(sagittal)[len(sagittal) // 2]
    chosen = pixels[number].astype(float)
    return ((chosen - chosen.min()) / np.ptp(chosen) * 255).astype(np.uint8)


def draw_matplotlib(image: Grey, boxes: list[Any], grades: list[list[float]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 8))
    axes.imshow(image, cmap="gray")
    axes.axis("off")
    for (name, _, box), grade in zip(boxes, grades, strict=True):
        left, top, right, bottom = box
        axes.add_patch(
            plt.Rectangle((left, top), right - left, bottom - top, fill=False, color="orange")
        )
        axes.text(right + 4, bottom, f"{name} {int(np.argmax(grade))} {max(grade):.2f}", color="w")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_cv2(image: Grey, boxes: list[Any], grades: list[list[float]], path: Path) -> None:
    canvas = cv2.cvtColor(cv2.resize(image, None, fx=2, fy=2), cv2.COLOR_GRAY2BGR)
    for (name, _, box), grade in zip(boxes, grades, strict=True):
        left, top, right, bottom = (int(2 * value) for value in box)
        cv2.rectangle(canvas, (left, top), (right, bottom), (0, 176, 255), 1)
        text = f"{name} {int(np.argmax(grade))} {max(grade):.2f}"
        place = (right + 8, bottom)
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1)
    cv2.imwrite(str(path), canvas)


def write_result(boxes: list[Any], grades: list[list[float]], path: Path) -> None:
    found = [
        {"level": name, "confidence": confidence, "box": box.tolist(), "grades": grade}
        for (name, confidence, box), grade in zip(boxes, grades, strict=True)
    ]
    path.write_text(json.dumps(found, indent=2))


def make_naive(pipeline: Pipeline, *, ours: bool, draw: str) -> Naive:
    """The chain with models loaded."""
    import timm

    import_ultralytics()
    from ultralytics import YOLO

    yolo = YOLO("yolov8n.yaml", task="detect")
    network, meta = network_from_safetensors(bundle_of(ModelSettings()).detector.path)
    yolo.model = network
    resnet = timm.create_model("resnet18", pretrained=False, num_classes=7).eval()
    return Naive(yolo, as_one(pipeline.classifier) if ours else None, resnet, draw, meta.imgsz)


def work(settings: NaiveSettings, folder: Path) -> harness.BenchResult:
    cohort, out = folder / "cohort", folder / "out"
    data = harness.draw_cohort(cohort, settings.n, seed=settings.seed, slices=settings.slices)
    pipeline = Pipeline.from_settings(ModelSettings())
    chains = {
        "naive: resnet18, matplotlib": make_naive(pipeline, ours=False, draw="matplotlib"),
        "naive: our classifier, OpenCV": make_naive(pipeline, ours=True, draw="cv2"),
    }
    settings_of_ours = PipelinePredict(source=cohort, out=out)
    arms = {OURS: harness.afresh(out, lambda: command.predict(settings_of_ours, pipeline=pipeline))}
    for name, chain in chains.items():
        arms[name] = harness.afresh(out, lambda chain=chain: chain.run(cohort, out))
    turns = harness.take_turns(arms, settings.repeats)
    runs = settings.n * (settings.repeats + 1)
    parts = {
        name: {part: round(chain.spent[part] / runs * 1e3, 2) for part in PARTS}
        for name, chain in chains.items()
    }
    of_parts = [(name, *(f"{spent[part]:.1f}" for part in PARTS)) for name, spent in parts.items()]
    return harness.BenchResult(
        title="A study, against a script of one's own",
        about=ABOUT,
        data=data,
        packages=("torch", "ultralytics", "timm", "pydicom", "opencv-python", "matplotlib"),
        threads=torch.get_num_threads(),
        tables=(
            harness.arms_table(turns, OURS, "ours", studies=settings.n),
            "Time that the naive scripts spend on each part, in ms per study:",
            markdown_table(("arm", *PARTS), of_parts),
        ),
        report={
            "goal": GOAL,
            "threads": torch.get_num_threads(),
            **harness.ratios_json(turns, OURS, "faster"),
            "parts_ms": parts,
            "turns": harness.turns_json(turns),
        },
    )


def main(words: list[str]) -> None:
    harness.run_bench(words, NaiveSettings, work, "naive_chain")


if __name__ == "__main__":
    run_script(main)
