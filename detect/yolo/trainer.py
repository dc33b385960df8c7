"""Ultralytics' detection trainer with our hooks; importing this module imports ``ultralytics``.

It differs from the package's own trainer in these points. Our code reads and checks the data: no
download, no label cache, no image rewritten. Class targets can be smoothed. Checkpoints are written
atomically and hold no path, repository or date. Validation may be left out. Results hold no time.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.files import write_bytes
from spineline.datasets.common.log import LOG
from spineline.datasets.images import read_uint8_image
from spineline.datasets.networks.tensors import write_checkpoint
from spineline.datasets.networks.training import append_row
from spineline.datasets.scanner_looks import cut_view, scanner_look
from spineline.detect.checkpoints import (
    DetectorMeta,
    build_yolo,
    packed_safetensors,
    plain_description,
)
from spineline.detect.engine.dataset import YoloImage
from spineline.detect.engine.tensorboard import Board, comparison
from spineline.detect.engine.validation import labels_of, pictured
from spineline.detect.yolo.backend import UltralyticsDetector
from spineline.detect.yolo.environment import import_ultralytics
from spineline.detect.yolo.start import take_over_yolo

import_ultralytics()

from ultralytics.data.augment import Albumentations  # noqa: E402
from ultralytics.data.dataset import YOLODataset  # noqa: E402
from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.utils.loss import v8DetectionLoss  # noqa: E402
from ultralytics.utils.torch_utils import unwrap_model  # noqa: E402

YOLO_METRICS = {"map50": "metrics/mAP50(B)", "map50_95": "metrics/mAP50-95(B)"}
"""Metrics whose best weights are kept, and their columns in ``results.csv``."""

PATH_KEYS = ("model", "data", "project", "name", "save_dir", "resume", "pretrained", "cfg")
"""Training arguments that hold paths; a checkpoint keeps none of them."""


_SMALL = 0.7
"""Factor of the image size for ``progressive``: half the pixels."""


class SmoothedBCE(nn.Module):
    """Binary cross-entropy on smoothed class targets, as YOLOv5 smooths them.

    YOLOv5 turns the one-hot target of a matched cell into ``1 - ε/2`` and ``ε/2``, and leaves the
    other cells to its objectness. The anchor-free loss has no objectness. Its target at a matched
    cell is a one-hot vector times an alignment weight ``m``, and zero at any other cell. So a
    target ``t`` becomes ``t (1 - ε) + m ε/2``, where ``m`` is its largest class. This gives ``m (1
    - ε/2)`` and ``m ε/2``, and zero stays zero.
    """

    def __init__(self, smoothing: float) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.bce = nn.BCEWithLogitsLoss(reduction="none")

    def smooth(self, target: torch.Tensor) -> torch.Tensor:
        """Smooth targets; (..., classes) in and out."""
        peak = target.amax(-1, keepdim=True)
        return target * (1 - self.smoothing) + peak * (self.smoothing / 2)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss per cell and class, not reduced; shapes (..., classes)."""
        loss: torch.Tensor = self.bce(logits, self.smooth(target))
        return loss


