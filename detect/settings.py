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
    """A key that beats the recipe; help says which models have it, and their defaults."""
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

    A key of a recipe is None where it is not given: its value is the recipe's, else the model's
    default. A key that the model has no use for is refused.
    """

    model: str | None = key(
        "architecture: yolov5{n,s,m,l,x}u, yolov8{n,s,m,l,x}, yolov3{,-tiny,-spp}u, fasterrcnn or "
        "unet",
        default=None,
        group="model",
        shown=MISSING,
    )
    data: Path | None = key(
        "dataset: its folder or data.yaml, converted or bare YOLO; or a COCO JSON file",
        default=None,
        group="data",
        shown=MISSING,
    )
    images: Path | None = key(
        "of a COCO JSON file: folder of its images; none looks around it",
        default=None,
        group="data",
    )
    out: Path = key("run folder to write")
    hyp: str | None = key(
        "recipe: report, lumbar, cervical (fasterrcnn), or a YAML file; its values replace "
        "the defaults shown here, and keys given beside it win",
        default=None,
        group="training",
    )
    weights: str | None = key(
        "start from: a .safetensors or .pt file, a registry name; none = from scratch",
        default=None,
        group="model",
    )
    backbone_weights: Path | None = key(
        "fasterrcnn: start the backbone from an ImageNet state dict of torchvision or timm, a "
        ".safetensors file, or .pth with trust=true; the input is then normalised as there",
        default=None,
        group="model",
    )
    download: bool = key(
        "start from weights fetched from the network: YOLO from the official COCO weights of this "
        "model, fasterrcnn's backbone from torchvision's ImageNet weights",
        default=False,
        group="model",
    )
    trust: bool = key(
        "allow weights= or backbone_weights= to be a pickle (it can run code)",
        default=False,
        group="model",
    )
    resume: bool = key(
        "continue the run in out= from its last checkpoint; fasterrcnn, unet: to the same numbers "
        "on the CPU; YOLO: random state starts afresh",
        default=False,
    )
    overwrite: bool = key("replace an earlier run in out=", default=False)
    seed: int = key("seed of initial weights, order and augmentation", default=0, minimum=0)
    device: str = key("cpu, cuda, or the number of one CUDA device", default="cpu")
    workers: int = key(
        "processes beside this one that load images (0: none); a training on the CPU has none",
        default=4,
        minimum=0,
    )
    cache: str = key(
        "keep decoded images in memory (ram) or not (none)", default="ram", choices=("ram", "none")
    )
    amp: bool = key(
        "bfloat16 on a CUDA device that has it, and yolo: on a CPU that multiplies it faster",
        default=True,
    )
    compile: bool = key(
        "torch.compile the network: slow first steps, faster ones after", default=False
    )
    tensorboard: bool = key(
        "also write losses, figures and one picture per epoch to OUT/tensorboard", default=False
    )
    val: bool = key(
        "validate on the val part while training; false: after the last epoch only", default=True
    )
    val_every: int = key("epochs from one validation to the next", default=1, minimum=1)
    plots: bool = key("draw curves, batches, PR and confusion, once, at the end", default=True)
    verbose: bool = key("pass on what ultralytics prints", default=False)
    epochs: int | None = _recipe_key("epochs", "epochs to train", "training", minimum=1)
    imgsz: int | None = _recipe_key(
        "imgsz", "longer side in training, pixels; yolo: a multiple of 32", "training", minimum=32
    )
    batch: int | None = _recipe_key("batch", "images per step", "training", minimum=1)
    patience: int | None = _recipe_key(
        "patience",
        "stop after so many epochs without a better validation; 0 never",
        "training",
        minimum=0,
    )
    optimizer: str | None = _recipe_key(
        "optimizer",
        "auto ignores lr0 and momentum; fasterrcnn has SGD alone, unet SGD, Adam and AdamW",
        "training",
        choices=OPTIMIZERS,
    )
    cos_lr: bool | None = _recipe_key(
        "cos_lr", "cosine learning rate instead of linear", "training"
    )
    lr0: float | None = _fraction("lr0", "first learning rate", "training")
    lrf: float | None = _fraction("lrf", "last learning rate as a share of lr0", "training")
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
        "nbs", "nominal batch that gradients accumulate to", "training", minimum=1
    )
    hsv_v: float | None = _fraction("hsv_v", "brightness jitter")
    degrees: float | None = _recipe_key(
        "degrees", "rotation, degrees", "augmentation", minimum=0.0, maximum=180.0
    )
    translate: float | None = _fraction("translate", "shift as a share of the size")
    scale: float | None = _gain("scale", "zoom as a share", "augmentation")
    shear: float | None = _recipe_key(
        "shear", "shear, degrees", "augmentation", minimum=0.0, maximum=180.0
    )
    perspective: float | None = _recipe_key(
        "perspective", "perspective", "augmentation", minimum=0.0, maximum=0.001
    )
    flipud: float | None = _fraction(
        "flipud", "chance of an up-down flip; levels do not survive it"
    )
    fliplr: float | None = _fraction("fliplr", "chance of a left-right flip")
    mosaic: float | None = _fraction("mosaic", "chance of a mosaic of four")
    close_mosaic: int | None = _recipe_key(
        "close_mosaic", "last epochs without mosaic", "augmentation", minimum=0
    )
    mixup: float | None = _fraction("mixup", "chance of mixing two images")
    cutmix: float | None = _fraction("cutmix", "chance of pasting a part of another image")
    scanner_looks: float | None = _fraction(
        "scanner_looks",
        "chance that a frame is shown as another scanner might: brightness, contrast, shading, "
        "fat suppression, sharpness, noise",
    )
    cut_view: float | None = _fraction(
        "cut_view", "chance that rows are cut off above or below, with up to four structures"
    )
    progressive: float | None = _fraction(
        "progressive", "share of the epochs, the first, that see images at 0.7 of imgsz: faster"
    )
    multi_scale: float | None = _fraction("multi_scale", "jitter of imgsz as a share")
    rect: bool | None = _recipe_key(
        "rect", "rectangular batches; turns mosaic and shuffling off", "augmentation"
    )
    freeze: int | None = _recipe_key("freeze", "freeze so many first layers", "model", minimum=0)
    backbone: str | None = _recipe_key(
        "backbone",
        "torchvision's resnet18 … resnet152, mobilenet_v3_large, resnext50_32x4d, … or a feature "
        "extractor of timm, such as convnext_tiny or timm/resnet50",
        "model",
    )
    channels: int | None = _recipe_key(
        "channels", "1 = grey, 3 = grey three times", "model", minimum=1, maximum=3
    )
    mean: float | None = _fraction(
        "mean", "mean that is subtracted from the pixels, in 0 … 1", "model", shown="the data's"
    )
    std: float | None = _recipe_key(
        "std",
        "standard deviation by which the pixels are then divided",
        "model",
        shown="the data's",
        minimum=0.001,
        maximum=1.0,
    )
    crop: int | None = _recipe_key(
        "crop",
        "centre crop in training, after turns and flips; pixels, 0 = whole",
        "augmentation",
        minimum=0,
    )
    distortion_min: float | None = _fraction("distortion_min", "least strength of a perspective")
    distortion_max: float | None = _fraction("distortion_max", "greatest strength of a perspective")
    distortion_p: float | None = _fraction("distortion_p", "chance of a perspective")
    degrees_p: float | None = _fraction("degrees_p", "chance of a rotation by degrees=")
    quarter_turns: bool | None = _recipe_key(
        "quarter_turns",
        "turn by 0, 90, 180 or 270 degrees; levels do not survive it",
        "augmentation",
    )
    brightness: float | None = _fraction("brightness", "brightness jitter as a share")
    contrast: float | None = _fraction("contrast", "contrast jitter as a share")
    brightness_contrast_p: float | None = _fraction(
        "brightness_contrast_p", "chance of brightness and contrast jitter"
    )
    min_visibility: float | None = _fraction(
        "min_visibility",
        "drop a box of which augmentation leaves a smaller share visible",
    )
    proposals: int | None = _recipe_key(
        "proposals", "proposals kept per image in training", "training", minimum=1
    )
    rois: int | None = _recipe_key(
        "rois", "regions per image that train the heads", "training", minimum=1
    )
    focal_gamma: float | None = _gain(
        "focal_gamma", "focusing of a focal class loss; 0 = cross-entropy"
    )
    encoder: str | None = _recipe_key("encoder", "an encoder, by timm's name", "model")
    heatmap: str | None = _recipe_key(
        "heatmap",
        "Gaussian bells by squared error, or one-hot discs by cross-entropy",
        "model",
        choices=("gaussian", "onehot"),
    )
    sigma: float | None = _gain(
        "sigma", "of the bells, or radius of the discs, pixels at imgsz", "model"
    )
    class_weights: tuple[float, ...] | None = _recipe_key(
        "class_weights",
        "weight of each class in the class loss, in the order of the classes",
        "training",
        shown="1 each",
        minimum=0.0,
    )
    yolo: Mapping[str, float] | None = key(
        "yolo: another hyperparameter of ultralytics by its own name, such as yolo.bgr=0.1",
        default=None,
        group="training",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorKeys(Settings):
    """Keys of the commands that run a detector, or an ensemble, over images."""

    model: str | None = key(
        "weights of one detector: a .safetensors or .pt file, or a registry name", default=None
    )
    weights: tuple[str, ...] | None = key(
        "instead of model: an ensemble, two or more of such, [a,b], of any backends", default=None
    )
    fusion: str = key(
        "ensemble: weighted mean of boxes and mean confidence (wbf), weighted mean and greatest "
        "confidence (nmw), or the most confident box (nms)",
        default="wbf",
        choices=FUSIONS,
    )
    fusion_iou: float = key(
        "ensemble: boxes of one class that overlap more are one",
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
        "then drop boxes of any class that overlap a more confident one by more (none = keep)",
        default=None,
        minimum=0.0,
        maximum=1.0,
    )
    max_detections: int = key("most boxes per image", default=300, minimum=1)
    batch: int = key("images per forward pass", default=16, minimum=1)
    device: str = key("cpu, cuda, or the number of one CUDA device", default="cpu")
    trust: bool = key("allow a .pt pickle (it can run code)", default=False)
    overwrite: bool = key("replace out= if it exists", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectVal(DetectorKeys):
    """Keys of ``detect val``."""

    data: Path = key(
        "dataset: its folder or data.yaml, converted or bare YOLO; or a COCO JSON file"
    )
    images: Path | None = key(
        "of a COCO JSON file: folder of its images; none looks around it", default=None
    )
    split: str = key("part to score", default="val", choices=("train", "val", "test"))
    confidence: float = key(
        "least confidence for the COCO figures", default=0.001, minimum=0.0, maximum=1.0
    )
    iou: float = key(
        "NMS: boxes of one class that overlap more", default=0.7, minimum=0.0, maximum=1.0
    )
    match_iou: float = key(
        "one_to_one and confusion: least overlap of a hit",
        default=0.5,
        minimum=0.05,
        maximum=1.0,
    )
    match_confidence: float = key(
        "one_to_one and confusion: least confidence for precision, recall and F1",
        default=0.5,
        minimum=0.0,
        maximum=1.0,
    )
    draws: int = key("of the bootstrap over studies; 0: no intervals", default=1000, minimum=0)
    seed: int = key("of the bootstrap", default=0, minimum=0)
    plots: bool = key("draw precision-recall and confusion", default=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectPredict(DetectorKeys):
    """Keys of ``detect predict``."""

    source: Path = key("an image, a folder of images, or a converted dataset's data.yaml")
    confidence: float = key("least confidence", default=0.25, minimum=0.0, maximum=1.0)
    iou: float = key(
        "NMS: boxes of one class that overlap more", default=0.8, minimum=0.0, maximum=1.0
    )
    window: str = key(
        "percentile: window grey values as the converters do; none: take 8-bit images as they are",
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
    dynamic: bool = key("onnx of a YOLO network: free batch, height and width", default=True)
    opset: int = key("onnx: operator set", default=17, minimum=12)
    trust: bool = key("allow a .pt pickle (it can run code)", default=False)
    overwrite: bool = key("replace out= if it exists", default=False)
