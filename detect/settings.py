"""Settings of ``spineline detect train | val | predict | export``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.common.settings import Settings, key

OPTIMIZERS = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "MuSGD", "auto")
FUSIONS = ("wbf", "nmw", "nms")


def _fraction(help: str) -> float | None:
    return key(help, default=None, minimum=0.0, maximum=1.0)


def _gain(help: str) -> float | None:
    return key(help, default=None, minimum=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectTrain(Settings):
    """Keys of ``detect train``.

    ``none``: from the recipe, else the model's default, as named: of the YOLO networks it is
    ultralytics'. A key that the model has no use for is refused.
    """

    model: str | None = key(
        "architecture: yolov5{n,s,m,l,x}u, yolov8{n,s,m,l,x}, yolov3{,-tiny,-spp}u, fasterrcnn or "
        "unet",
        default=None,
    )
    data: Path | None = key("converted dataset: its folder or data.yaml", default=None)
    out: Path = key("run folder to write")
    hyp: str | None = key(
        "recipe: report, lumbar, cervical (fasterrcnn), or a YAML file; a key given beats it",
        default=None,
    )
    weights: str | None = key(
        "start from: a .safetensors or .pt file, a registry name; none = from scratch", default=None
    )
    download: bool = key(
        "YOLO: start from the official COCO weights of this model, fetched from the network",
        default=False,
    )
    trust: bool = key("allow weights= to be a .pt pickle (it can run code)", default=False)
    resume: bool = key(
        "continue the run in out= from its last checkpoint; fasterrcnn, unet: to the same numbers "
        "on the CPU; YOLO: random state starts afresh",
        default=False,
    )
    overwrite: bool = key("replace an earlier run in out=", default=False)
    seed: int = key("seed of initial weights, order and augmentation", default=0, minimum=0)
    device: str = key("cpu, cuda, or the number of one CUDA device", default="cpu")
    workers: int = key("loader processes (none on the CPU)", default=4, minimum=0)
    cache: str = key(
        "keep decoded images in memory (ram) or not (none)", default="ram", choices=("ram", "none")
    )
    amp: bool = key("bfloat16 on a CUDA device that has it", default=True)
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
    epochs: int | None = key("epochs to train (100)", default=None, minimum=1)
    imgsz: int | None = key(
        "longer side in training, pixels; YOLO: a multiple of 32 (640)", default=None, minimum=32
    )
    batch: int | None = key("images per step (16; fasterrcnn, unet 8)", default=None, minimum=1)
    patience: int | None = key(
        "stop after so many epochs without a better validation; 0 never (100)",
        default=None,
        minimum=0,
    )
    optimizer: str | None = key(
        "auto ignores lr0 and momentum (auto; fasterrcnn has SGD alone; unet SGD, Adam, AdamW)",
        default=None,
        choices=OPTIMIZERS,
    )
    cos_lr: bool | None = key("cosine learning rate instead of linear (false)", default=None)
    lr0: float | None = _fraction("first learning rate (0.01; fasterrcnn 0.005, unet 0.001)")
    lrf: float | None = _fraction("last learning rate as a share of lr0 (0.01; fasterrcnn 0.1)")
    momentum: float | None = _fraction("SGD momentum or Adam's beta1 (0.937; fasterrcnn, unet 0.9)")
    weight_decay: float | None = _fraction("weight decay (0.0005; fasterrcnn 0.0001, unet 0.01)")
    warmup_epochs: float | None = _gain("epochs of warm-up (3; fasterrcnn, unet 1)")
    warmup_momentum: float | None = _fraction("momentum at the start of warm-up (0.8)")
    warmup_bias_lr: float | None = _fraction(
        "learning rate of biases at the start of warm-up (0.1)"
    )
    box: float | None = _gain("gain of the box loss (7.5)")
    cls: float | None = _gain("gain of the class loss (0.5)")
    dfl: float | None = _gain("gain of the distribution focal loss (1.5)")
    cls_pw: float | None = _fraction("exponent of inverse class frequency; 0 = off (0)")
    label_smoothing: float | None = _fraction(
        "smoothing of class targets at matched cells; YOLOv5's 0.1 (0)"
    )
    nbs: int | None = key(
        "nominal batch that gradients accumulate to (64)", default=None, minimum=1
    )
    hsv_h: float | None = _fraction("hue jitter; grey images have none (0.015)")
    hsv_s: float | None = _fraction("saturation jitter; grey images have none (0.7)")
    hsv_v: float | None = _fraction("brightness jitter (0.4)")
    degrees: float | None = key("rotation, degrees (0)", default=None, minimum=0.0, maximum=180.0)
    translate: float | None = _fraction("shift as a share of the size (0.1)")
    scale: float | None = _gain("zoom as a share (0.5)")
    shear: float | None = key("shear, degrees (0)", default=None, minimum=0.0, maximum=180.0)
    perspective: float | None = key("perspective (0)", default=None, minimum=0.0, maximum=0.001)
    flipud: float | None = _fraction("chance of an up-down flip; levels do not survive it (0)")
    fliplr: float | None = _fraction("chance of a left-right flip (0.5)")
    mosaic: float | None = _fraction("chance of a mosaic of four (1.0)")
    close_mosaic: int | None = key("last epochs without mosaic (10)", default=None, minimum=0)
    mixup: float | None = _fraction("chance of mixing two images (0)")
    cutmix: float | None = _fraction("chance of pasting a part of another image (0)")
    multi_scale: float | None = _fraction("jitter of imgsz as a share (0)")
    rect: bool | None = key(
        "rectangular batches; turns mosaic and shuffling off (false)", default=None
    )
    freeze: int | None = key("freeze so many first layers (none)", default=None, minimum=0)
    backbone: str | None = key(
        "fasterrcnn: torchvision's resnet18 … resnet152, mobilenet_v3_large, resnext50_32x4d, … or "
        "a feature extractor of timm, such as convnext_tiny or timm/resnet50 (resnet50)",
        default=None,
    )
    channels: int | None = key(
        "fasterrcnn, unet: 1 = grey, 3 = grey three times (3; unet 1)",
        default=None,
        minimum=1,
        maximum=3,
    )
    mean: float | None = _fraction(
        "fasterrcnn, unet: what is taken from the pixels, in 0 … 1 (the training images' mean)"
    )
    std: float | None = key(
        "fasterrcnn, unet: what they are then divided by (the training images' deviation)",
        default=None,
        minimum=0.001,
        maximum=1.0,
    )
    crop: int | None = key(
        "fasterrcnn, unet: centre crop in training, after turns and flips; pixels, 0 = whole (0)",
        default=None,
        minimum=0,
    )
    distortion_min: float | None = _fraction(
        "fasterrcnn, unet: least strength of a perspective (0)"
    )
    distortion_max: float | None = _fraction(
        "fasterrcnn, unet: greatest strength of a perspective (0)"
    )
    distortion_p: float | None = _fraction("fasterrcnn, unet: chance of a perspective (0)")
    degrees_p: float | None = _fraction(
        "fasterrcnn, unet: chance of a rotation by degrees= (1; unet 0.7)"
    )
    quarter_turns: bool | None = key(
        "fasterrcnn, unet: turn by 0, 90, 180 or 270 degrees; levels do not survive it (false)",
        default=None,
    )
    brightness: float | None = _fraction(
        "fasterrcnn, unet: brightness jitter as a share (0; unet 0.2)"
    )
    contrast: float | None = _fraction("fasterrcnn, unet: contrast jitter as a share (0; unet 0.2)")
    brightness_contrast_p: float | None = _fraction(
        "fasterrcnn, unet: chance of brightness and contrast jitter (0; unet 0.5)"
    )
    min_visibility: float | None = _fraction(
        "fasterrcnn, unet: drop a box of which augmentation leaves a smaller share visible "
        "(0; unet 0.75)"
    )
    proposals: int | None = key(
        "fasterrcnn: proposals kept per image in training (2000)", default=None, minimum=1
    )
    rois: int | None = key(
        "fasterrcnn: regions per image that train the heads (512)", default=None, minimum=1
    )
    focal_gamma: float | None = _gain(
        "fasterrcnn: focusing of a focal class loss; 0 = cross-entropy (0)"
    )
    encoder: str | None = key("unet: an encoder, by timm's name (resnet18)", default=None)
    heatmap: str | None = key(
        "unet: Gaussian bells by squared error, or one-hot discs by cross-entropy (gaussian)",
        default=None,
        choices=("gaussian", "onehot"),
    )
    sigma: float | None = _gain("unet: of the bells, or radius of the discs, pixels at imgsz (3)")
    class_weights: tuple[float, ...] | None = key(
        "fasterrcnn: weight of each class in the class loss, in the order of the classes (1 each)",
        default=None,
        minimum=0.0,
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
        "ensemble: weight of each detector, in their order (1 each)", default=None, minimum=0.0
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

    data: Path = key("converted dataset: its folder or data.yaml")
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
    imgsz: int | None = key(
        "input size; none: the size it was trained at", default=None, minimum=32
    )
    dynamic: bool = key("onnx of a YOLO network: free batch, height and width", default=True)
    opset: int = key("onnx: operator set", default=17, minimum=12)
    trust: bool = key("allow a .pt pickle (it can run code)", default=False)
    overwrite: bool = key("replace out= if it exists", default=False)
