"""Speed of `spineline detect train` against the bare libraries, in one run.

    python benchmarks/training_speed.py [data=DATASET] [repeats=5] [backends=fasterrcnn,yolo] …

`python benchmarks/training_speed.py help` lists the keys. Four arms per backend run in turn, in an
order that shifts by one each round, on the same images, batch, size, epochs and augmentation:

- ours, with images kept in memory (the default) or not (`cache=none`);
- bare, with images kept in memory or not. For Faster R-CNN, it is torchvision's own model, a
  DataLoader over a small dataset class, torchvision's transforms and SGD. It writes a checkpoint
  per epoch, as the reference script does. It skips what ours does not need: it reads grey
  images and augments one channel, and its images are scaled once, not twice. For YOLO, it is
  `YOLO(…).train(…)` of ultralytics with the same arguments as ours.

Three more arms show the parts of `hyp=lumbar`: the network in float32 at full size, in bfloat16,
and in bfloat16 on small images. They give the time of a detector with the recipe's epochs, and with
the former recipe of `BEFORE`.

The measured time is from the end of an epoch to the end of the next, including the checkpoint. The
first epoch, which warms up and fills the cache, and the last, which may validate, are left out. The
ratio is the median of the ratios of the rounds, each of two runs close in time.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import harness
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.models import detection
from torchvision.transforms import v2

from spineline.converters.convert import convert_tianchi
from spineline.converters.settings import ConvertTianchi
from spineline.datasets.commands.phantom import phantom
from spineline.datasets.commands.settings import DataPhantom
from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import markdown_table
from spineline.detect.engine.images import make_transform
from spineline.detect.recipe import resolve_recipe as resolve
from spineline.detect.settings import DetectTrain
from spineline.detect.train import train
from spineline.detect.yolo.environment import import_ultralytics
from spineline.detect.yolo.train import trainer_arguments

BACKENDS = ("fasterrcnn", "yolo")
CACHES = ("ram", "none")
PASSED_ON = ("epochs", "imgsz", "batch", "workers", "device", "seed")
GOAL = 1.05
WHOLE = {"amp": False, "progressive": 0.0}
"""Keys of a YOLO network's training that the bare library can match."""

PARTS: dict[str, dict[str, Any]] = {
    "float32": WHOLE,
    "bfloat16": {"amp": True, "progressive": 0.0},
    "bfloat16, small images": {"amp": True, "progressive": 1.0},
}
"""The parts of the recipe, switched on one after the other."""

BEFORE = 100
"""Epochs of `hyp=lumbar` up to version 0.2.0, in float32 at full size throughout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedSettings(harness.BenchSettings):
    data: Path | None = key("converted dataset; none draws phantoms", default=None)
    n: int = key("studies to draw, two thirds to train on", default=36, minimum=3)
    backends: tuple[str, ...] = key("what to train", default=BACKENDS, choices=BACKENDS)
    backbone: str = key("of the Faster R-CNN", default="mobilenet_v3_large")
    rois: int = key("of the Faster R-CNN: regions that train its heads", default=64, minimum=1)
    proposals: int = key("of the Faster R-CNN: proposals kept", default=300, minimum=1)
    model: str = key("of YOLO", default="yolov8n")
    imgsz: int = key("longer side, pixels", default=160, minimum=64)
    batch: int = key("images per step", default=4, minimum=1)
    epochs: int = key("epochs of a run, first and last not measured", default=4, minimum=3)
    repeats: int = key("rounds, after one that warms up", default=3, minimum=1)
    workers: int = key("loader processes of both, on a GPU", default=0, minimum=0)
    device: str = key("cpu, cuda, or the number of one CUDA device", default="cpu")
    seed: int = key("of all trainings", default=0, minimum=0)
    section: str = key("name of that section", default="training-speed")


@dataclass(frozen=True, slots=True)
class Arm:
    """One of a backend's four arms."""

    backend: str
    side: str
    cache: str

    @property
    def name(self) -> str:
        return f"{self.backend} {self.side} cache={self.cache}"


ARMS = tuple(Arm(b, side, cache) for b in BACKENDS for cache in CACHES for side in ("bare", "ours"))