class CheckedDataset(YOLODataset):
    """Ultralytics' dataset over images and labels that were read and checked before.

    Args:
        images: the checked images.
        scanner_looks: probability of simulating another scanner.
        cut_view: probability of cutting off a part of the field of view.
        options: options of the package's dataset.
    """

    def __init__(
        self,
        images: tuple[YoloImage, ...],
        *,
        scanner_looks: float = 0.0,
        cut_view: float = 0.0,
        **options: Any,
    ) -> None:
        self.checked = images
        self.scanner_looks, self.cut_view = scanner_looks, cut_view
        super().__init__(img_path=[str(image.file) for image in images], **options)
        self._read_no_arrays()

    def get_img_files(self, img_path: list[str]) -> list[str]:
        """Return the files as given, instead of a listing of the folder."""
        return list(img_path)

    def get_labels(self) -> list[dict[str, Any]]:
        """Return the labels as read, instead of a scan of the files and its cache (a pickle)."""
        return [
            {
                "im_file": str(image.file),
                "shape": image.size_hw,
                "cls": image.class_index.reshape(-1, 1).copy(),
                "bboxes": image.box_cxcywhn.copy(),
                "segments": [],
                "keypoints": None,
                "normalized": True,
                "bbox_format": "xywh",
            }
            for image in self.checked
        ]

    def get_image_and_label(self, index: int) -> dict[str, Any]:
        """Augment the package's result; the parts of a mosaic come from here too."""
        label: dict[str, Any] = super().get_image_and_label(index)
        if not self.cut_view and not self.scanner_looks:
            return label
        rng = np.random.default_rng(random.getrandbits(64))
        cuts, shows = rng.random(2) < (self.cut_view, self.scanner_looks)
        if cuts:
            _cut(label, rng)
        if shows:
            shown = scanner_look(np.ascontiguousarray(label["img"][..., 0]), rng)
            label["img"] = np.repeat(shown[..., None], label["img"].shape[-1], axis=-1)
        return label

    def build_transforms(self, hyp: Any = None) -> Any:
        """Leave out the package's step that blurs and equalises if albumentations is installed."""
        transforms = super().build_transforms(hyp)
        transforms.transforms = [
            step for step in transforms.transforms if not isinstance(step, Albumentations)
        ]
        return transforms

    def cache_images(self) -> None:
        """Decode every image once, as the package does, but without its output."""
        self._read_no_arrays()
        for index in range(self.ni):
            self.ims[index], self.im_hw0[index], self.im_hw[index] = self.load_image(index)

    def _read_no_arrays(self) -> None:
        """Keep the package from reading a ``.npy`` beside an image as its cache."""
        self.npy_files = [Path(file) / "none.npy" for file in self.im_files]


def _cut(label: dict[str, Any], rng: np.random.Generator) -> None:
    """Cut off a part of the view with its labels; its structures are in no fixed order."""
    instances = label["instances"]
    instances.convert_bbox("xyxy")
    height, width = label["img"].shape[:2]
    instances.denormalize(width, height)
    image, _, boxes = cut_view(label["img"], instances.bboxes.astype(np.float64), rng)
    centre = (boxes[:, 1] + boxes[:, 3]) / 2
    kept = (centre >= 0) & (centre < image.shape[0])
    instances = instances[kept]
    instances.bboxes[:] = boxes[kept]
    instances.clip(width, image.shape[0])
    instances.normalize(width, image.shape[0])
    label.update(
        img=np.ascontiguousarray(image),
        resized_shape=image.shape[:2],
        instances=instances,
        cls=label["cls"][kept],
    )


@dataclass(frozen=True, slots=True)
class TrainingParts:
    """Arguments of the trainer beside Ultralytics' own.

    Attributes:
        architecture: canonical name.
        description: the package's file, or the description in the checkpoint that is resumed.
        names: class names.
        train, val: checked images; without any in ``val``, nothing is validated.
        start: network whose weights are copied, or None.
        checkpoint: the checkpoint to resume, or None.
        label_smoothing: ε of [SmoothedBCE][].
        scanner_looks, cut_view: see [CheckedDataset][].
        progressive: fraction of the epochs, from the first, with images at 0.7 of the size.
        bf16: compute in bfloat16 on the CPU.
        val_every: number of epochs between validations.
        cache: keep decoded images in memory.
        tensorboard: write event files.
    """

    architecture: str
    description: str | dict[str, Any]
    names: tuple[str, ...]
    train: tuple[YoloImage, ...]
    val: tuple[YoloImage, ...]
    start: nn.Module | None = None
    checkpoint: dict[str, Any] | None = None
    label_smoothing: float = 0.0
    scanner_looks: float = 0.0
    cut_view: float = 0.0
    progressive: float = 0.0
    bf16: bool = False
    val_every: int = 1
    cache: bool = True
    tensorboard: bool = False


