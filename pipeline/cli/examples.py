"""One example for each command, shown on its help page; the tests parse them all."""

from __future__ import annotations

EXAMPLES: dict[tuple[str, str], str] = {
    ("convert", "tianchi"): "annotations=lumbar.json images=studies out=lumbar split=0.67",
    ("convert", "report"): "annotations=report_labels.json images=frames out=frames-dataset",
    ("convert", "cervical"): "annotations=descr images=frames out=necks",
    ("convert", "prepared"): "annotations=prepared images=frames out=necks",
    ("convert", "result"): "annotations=results images=studies out=corrected",
    ("convert", "coco"): "annotations=instances.json images=images out=dataset",
    ("convert", "cvat"): "annotations=annotations.xml images=images out=dataset",
    ("convert", "labelstudio"): "annotations=export.json images=images out=dataset",
    ("convert", "labelme"): "annotations=labels images=images out=dataset",
    ("convert", "slicer"): "annotations=markups images=studies out=dataset off_slice_mm=6",
    ("convert", "csv"): "annotations=points.csv images=studies out=dataset",
    ("data", "check"): "data=lumbar out=check",
    ("data", "stats"): "data=lumbar out=stats",
    ("data", "show"): "data=lumbar out=show part=val limit=8",
    ("data", "crops"): "data=lumbar out=crops align=spine",
    ("data", "phantom"): "out=phantoms n=12",
    ("data", "export"): "data=lumbar to=cvat,labelstudio out=fix",
    ("detect", "train"): "model=yolov8n data=lumbar out=detector hyp=lumbar",
    ("detect", "val"): "model=detector/weights/best.safetensors data=lumbar out=detector-val",
    ("detect", "predict"): "model=lumbar-yolov8n source=frames out=boxes",
    ("detect", "export"): "model=lumbar-yolov8n out=detector.onnx",
    ("classify", "train"): "data=lumbar out=classifier hyp=lumbar",
    ("classify", "val"): "model=classifier/weights/best.safetensors data=lumbar out=classifier-val",
    ("classify", "predict"): "model=lumbar-resnet18 source=crops out=grades",
    ("classify", "calibrate"): (
        "model=classifier.safetensors predictions=folds/original out=calibrated.safetensors"
    ),
    ("classify", "export"): "model=lumbar-resnet18 out=classifier.onnx",
    ("naming", "train"): "data=lumbar out=namer",
    ("naming", "calibrate"): (
        "data=lumbar folds=folds/best weights=mine/detector.safetensors,mine/classifier.safetensors"
        ",mine/namer.safetensors out=calibrated"
    ),
    ("kfold", "detect"): "data=lumbar out=folds k=3 model=yolov8n variants=original,mixup",
    ("kfold", "classify"): "data=lumbar out=folds k=3 variants=original,label_smoothing",
    ("kfold", "pipeline"): "data=lumbar out=folds k=3",
    ("pipeline", "train"): "data=lumbar out=mine",
    ("pipeline", "predict"): "source=studies out=results",
    ("pipeline", "val"): "source=studies annotations=lumbar.json out=metrics",
    ("pipeline", "write"): "source=results out=written to=sr,slicer",
    ("pipeline", "agreement"): "source=results out=agreement",
    ("pipeline", "export"): "out=bundle format=onnx",
    ("review", ""): "source=results",
    ("pacs", "pull"): "url=https://pacs.example/dicom-web study=1.2.840.1 out=studies",
    ("pacs", "push"): "source=results url=https://pacs.example/dicom-web",
    ("pacs", "listen"): "out=inbox host=0.0.0.0 allow=PACS push=dicom://PACS@10.0.0.5:104",
    ("weights", "list"): "folder=mine",
    ("weights", "verify"): "weights=all",
    ("weights", "strip"): "weights=best.pt out=best.safetensors trust=true",
    ("weights", "add"): (
        "weights=best.safetensors name=mine trained_on='150 studies' input='320x320 grey' "
        "folder=mine"
    ),
    ("weights", "graphs"): "folder=mine",
    ("demo", ""): "out=spineline-demo",
    ("doctor", ""): "quick=true",
    ("completion", ""): "shell=bash",
}
"""The keys of each command, as typed in a shell, by task and mode."""


def example(task: str, mode: str) -> str:
    """The whole command line.

    >>> example("weights", "verify")
    'spineline weights verify weights=all'
    """
    return " ".join(["spineline", task, mode, EXAMPLES[task, mode]]).replace("  ", " ")