# Ours


def settings_of(arm: Arm, settings: SpeedSettings, data: Path, out: Path) -> DetectTrain:
    """The keys of `detect train` for an arm; a bare arm takes its values from the same keys."""
    own: dict[str, Any] = {"model": settings.model, "hyp": "lumbar", "close_mosaic": 0, **WHOLE}
    if arm.backend == "fasterrcnn":
        crop = max(settings.imgsz * 330 // 384, 32)
        own = {"model": "fasterrcnn", "hyp": "cervical", "backbone": settings.backbone}
        own |= {"crop": crop, "rois": settings.rois, "proposals": settings.proposals}
    return DetectTrain(
        **own,
        data=data,
        out=out,
        **{name: getattr(settings, name) for name in PASSED_ON},
        cache=arm.cache,
        val=False,
        plots=False,
    )


Marks = list[harness.Turn]
"""The ends of epochs, by both clocks."""


def now() -> harness.Turn:
    return harness.Turn(time.perf_counter(), harness.processor_seconds())


def run_ours(keys: DetectTrain) -> Marks:
    marks: Marks = []
    if keys.model != "fasterrcnn":
        with ultralytics_epochs(marks):
            train(keys)
        return marks

    def note(record: logging.LogRecord) -> bool:
        if record.getMessage().startswith("epoch "):
            marks.append(now())
        return True

    LOG.addFilter(note)
    try:
        train(keys)
    finally:
        LOG.removeFilter(note)
    return marks


# Bare


class PlainFrames(torch.utils.data.Dataset):
    """Images and boxes as a user of torchvision would read them from a COCO file."""

    def __init__(self, data: Path, values: Mapping[str, Any], *, cache: bool) -> None:
        coco = json.loads((data / "annotations" / "train.json").read_text(encoding="utf-8"))
        self.names = [c["name"] for c in coco["categories"]]
        self.files = [data / "images" / "train" / image["file_name"] for image in coco["images"]]
        place = {image["id"]: n for n, image in enumerate(coco["images"])}
        label = {c["id"]: n for n, c in enumerate(coco["categories"], 1)}
        self.boxes: list[list[list[float]]] = [[] for _ in self.files]
        self.labels: list[list[int]] = [[] for _ in self.files]
        for one in coco["annotations"]:
            left, top, width, height = one["bbox"]
            self.boxes[place[one["image_id"]]].append([left, top, left + width, top + height])
            self.labels[place[one["image_id"]]].append(label[one["category_id"]])
        self.resize = v2.Resize(None, max_size=values["imgsz"])
        self.augment = make_transform(values)
        self.finish = v2.Compose(
            [
                v2.ClampBoundingBoxes(),
                v2.SanitizeBoundingBoxes(),
                v2.ToDtype(torch.float, scale=True),
            ]
        )
        self.channels = values["channels"]
        self.kept = [self.read(n) for n in range(len(self.files))] if cache else None

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> tuple[Any, dict[str, Any]]:
        with Image.open(self.files[index]) as file:
            image = tv_tensors.Image(v2.functional.pil_to_tensor(file.convert("L")))
        boxes = tv_tensors.BoundingBoxes(
            self.boxes[index] or torch.zeros((0, 4)),
            format="XYXY",
            canvas_size=tuple(image.shape[-2:]),
            dtype=torch.float,
        )
        target = {"boxes": boxes, "labels": torch.tensor(self.labels[index], dtype=torch.int64)}
        return self.resize(image, target)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        image, target = self.read(index) if self.kept is None else self.kept[index]
        image, boxes = self.augment(image, target["boxes"])
        image, target = self.finish(image, {**target, "boxes": boxes})
        return image.expand(self.channels, -1, -1), target


def plain_network(values: Mapping[str, Any], classes: int) -> Any:
    """Torchvision's Faster R-CNN by its own function; other backbones by its own classes."""
    options = {
        "num_classes": classes + 1,
        "min_size": values["imgsz"],
        "max_size": values["imgsz"],
        "box_batch_size_per_image": values["rois"],
        "rpn_post_nms_top_n_train": values["proposals"],
        "_skip_resize": True,  # the dataset scales: torchvision would scale again
    }
    makers = {
        "resnet50": detection.fasterrcnn_resnet50_fpn,
        "mobilenet_v3_large": detection.fasterrcnn_mobilenet_v3_large_fpn,
    }
    name = values["backbone"]
    if name in makers:
        return makers[name](weights=None, weights_backbone=None, **options)
    body = detection.backbone_utils.resnet_fpn_backbone(
        backbone_name=name, weights=None, trainable_layers=5, norm_layer=torch.nn.BatchNorm2d
    )
    return detection.FasterRCNN(body, **options)


def run_bare_torchvision(keys: DetectTrain) -> Marks:
    values, device = resolve(keys).values, device_name(keys.device)
    torch.manual_seed(keys.seed)
    frames = PlainFrames(Path(str(keys.data)), values, cache=keys.cache == "ram")
    workers = 0 if device == "cpu" else keys.workers
    loader = torch.utils.data.DataLoader(
        frames,
        batch_size=values["batch"],
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=lambda batch: tuple(zip(*batch, strict=True)),
    )
    network = plain_network(values, len(frames.names)).to(device).train()
    options = {name: values[name] for name in ("momentum", "weight_decay")}
    optimizer = torch.optim.SGD(network.parameters(), lr=values["lr0"], **options)
    kind = torch.device(device).type
    half = kind == "cuda" and keys.amp and torch.cuda.is_bf16_supported()
    keys.out.mkdir(parents=True)
    marks: Marks = []
    for _ in range(values["epochs"]):
        for images, targets in loader:
            there = [image.to(device) for image in images]
            wanted = [{name: t.to(device) for name, t in target.items()} for target in targets]
            with torch.autocast(kind, torch.bfloat16, enabled=half):
                loss = sum(network(there, wanted).values())
            if not torch.isfinite(loss):
                raise SpinelineError(f"the loss is {loss.item()}; choose another seed=")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        state = {"model": network.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, keys.out / "last.pt")
        marks.append(now())
    return marks


@contextmanager
def ultralytics_epochs(marks: Marks) -> Iterator[None]:
    """Record the ends of epochs of any trainer of ultralytics, ours or its own."""
    import_ultralytics()
    from ultralytics.engine.trainer import BaseTrainer

    original = BaseTrainer.run_callbacks

    def noted(self: Any, event: str) -> None:
        original(self, event)
        if event == "on_train_epoch_end":
            marks.append(now())

    BaseTrainer.run_callbacks = noted
    try:
        yield
    finally:
        BaseTrainer.run_callbacks = original


def run_bare_yolo(keys: DetectTrain) -> Marks:
    import_ultralytics()
    from ultralytics import YOLO

    arguments = trainer_arguments(keys, resolve(keys).values)
    description = arguments.pop("model")
    arguments |= {
        "data": str(Path(str(keys.data)) / "data.yaml"),
        "cache": "ram" if keys.cache == "ram" else False,
        "project": str(keys.out.absolute().parent),
        "name": keys.out.name,
        "verbose": False,
    }
    arguments.pop("save_dir")
    marks: Marks = []
    with ultralytics_epochs(marks):
        YOLO(description, task="detect").train(**arguments)
    return marks


BARE = {"fasterrcnn": run_bare_torchvision, "yolo": run_bare_yolo}


# Measuring


@contextmanager
def own_surroundings() -> Iterator[None]:
    """Give each run the same threads, and restore the random generators: libraries change both."""
    threads, state = torch.get_num_threads(), random.getstate()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            random.setstate(state)


def seconds_per_epoch(marks: list[float]) -> float:
    """Mean time of an epoch from the ends of all, without the first and the last.

    >>> seconds_per_epoch([5.0, 6.0, 8.0, 20.0])
    1.5
    """
    if len(marks) < 3:
        raise SpinelineError(f"{len(marks)} epochs were seen, wanted at least 3")
    return (marks[-2] - marks[0]) / (len(marks) - 2)


def prepare_data(settings: SpeedSettings, folder: Path) -> Path:
    """A copy of the dataset in which the bare libraries may write their caches."""
    if settings.data is not None:
        root = settings.data if settings.data.is_dir() else settings.data.parent
        for part in ("images", "labels", "annotations", "data.yaml"):
            source, target = root / part, folder / "data" / part
            target.parent.mkdir(exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.cache", "*.npy"))
            else:
                shutil.copy(source, target)
        return folder / "data"
    phantom(
        DataPhantom(out=folder / "phantoms", n=settings.n, seed=settings.seed, format=("dicom",))
    )
    convert_tianchi(
        ConvertTianchi(
            annotations=folder / "phantoms" / "annotations.json",
            images=folder / "phantoms" / "studies",
            out=folder / "data",
            seed=settings.seed,
        )
    )
    return folder / "data"


def measure(settings: SpeedSettings, data: Path, folder: Path) -> dict[str, list[harness.Turn]]:
    """The time of an epoch of each arm in each round, by the arm's name."""
    LOG.setLevel(logging.INFO)  # our Faster R-CNN logs the ends of its epochs
    arms: dict[str, Callable[[], Any]] = {}
    for arm in ARMS:
        if arm.backend in settings.backends:
            keys = settings_of(arm, settings, data, folder / "run")
            train_it = run_ours if arm.side == "ours" else BARE[arm.backend]
            arms[arm.name] = harness.afresh(keys.out, partial(train_it, keys))
    if "yolo" in settings.backends:
        for name, more in PARTS.items():
            keys = replace(settings_of(ARMS[-1], settings, data, folder / "run"), **more)
            keys = replace(keys, cache="ram")
            arms[name] = harness.afresh(keys.out, partial(run_ours, keys))
    return harness.take_turns(arms, settings.repeats, measure=time_of_an_epoch)


def time_of_an_epoch(call: Callable[[], Marks]) -> harness.Turn:
    """Train, and return the time of an epoch."""
    with own_surroundings():
        marks = call()
    wall, cpu = ([getattr(mark, clock) for mark in marks] for clock in harness.CLOCKS)
    return harness.Turn(seconds_per_epoch(wall), seconds_per_epoch(cpu))


def whole_training(times: Mapping[str, Sequence[harness.Turn]]) -> dict[str, harness.Ratio]:
    """The recipe's time relative to the former recipe: with bfloat16, and on a CPU without it.

    A small image has half the pixels: without bfloat16, the same gain is assumed.

    >>> one, half, quarter = ([harness.Turn(s, s)] for s in (1.0, 0.5, 0.25))
    >>> found = whole_training(dict(zip(PARTS, (one, half, quarter), strict=True)))
    >>> round(found["bfloat16"].value, 3), round(found["float32"].value, 3)
    (0.225, 0.45)
    """
    recipe = resolve(DetectTrain(model="yolov8n", out=Path("run"), hyp="lumbar")).values
    epochs, share = recipe["epochs"], recipe["progressive"]
    whole, half, small = (times[name] for name in PARTS)
    found: dict[str, list[float]] = {"bfloat16": [], "float32": []}
    for slow, fast, least in zip(whole, half, small, strict=True):
        taken = epochs * (share * least.cpu_s + (1 - share) * fast.cpu_s)
        found["bfloat16"].append(taken / (BEFORE * slow.cpu_s))
        gain = share * least.cpu_s / fast.cpu_s + 1 - share
        found["float32"].append(epochs * gain / BEFORE)
    return {
        name: harness.Ratio(statistics.median(all_), min(all_), max(all_))
        for name, all_ in found.items()
    }


def compare(times: Mapping[str, Sequence[harness.Turn]]) -> list[dict[str, Any]]:
    """Ours against bare with equal caches, and ours against bare with default settings."""
    rows = []
    for ours in (arm for arm in ARMS if arm.side == "ours" and arm.name in times):
        for cache in CACHES[CACHES.index(ours.cache) :]:  # never uncached ours against cached bare
            bare = Arm(ours.backend, "bare", cache)
            ratio = harness.ratio(times[ours.name], times[bare.name])
            rows.append(
                {
                    "backend": ours.backend,
                    "ours_cache": ours.cache,
                    "bare_cache": cache,
                    "ours_s": round(harness.median(times[ours.name]), 4),
                    "bare_s": round(harness.median(times[bare.name]), 4),
                    "ratio": round(ratio.value, 3),
                    "ratio_range": [round(ratio.low, 3), round(ratio.high, 3)],
                }
            )
    return rows


# Output


HEADS = ("backend", "ours", "bare", "ours, s", "bare, s", "ours / bare", "of the rounds")
ABOUT = f"""\
The table compares seconds per epoch of `spineline detect train` and of the underlying library: a
plain loop around torchvision's Faster R-CNN, and `train` of ultralytics with the same arguments.
Images are kept in memory (`cache=ram`, our default) or read in every epoch. The two run in turn;
the ratio is the median of the rounds' ratios. The target is at most {GOAL:.2f} between equal
caches. YOLO trains in float32 at full size in both. All write a checkpoint each epoch, except our
Faster R-CNN, which writes one at most every ten seconds, in parallel with training. On the CPU,
ultralytics on its own leaves one core idle, and ours does not."""


def table_rows(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    cache = {"ram": "in memory", "none": "read anew"}
    return [
        (
            {"fasterrcnn": "Faster R-CNN", "yolo": "YOLO"}[row["backend"]],
            cache[row["ours_cache"]],
            cache[row["bare_cache"]],
            f"{row['ours_s']:.3f}",
            f"{row['bare_s']:.3f}",
            f"{row['ratio']:.2f}",
            "{:.2f} – {:.2f}".format(*row["ratio_range"]),
        )
        for row in rows
    ]


def parts_text(times: Mapping[str, Sequence[harness.Turn]]) -> str:
    """The table of the recipe's parts, and the resulting time of a whole training."""
    found = whole_training(times)
    table = harness.arms_table({name: times[name] for name in PARTS}, "float32", "float32")
    return (
        f"Time of a YOLO epoch as the parts of `hyp=lumbar` are switched on:\n\n{table}\n\n"
        f"Up to version 0.2.0, the recipe had {BEFORE} epochs in float32 at full size. Relative to "
        f"them, its epochs now take {found['bfloat16']} of the processor time, and "
        f"{found['float32']} on a CPU without bfloat16."
    )


def work(settings: SpeedSettings, folder: Path) -> harness.BenchResult:
    data = prepare_data(settings, folder)
    times = measure(settings, data, folder)
    rows = compare(times)
    images = len(list((data / "images" / "train").iterdir()))
    yolo = "yolo" in settings.backends
    source = "phantoms" if settings.data is None else settings.data.name
    names = {"fasterrcnn": f"Faster R-CNN with {settings.backbone}", "yolo": settings.model}
    networks = ", ".join(names[backend] for backend in settings.backends)
    device = device_name(settings.device)
    sizes = f"{settings.imgsz} px, batch {settings.batch}, {networks}; device {device}"
    return harness.BenchResult(
        title=(
            "Training of YOLO, against ultralytics"
            if settings.backends == ("yolo",)
            else "Training, against the bare libraries"
        ),
        about=ABOUT,
        data=f"{source}, {images} images to train on; {sizes}; {settings.epochs} epochs a round",
        packages=("torch", "torchvision", "ultralytics"),
        threads=torch.get_num_threads(),
        tables=(markdown_table(HEADS, table_rows(rows)), *([parts_text(times)] if yolo else [])),
        report={
            "images": images,
            "networks": networks,
            **{k: getattr(settings, k) for k in ("imgsz", "batch", "epochs", "repeats", "seed")},
            "device": device,
            "threads": torch.get_num_threads(),
            "rows": rows,
            "seconds_per_epoch": harness.turns_json(times),
            "whole_training": {
                name: found.to_json()
                for name, found in (whole_training(times) if yolo else {}).items()
            },
        },
    )


def main(words: list[str]) -> None:
    harness.run_bench(words, SpeedSettings, work, "training_speed")


if __name__ == "__main__":
    run_script(main)