class SpineDetectionTrainer(DetectionTrainer):
    """The trainer described in the module."""

    def __init__(self, parts: TrainingParts, overrides: dict[str, Any]) -> None:
        self.parts = parts
        self.validated_epoch = -1
        self.best_epoch = -1
        self.bests: dict[str, float] = dict((parts.checkpoint or {}).get("bests") or {})
        self.files: list[str] = []
        self.board: Any = None
        self.reporter = Reporter()
        threads = torch.get_num_threads()
        super().__init__(overrides=overrides)
        torch.set_num_threads(threads)  # the package leaves one core of the CPU idle
        self.val_asked = bool(self.args.val)
        self.add_callback("on_train_start", _open_board)
        self.add_callback("on_train_start", self.reporter.start)
        if parts.bf16:
            self.add_callback("on_train_start", compute_in_bf16)
        self.add_callback("on_train_batch_end", _check_loss)
        self.add_callback("on_train_batch_end", self.reporter.batch)
        self.add_callback("on_fit_epoch_end", self.reporter.epoch)
        self.add_callback("on_train_epoch_start", _choose_validation)

    # Data and initial weights

    def check_resume(self, overrides: dict[str, Any]) -> None:  # noqa: ARG002
        """Do nothing: the checkpoint comes with the parts."""
        self.resume = bool(self.parts.checkpoint)

    def get_dataset(self) -> dict[str, Any]:
        """Return the dataset's description from the checked data."""
        names = dict(enumerate(self.parts.names))
        return {"train": "train", "val": "val", "names": names, "nc": len(names), "channels": 3}

    def build_dataset(
        self, img_path: str, mode: str = "train", batch: int | None = None
    ) -> CheckedDataset:
        """Make the dataset of a part; without a val part, unused training images replace it."""
        training = mode == "train"
        options = copy(self.args)
        options.deterministic = False  # avoids a warning about its cache; the order is the same
        return CheckedDataset(
            self.parts.train if img_path == "train" or not self.parts.val else self.parts.val,
            data=self.data,
            task="detect",
            imgsz=self.args.imgsz,
            batch_size=batch,
            augment=training,
            hyp=options,
            rect=self.args.rect or not training,
            cache="ram" if self.parts.cache and (training or self.parts.val) else None,
            stride=max(int(self.model.stride.max()), 32),
            pad=0.0 if training else 0.5,
            prefix=f"{mode}: ",
            scanner_looks=self.parts.scanner_looks if training else 0.0,
            cut_view=self.parts.cut_view if training else 0.0,
        )

    def setup_model(self) -> dict[str, Any] | None:
        """Build the network; copy initial weights, or those of the checkpoint that is resumed."""
        parts = self.parts
        network: Any = build_yolo(parts.description, classes=len(parts.names))
        network.names = dict(enumerate(parts.names))
        if parts.checkpoint is not None:
            network.load_state_dict(parts.checkpoint["ema"].float().state_dict())
        elif parts.start is not None:
            take_over_yolo(network, parts.start)
        if self.device.type == "cpu":  # faster, in bfloat16 and in float32
            network.to(memory_format=torch.channels_last)
        self.model = network
        return parts.checkpoint

    def build_optimizer(self, *arguments: Any, **options: Any) -> torch.optim.Optimizer:
        """Make the package's optimizer; Adam is fused on the CPU too."""
        optimizer: torch.optim.Optimizer = super().build_optimizer(*arguments, **options)
        if self.device.type == "cpu" and isinstance(optimizer, torch.optim.Adam):
            for group in optimizer.param_groups:
                group["fused"] = True
        return optimizer

    def set_class_weights(self) -> None:
        """Set the package's class weights, then the smoothed loss if it is requested."""
        super().set_class_weights()
        if self.parts.label_smoothing:
            network = unwrap_model(self.model)
            loss = v8DetectionLoss(network)
            loss.bce = SmoothedBCE(self.parts.label_smoothing)
            network.criterion = loss

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Prepare the batch as the package does, and remember its files for messages."""
        self.files = [Path(file).name for file in batch["im_file"]]
        prepared: dict[str, Any] = super().preprocess_batch(batch)
        images = prepared["img"]
        if self.epoch < round(self.parts.progressive * self.epochs):
            steps = [max(round(_SMALL * side / self.stride), 1) for side in images.shape[2:]]
            size_hw = [step * self.stride for step in steps]
            images = functional.interpolate(images, size_hw, mode="bilinear", antialias=True)
        if self.device.type == "cpu":
            images = images.contiguous(memory_format=torch.channels_last)
        prepared["img"] = images
        return prepared

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Stop the run, where the package would silently return to the last checkpoint.

        Raises:
            SpinelineError: the metrics of the validation are not finite.
        """
        if self.fitness is not None and not math.isfinite(self.fitness):
            msg = f"epoch {epoch + 1}: the validation gives no finite figures{self._kept()}"
            raise SpinelineError(msg)
        return False

    def _kept(self) -> str:
        done = self.epoch if self.last.exists() else 0
        return f"; {self.last} holds epoch {done}" if done else "; no epoch was finished"

    # Validation

    def get_validator(self) -> Any:
        """Return the package's validator, which draws only once, at the end."""
        validator = super().get_validator()
        validator.args.plots = False
        return validator

    def validate(self) -> tuple[dict[str, Any] | None, Any]:
        """Validate on the val part; without one, return nothing."""
        if not self.parts.val:
            return {}, None
        metrics, fitness = super().validate()
        self.validated_epoch = self.epoch
        return metrics, fitness

    def final_eval(self) -> None:
        """Validate the best weights once more for the plots; the last weights are kept."""
        if not self.args.plots or not self.parts.val or not self.best.exists():
            return
        checkpoint = torch.load(
            self.best, map_location="cpu", weights_only=False
        )  # ours, just written
        last = deepcopy(self.ema.ema.state_dict())
        self.ema.ema.load_state_dict(checkpoint["model"].float().state_dict())
        self.ema.ema.to(self.device)
        self.validator.args.plots = self.args.plots
        self.stopper.possible_stop = True  # it would draw only in the last epoch otherwise
        self.metrics = self.validator(self)
        self.ema.ema.load_state_dict(last)

    # Output

    def save_model(self) -> bool:
        """Write ``last.pt``, and ``best.pt`` if this epoch's validation is the best so far."""
        if not _is_finite(self.ema.ema):
            msg = (
                f"epoch {self.epoch + 1}: the weights are no longer finite numbers; lower lr0, "
                "lengthen warmup_epochs, or check the labels"
            )
            raise SpinelineError(msg)
        network = _stripped(self.ema.ema)
        arguments = self.plain_arguments()
        self._save_bests(network)
        if self.validated_epoch == self.epoch and self.best_fitness == self.fitness:
            write_checkpoint(_final_checkpoint(network, self.epoch, arguments), self.best)
            self.best_epoch = self.epoch
        write_checkpoint(
            {
                "epoch": self.epoch,
                "best_fitness": self.best_fitness,
                "bests": dict(self.bests),
                "stopper": {
                    "best_fitness": self.stopper.best_fitness,
                    "best_epoch": self.stopper.best_epoch,
                },
                "model": None,
                "ema": network,
                "updates": self.ema.updates,
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "train_args": arguments,
            },
            self.last,
        )
        return True

    def _save_bests(self, network: nn.Module) -> None:
        """Write the weights of an epoch that is the best for some metric."""
        if self.validated_epoch != self.epoch:
            return
        content = b""
        for metric, column in YOLO_METRICS.items():
            value = float(self.metrics[column])
            if not value > self.bests.get(metric, -1.0):
                continue
            self.bests[metric] = value
            meta = yolo_meta(network, self.parts.architecture, int(self.args.imgsz))
            content = content or packed_safetensors(network.state_dict(), meta)
            write_bytes(self.wdir / f"best_{metric}.safetensors", content)

    def strip_last(self) -> dict[str, nn.Module]:
        """Turn ``last.pt`` into a finished checkpoint: weights without optimizer state.

        Returns:
            The network of that file, and of ``best.pt`` where the last epoch is the best, by name.
        """
        network = _stripped(self.ema.ema)
        write_checkpoint(_final_checkpoint(network, self.epoch, self.plain_arguments()), self.last)
        names = ("last", "best") if self.best_epoch == self.epoch else ("last",)
        return dict.fromkeys(names, network)

    def plain_arguments(self) -> dict[str, Any]:
        """Return the training arguments without paths."""
        kept = {k: v for k, v in vars(self.args).items() if k not in PATH_KEYS}
        return {**kept, "model": self.parts.architecture, "val": self.val_asked}

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Append a line to ``results.csv``, without the time; ``nan`` for metrics without
        validation.

        With ``tensorboard=true``, the same numbers and a picture go there too.
        """
        skipped = self.validated_epoch != self.epoch
        row: dict[str, Any] = {"epoch": self.epoch + 1}
        for name, value in metrics.items():
            validated = name.startswith(("metrics/", "val/"))
            if validated and not self.parts.val:
                continue
            row[name] = float("nan") if validated and skipped else float(value)
        append_row(self.csv, row)
        if self.board is None:
            return
        del row["epoch"]
        self.board.scalars(self.epoch + 1, row)
        if self.parts.val:
            self.board.picture(self.epoch + 1, self._picture())

    def _picture(self) -> npt.NDArray[np.uint8]:
        """Draw labels and predictions of one image of the val part."""
        image = self.parts.val[pictured(self.parts.val)]
        pixels = read_uint8_image(image.file)
        network = deepcopy(self.ema.ema)
        network.criterion = None
        meta = yolo_meta(network, self.parts.architecture, int(self.args.imgsz))
        detector = UltralyticsDetector(network, meta, device=str(self.device))
        found = detector.detect([pixels], confidence=0.001, iou=0.7)[0]
        return comparison(pixels, labels_of(image), found, title=image.file.stem)


class Reporter:
    """Shows progress: a bar on a terminal, a line per epoch elsewhere."""

    def __init__(self) -> None:
        self.bar: Any = None

    def start(self, trainer: SpineDetectionTrainer) -> None:
        """Open the bar on a terminal."""
        if sys.stderr.isatty():
            from tqdm import tqdm

            batches = len(trainer.train_loader)
            done = trainer.start_epoch * batches
            self.bar = tqdm(total=trainer.epochs * batches, initial=done, desc="train", leave=False)

    def batch(self, _trainer: SpineDetectionTrainer) -> None:
        """Advance the bar after a batch."""
        if self.bar is not None:
            self.bar.update()

    def epoch(self, trainer: SpineDetectionTrainer) -> None:
        """Log a finished epoch."""
        losses = " ".join(
            f"{name.removesuffix('_loss')} {float(v):.3f}" for name, v in trainer.tloss.items()
        )
        text = f"epoch {trainer.epoch + 1}/{trainer.epochs}: {losses}"
        if trainer.validated_epoch == trainer.epoch and trainer.metrics:
            found = trainer.metrics
            text += f"; val mAP50 {found['metrics/mAP50(B)']:.3f}"
            text += f" mAP50-95 {found['metrics/mAP50-95(B)']:.3f}"
        if self.bar is not None:
            self.bar.set_description(text)
            if trainer.epoch + 1 >= trainer.epochs:
                self.bar.close()
        else:
            LOG.info("%s", text)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Restore the global random generators after the block: the package seeds them."""
    python_state = random.getstate()
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def cpu_has_bf16() -> bool:
    """Whether this CPU has instructions for bfloat16 products (AVX-512 BF16 or AMX).

    Versions of torch before 2.11 cannot report this; the answer is then no.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16", False))


def compute_in_bf16(trainer: SpineDetectionTrainer) -> None:
    """Make the network compute in bfloat16 on the CPU; weights, loss and optimizer stay float32.

    The package's own mixed precision is for CUDA. The averaged copy, whose weights are written, was
    made before and computes in float32.
    """
    network = unwrap_model(trainer.model)
    predict = network.predict

    def in_bf16(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            found = predict(*args, **kwargs)
        return {name: v if name == "feats" else v.float() for name, v in found.items()}

    network.predict = in_bf16


def _open_board(trainer: SpineDetectionTrainer) -> None:
    if trainer.parts.tensorboard:
        trainer.board = Board(trainer.save_dir, trainer.start_epoch)


def _check_loss(trainer: SpineDetectionTrainer) -> None:
    """Stop at the first batch whose loss is not finite; the package would finish the epoch.

    Raises:
        SpinelineError: the message gives the batch, its files and the last checkpoint.
    """
    losses = {name: float(value) for name, value in trainer.loss_items.items()}
    total = float(trainer.loss.detach())
    if math.isfinite(total) and all(math.isfinite(value) for value in losses.values()):
        return
    wrong = [f"{name}={value:g}" for name, value in losses.items() if not math.isfinite(value)]
    msg = (
        f"epoch {trainer.epoch + 1}: the loss is not a finite number "
        f"({', '.join(wrong) or f'{total:g}'}); the images of its batch: "
        f"{', '.join(trainer.files)}{trainer._kept()}; check their labels, or lower lr0"
    )
    raise SpinelineError(msg)


def yolo_meta(network: Any, architecture: str, imgsz: int) -> DetectorMeta:
    """Return the description for the weights file of a network."""
    return DetectorMeta(
        backend="ultralytics",
        model=architecture,
        names=tuple(network.names.values()),
        imgsz=imgsz,
        channels=3,
        yaml=plain_description(network.yaml),
    )


def _choose_validation(trainer: SpineDetectionTrainer) -> None:
    due = (trainer.epoch + 1) % trainer.parts.val_every == 0
    trainer.args.val = trainer.val_asked and due


def _stripped(network: nn.Module) -> Any:
    """A copy for a checkpoint: half precision, no loss, no arguments with paths."""
    plain: Any = deepcopy(network).half()
    plain.criterion = None
    plain.args = {}
    for tensor in plain.state_dict().values():
        if tensor.is_floating_point():
            torch.nan_to_num_(tensor)  # what is too large for 16 bits becomes the largest number
    for parameter in plain.parameters():
        parameter.requires_grad = False
    return plain


def finish_checkpoint(checkpoint: dict[str, Any], path: Path) -> int:
    """Finish the checkpoint of a last epoch as [SpineDetectionTrainer.strip_last][] does.

    Returns:
        The number of epochs trained.
    """
    if checkpoint["optimizer"] is None:
        return int(checkpoint["trained_epochs"])
    epoch, arguments = int(checkpoint["epoch"]), checkpoint["train_args"]
    write_checkpoint(_final_checkpoint(checkpoint["ema"], epoch, arguments), path)
    return epoch + 1


def _final_checkpoint(network: Any, epoch: int, arguments: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint that ``ultralytics`` can open but that cannot be resumed."""
    return {
        "epoch": -1,
        "trained_epochs": epoch + 1,
        "model": network,
        "ema": None,
        "optimizer": None,
        "train_args": arguments,
        "license": "AGPL-3.0",
    }


def _is_finite(network: nn.Module) -> bool:
    return all(
        bool(torch.isfinite(t).all())
        for t in network.state_dict().values()
        if t.is_floating_point()
    )
