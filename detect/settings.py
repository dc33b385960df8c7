"""Settings of ``spineline detect train | val | predict | export``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from spineline.datasets.common.settings import Settings, key
from spineline.detect.defaults import DEFAULTS_OF

OPTIMIZERS = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "MuSGD", "auto")
FUSIONS = ("wbf", "nmw", "nms")


def _recipe_key(name: str, help: str, group: str, **limits: Any) -> Any:
    """A key that overrides the recipe; its help lists the models that have it, with defaults."""
    values = {model: table[name] for model, table in DEFAULTS_OF.items() if name in table}
    first = next(iter(values.values()))
    models = "" if len(values) == len(DEFAULTS_OF) else f"{', '.join(values)}: "
    others = ", ".join(f"{model} {value}" for model, value in values.items() if value != first)
    limits.setdefault("shown", first)
    text = f"{models}{help}{f' ({others})' if others else ''}"
    return key(text, default=None, group=group, **limits)


def _fraction(name: str, help: str, group: str = "augmentation", **limits: Any) -> Any:
    return _recipe_key(name, help, group, minimum=0.0, maximum=1.0, **limits)


def _gain(name: str, help: str, group: str = "training") -> Any:
    return _recipe_key(name, help, group, minimum=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectTrain(Settings):
    """Keys of ``detect train``.

    A key that a recipe can set is None if not given: its value is then the recipe's, else the
    model's default. A key that does not apply to the model is refused.
    """

    model: str | None = key(
        "architecture: yolov5{n,s,m,l,x}u, yolov8{n,s,m,l,x}, yolov3{,-tiny,-spp}u, fasterrcnn or "
        "unet",
        default=None,
        group="model",
        shown=MISSING,
    )
    data: Path | None = key(
        "dataset: its folder or data.yaml, converted or plain YOLO; or a COCO JSON file",
        default=None,
        group="data",
        shown=MISSING,
    )
    images: Path | None = key(
        "for a COCO JSON file: folder of its images; none searches near the file",
        default=None,
        group="data",
    )
    out: Path = key("run folder to write")
    hyp: str | None = key(
        "recipe: report, lumbar, cervical (fasterrcnn), or a YAML file; its values "
        "replace the defaults shown here, and other keys override it",
        default=None,
        group="training",
    )
    weights: str | None = key(
        "initial weights: a .safetensors or .pt file, or a registry name; none: train from scratch",
        default=None,
        group="model",
    )
    backbone_weights: Path | None = key(
        "fasterrcnn: initial backbone weights, an ImageNet state dict of torchvision or"
        " timm: a .safetensors file, or .pth with trust=true; the input is then "
        "normalised to match",
        default=None,
        group="model",
    )
    download: bool = key(
        "download initial weights: for YOLO, the official COCO weights of this model; "
        "for the backbone of fasterrcnn, torchvision's ImageNet weights",
        default=False,
        group="model",
    )
    trust: bool = key(
        "allow weights= or backbone_weights= to be a pickle, which can run code",
        default=False,
        group="model",
    )
    resume: bool = key(
        "continue the run in out= from its last checkpoint; fasterrcnn, unet: with "
        "identical numbers on the CPU; YOLO: with a new random state",
        default=False,
    )
    overwrite: bool = key("replace an earlier run in out=", default=False)
    seed: int = key("random seed for initial weights, order and augmentation", default=0, minimum=0)
    device: str = key("cpu, cuda, or the number of one CUDA device", default="cpu")
    workers: int = key(
        "number of processes that load images; 0: load in this process, as on the CPU",
        default=4,
        minimum=0,
    )
    cache: str = key(
        "where to keep decoded images: in memory (ram) or nowhere (none)",
        default="ram",
        choices=("ram", "none"),
    )
    amp: bool = key(
        "train in bfloat16 on CUDA devices that support it; yolo: also on CPUs where it is faster",
        default=True,
    )
    compile: bool = key(
        "compile the network with torch.compile: slow first steps, then faster ones", default=False
    )
    tensorboard: bool = key(
        "also write losses, metrics and one picture per epoch to OUT/tensorboard", default=False
    )
    val: bool = key(
        "validate on the val part during training; false: only after the last epoch", default=True
    )
    val_every: int = key("number of epochs between validations", default=1, minimum=1)
    plots: bool = key("draw curves, batches, PR and confusion plots at the end", default=True)
    verbose: bool = key("show the output of ultralytics", default=False)
    epochs: int | None = _recipe_key("epochs", "number of epochs", "training", minimum=1)
    imgsz: int | None = _recipe_key(
        "imgsz",
        "longer side of training images in pixels; yolo: a multiple of 32",
        "training",
        minimum=32,
    )
    batch: int | None = _recipe_key("batch", "images per step", "training", minimum=1)
    patience: int | None = _recipe_key(
        "patience",
        "stop after this many epochs without a better validation; 0: never",
        "training",
        minimum=0,
    )
    optimizer: str | None = _recipe_key(
        "optimizer",
        "optimizer; auto ignores lr0 and momentum; fasterrcnn supports only SGD, and "
        "unet SGD, Adam and AdamW",
        "training",
        choices=OPTIMIZERS,
    )
    cos_lr: bool | None = _recipe_key(
        "cos_lr", "cosine learning rate instead of linear", "training"
    )
    lr0: float | None = _fraction("lr0", "initial learning rate", "training")
    lrf: float | None = _fraction("lrf", "final learning rate as a fraction of lr0", "training")
    momentum: float | None = _fraction("momentum", "SGD momentum or Adam's beta1", "training")
    weight_decay: float | None = _fraction("weight_decay", "weight decay", "training")
    warmup_epochs: float | None = _gain("warmup_epochs", "epochs of warm-up")
    warmup_momentum: float | None = _fraction(
        "warmup_momentum", "momentum at the start of warm-up", "training"
    )
    warmup_bias_lr: float | None = _fraction(
        "warmup_bias_lr", "learning rate of biases at the start of warm-up", "training"
    )
    box: float | None = _gain("box", "gain of the box loss")
    cls: float | None = _gain("cls", "gain of the class loss")
    dfl: float | None = _gain("dfl", "gain of the distribution focal loss")
    cls_pw: float | None = _fraction(
        "cls_pw", "exponent of inverse class frequency; 0 = off", "training"
    )
    label_smoothing: float | None = _fraction(
        "label_smoothing", "smoothing of class targets at matched cells; YOLOv5's 0.1", "training"
    )
    nbs: int | None = _recipe_key(
        "nbs", "nominal batch size for gradient accumulation", "training", minimum=1
    )
    hsv_v: float | None = _fraction("hsv_v", "brightness jitter")
    degrees: float | None = _recipe_key(
        "degrees", "rotation in degrees", "augmentation", minimum=0.0, maximum=180.0
    )
    translate: float | None = _fraction("translate", "shift as a fraction of the size")
    scale: float | None = _gain("scale", "zoom as a fraction", "augmentation")
    shear: float | None = _recipe_key(
        "shear", "shear in degrees", "augmentation", minimum=0.0, maximum=180.0
    )
    perspective: float | None = _recipe_key(
        "perspective",
        "strength of the perspective",
        "augmentation",
        minimum=0.0,
        maximum=0.001,
    )
    flipud: float | None = _fraction(
        "flipud", "probability of an up-down flip; not for levels, which it reverses"
    )
    fliplr: float | None = _fraction("fliplr", "probability of a left-right flip")
    mosaic: float | None = _fraction("mosaic", "probability of a mosaic of four images")
    close_mosaic: int | None = _recipe_key(
        "close_mosaic", "number of last epochs without mosaic", "augmentation", minimum=0
    )
    mixup: float | None = _fraction("mixup", "probability of mixing two images")
    cutmix: float | None = _fraction("cutmix", ("probability of pasting a part of another image"))
    scanner_looks: float | None = _fraction(
        "scanner_looks",
        "probability of simulating another scanner: brightness, contrast, shading, fat "
        "suppression, sharpness, noise",
    )
    cut_view: float | None = _fraction(
        "cut_view", ("probability of cutting rows off above or below, with up to four structures")
    )
    progressive: float | None = _fraction(
        "progressive",
        (
            "share of the epochs, from the first, that use images of 0.7 times imgsz, which"
            " is faster"
        ),
    )
    multi_scale: float | None = _fraction("multi_scale", "jitter of imgsz as a fraction")
    rect: bool | None = _recipe_key(
        "rect", "rectangular batches; turns mosaic and shuffling off", "augmentation"
    )
    freeze: int | None = _recipe_key(
        "freeze", "number of first layers to freeze", "model", minimum=0
    )
    backbone: str | None = _recipe_key(
        "backbone",
        "backbone: torchvision's resnet18 … resnet152, mobilenet_v3_large, "
        "resnext50_32x4d, …, or a timm feature extractor, such as convnext_tiny or "
        "timm/resnet50",
        "model",
    )
    channels: int | None = _recipe_key(
        "channels", "input channels: 1 = grey, 3 = grey three times", "model", minimum=1, maximum=3
    )
    mean: float | None = _fraction(
        "mean", "mean to subtract from the pixels, in 0 … 1", "model", shown="the data's"
    )
    std: float | None = _recipe_key(
        "std",
        "standard deviation to divide the pixels by afterwards",
        "model",
        shown="the data's",
        minimum=0.001,
        maximum=1.0,
    )
    crop: int | None = _recipe_key(
        "crop",
        "side of the centre crop in training, after rotations and flips, in pixels; 0 ="
        " whole image",
        "augmentation",
        minimum=0,
    )
    distortion_min: float | None = _fraction("distortion_min", "smallest perspective strength")
    distortion_max: float | None = _fraction("distortion_max", "largest perspective strength")
    distortion_p: float | None = _fraction("distortion_p", "probability of a perspective")
    degrees_p: float | None = _fraction("degrees_p", "probability of a rotation by degrees=")
    quarter_turns: bool | None = _recipe_key(
        "quarter_turns",
        "rotate by 0, 90, 180 or 270 degrees; not for levels",
        "augmentation",
    )
    brightness: float | None = _fraction("brightness", "brightness jitter as a fraction")
    contrast: float | None = _fraction("contrast", "contrast jitter as a fraction")
    brightness_contrast_p: float | None = _fraction(
        "brightness_contrast_p", "probability of brightness and contrast jitter"
    )
    min_visibility: float | None = _fraction(
        "min_visibility",
        "drop boxes of which augmentation leaves a smaller share visible",
    )
    proposals: int | None = _recipe_key(
        "proposals", "proposals kept per image in training", "training", minimum=1
    )
    rois: int | None = _recipe_key(
        "rois", "regions per image for training the heads", "training", minimum=1
    )
    focal_gamma: float | None = _gain(
        "focal_gamma", "focusing parameter of a focal class loss; 0 = cross-entropy"
    )
    encoder: str | None = _recipe_key("encoder", "encoder, by its timm name", "model")
    heatmap: str | None = _recipe_key(
        "heatmap",
        "Gaussian peaks with squared error, or one-hot discs with cross-entropy",
        "model",
        choices=("gaussian", "onehot"),
    )
    sigma: float | None = _gain(
        "sigma",
        "standard deviation of the peaks, or radius of the discs, in pixels at imgsz",
        "model",
    )
    class_weights: tuple[float, ...] | None = _recipe_key(
        "class_weights",
        "weight of each class in the class loss, in the order of the classes",
        "training",
        shown="1 each",
        minimum=0.0,
    )
    yolo: Mapping[str, float] | None = key(
        "yolo: any other ultralytics hyperparameter by its own name, such as yolo.bgr=0.1",
        default=None,
        group="training",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorKeys(Settings):
    """Keys of the commands that run a detector, or an ensemble, over images."""

    model: str | None = key(
        "weights of a detector: a .safetensors or .pt file, or a registry name", default=None
    )
    weights: tuple[str, ...] | None = key(
        "instead of model: an ensemble of two or more detectors, [a,b], of any backends",
        default=None,
    )
    fusion: str = key(
        "ensemble: weighted mean of boxes with mean confidence (wbf), weighted mean "
        "with highest confidence (nmw), or the most confident box (nms)",
        default="wbf",
        choices=FUSIONS,
    )
    fusion_iou: float = key(
        "ensemble: boxes of one class that overlap by more are merged",
        default=0.55,
        minimum=0.0,
        maximum=1.0,
    )
    model_weights: tuple[float, ...] | None = key(
        "ensemble: weight of each detector, in their order",
        default=None,
        minimum=0.0,
        shown="1 each",
    )
    out: Path = key("folder to write")
    across_classes_iou: float | None = key(
        "then drop boxes that overlap a more confident box of any class by more; none keeps them",
        default=None,
        minimum=0.0,
        maximum=1.0,
    )
    max_detections: int = key("largest number of boxes per image", default=300, minimum=1)
    batch: int = key("images per forward pass", default=16, minimum=1)
    device: str = key("cpu, cuda, or the number of one CUDA device", default="cpu")
    trust: bool = key("allow a .pt pickle, which can run code", default=False)
    overwrite: bool = key("replace out= if it exists", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectVal(DetectorKeys):
    """Keys of ``detect val``."""

    data: Path = key(
        "dataset: its folder or data.yaml, converted or plain YOLO; or a COCO JSON file"
    )
    images: Path | None = key(
        "for a COCO JSON file: folder of its images; none searches near the file", default=None
    )
    split: str = key("part to score", default="val", choices=("train", "val", "test"))
    confidence: float = key(
        "lowest confidence for the COCO metrics", default=0.001, minimum=0.0, maximum=1.0
    )
    iou: float = key(
        "overlap (IoU) above which NMS drops boxes of the same class",
        default=0.7,
        minimum=0.0,
        maximum=1.0,
    )
    match_iou: float = key(
        "one_to_one and confusion: smallest overlap (IoU) of a match",
        default=0.5,
        minimum=0.05,
        maximum=1.0,
    )
    match_confidence: float = key(
        "one_to_one and confusion: lowest confidence for precision, recall and F1",
        default=0.5,
        minimum=0.0,
        maximum=1.0,
    )
    draws: int = key(
        "draws of the bootstrap over studies; 0: no intervals", default=1000, minimum=0
    )
    seed: int = key("random seed for the bootstrap", default=0, minimum=0)
    plots: bool = key("draw precision-recall and confusion plots", default=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectPredict(DetectorKeys):
    """Keys of ``detect predict``."""

    source: Path = key("image, folder of images, or data.yaml of a converted dataset")
    confidence: float = key("lowest confidence", default=0.25, minimum=0.0, maximum=1.0)
    iou: float = key(
        "overlap (IoU) above which NMS drops boxes of the same class",
        default=0.8,
        minimum=0.0,
        maximum=1.0,
    )
    window: str = key(
        "percentile: window grey values as the converters do; none: use 8-bit images unchanged",
        default="percentile",
        choices=("percentile", "none"),
    )
    overlays: bool = key("draw the boxes", default=True)
    txt: bool = key("also write YOLO text files", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectExport(Settings):
    """Keys of ``detect export``."""

    model: str = key("weights: a .safetensors or .pt file, or a registry name")
    out: Path = key("file to write, such as detector.onnx")
    format: str = key("what to write", default="onnx", choices=("onnx", "torchscript"))
    imgsz: int | None = key("input size", default=None, minimum=32, shown="as trained")
    dynamic: bool = key("onnx of a YOLO network: dynamic batch, height and width", default=True)
    opset: int = key("onnx: operator set version", default=17, minimum=12)
    trust: bool = key("allow a .pt pickle, which can run code", default=False)
    overwrite: bool = key("replace out= if it exists", default=False)
