"""All commands: one line of help, and the location of settings and function."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """A command with its settings and function, each given as ``module:name``."""

    summary: str
    settings: str
    run: str


_CONVERT = "spineline.converters.settings"
_DETECT = "spineline.detect.settings"
_CLASSIFY = "spineline.classify.settings"

COMMANDS: dict[str, dict[str, Command]] = {
    "convert": {
        "tianchi": Command(
            "convert Tianchi JSON with DICOM studies to YOLO, VOC and COCO",
            f"{_CONVERT}:ConvertTianchi",
            "spineline.converters.convert:convert_tianchi",
        ),
        "report": Command(
            "convert the report's JSON with frames to YOLO, VOC and COCO",
            f"{_CONVERT}:ConvertReport",
            "spineline.converters.convert:convert_report",
        ),
        "cervical": Command(
            "convert cervical CSV with LabelMe XML to YOLO, VOC and COCO: healthy and sick discs",
            f"{_CONVERT}:ConvertCervical",
            "spineline.converters.convert:convert_cervical",
        ),
        "prepared": Command(
            "convert the older cervical project's prepared JSON to YOLO, VOC and COCO",
            f"{_CONVERT}:ConvertPrepared",
            "spineline.converters.convert:convert_prepared",
        ),
        "result": Command(
            "convert results of pipeline predict, corrected or not, to YOLO, VOC and COCO",
            f"{_CONVERT}:ConvertPredicted",
            "spineline.converters.convert:convert_result",
        ),
        "coco": Command(
            "convert COCO boxes or key points, such as CVAT's, to YOLO, VOC and COCO",
            f"{_CONVERT}:ConvertCoco",
            "spineline.converters.convert:convert_export",
        ),
        "cvat": Command(
            "convert CVAT's XML (points, boxes, skeletons) to YOLO, VOC and COCO",
            f"{_CONVERT}:ConvertCvat",
            "spineline.converters.convert:convert_export",
        ),
        "labelstudio": Command(
            "convert Label Studio's JSON (key points, rectangles) to YOLO, VOC and COCO",
            f"{_CONVERT}:ConvertLabelStudio",
            "spineline.converters.convert:convert_export",
        ),
        "labelme": Command(
            "convert LabelMe's JSON files (points, rectangles) to YOLO, VOC and COCO",
            f"{_CONVERT}:ConvertLabelme",
            "spineline.converters.convert:convert_export",
        ),
        "slicer": Command(
            "convert 3D Slicer's points in DICOM studies or volumes to YOLO, VOC and COCO",
            f"{_CONVERT}:ConvertSlicer",
            "spineline.converters.convert:convert_export",
        ),
        "csv": Command(
            "convert a CSV file of points to YOLO, VOC and COCO",
            f"{_CONVERT}:ConvertCsv",
            "spineline.converters.convert:convert_export",
        ),
    },
    "data": {
        "check": Command(
            "find problems in an annotation source or a dataset",
            f"{_CONVERT}:DataCheck",
            "spineline.converters.check:check",
        ),
        "stats": Command(
            "report counts, sizes, spacing, mean, std and histograms",
            "spineline.datasets.commands.settings:DataStats",
            "spineline.datasets.commands.stats:stats",
        ),
        "show": Command(
            "draw boxes, points and levels over the images",
            "spineline.datasets.commands.settings:DataShow",
            "spineline.datasets.commands.show:show",
        ),
        "crops": Command(
            "write crops for the classifier, jittered and balanced on request",
            "spineline.datasets.commands.settings:DataCrops",
            "spineline.datasets.commands.crops:crops",
        ),
        "export": Command(
            "export a dataset or results for correction in CVAT, Label Studio or 3D Slicer",
            f"{_CONVERT}:DataExport",
            "spineline.converters.export:export",
        ),
        "phantom": Command(
            "draw synthetic studies with their annotation",
            "spineline.datasets.commands.settings:DataPhantom",
            "spineline.datasets.commands.phantom:phantom",
        ),
    },
    "detect": {
        "train": Command(
            "train a detector", f"{_DETECT}:DetectTrain", "spineline.detect.train:train"
        ),
        "val": Command(
            "score boxes: COCO, one-to-one matching, and the older project's rule",
            f"{_DETECT}:DetectVal",
            "spineline.detect.val:val",
        ),
        "predict": Command(
            "predict boxes on images",
            f"{_DETECT}:DetectPredict",
            "spineline.detect.predict:predict",
        ),
        "export": Command(
            "export to ONNX or TorchScript",
            f"{_DETECT}:DetectExport",
            "spineline.detect.export:export",
        ),
    },
    "classify": {
        "train": Command(
            "train a classifier", f"{_CLASSIFY}:ClassifyTrain", "spineline.classify.train:train"
        ),
        "val": Command(
            "score a classifier on crops: accuracy, F1, AUC",
            f"{_CLASSIFY}:ClassifyVal",
            "spineline.classify.val:val",
        ),
        "predict": Command(
            "grade crops", f"{_CLASSIFY}:ClassifyPredict", "spineline.classify.predict:predict"
        ),
        "calibrate": Command(
            "fit a temperature on out-of-fold predictions, and store it in the weights",
            f"{_CLASSIFY}:ClassifyCalibrate",
            "spineline.classify.calibrate:calibrate",
        ),
        "export": Command(
            "export to ONNX or TorchScript",
            f"{_CLASSIFY}:ClassifyExport",
            "spineline.classify.export:export",
        ),
    },
    "naming": {
        "train": Command(
            "train the level reader, which reads levels from the straightened spine",
            "spineline.detect.level_reader.settings:NamingTrain",
            "spineline.detect.level_reader.train:train",
        ),
        "calibrate": Command(
            "fit the probability of names to your networks, and store it in the level reader",
            "spineline.pipeline.evaluation.settings:NamingCalibrate",
            "spineline.pipeline.evaluation.calibrate_naming:calibrate",
        ),
    },
    "kfold": {
        "detect": Command(
            "cross-validate variants of a detector",
            "spineline.pipeline.kfold.settings:KfoldDetect",
            "spineline.pipeline.kfold.kfold:kfold_detect",
        ),
        "classify": Command(
            "cross-validate variants of a classifier",
            "spineline.pipeline.kfold.settings:KfoldClassify",
            "spineline.pipeline.kfold.kfold:kfold_classify",
        ),
        "pipeline": Command(
            "cross-validate the recipe of all three networks as one pipeline",
            "spineline.pipeline.kfold.settings:KfoldPipeline",
            "spineline.pipeline.kfold.kfold:kfold_pipeline",
        ),
    },
    "pipeline": {
        "train": Command(
            "train detector, classifier and level reader on one dataset, with the default "
            "bundle's recipe",
            "spineline.pipeline.training.settings:PipelineTrain",
            "spineline.pipeline.training.train:train",
        ),
        "predict": Command(
            "find, name and grade the structures of studies",
            "spineline.pipeline.run.settings:PipelinePredict",
            "spineline.pipeline.run.predict:predict",
        ),
        "val": Command(
            "score the pipeline against annotations",
            "spineline.pipeline.evaluation.settings:PipelineVal",
            "spineline.pipeline.evaluation.val:val",
        ),
        "write": Command(
            "write outputs of corrected results again, without running networks",
            "spineline.pipeline.review.settings:PipelineWrite",
            "spineline.pipeline.review.write:write",
        ),
        "agreement": Command(
            "count how often readers left the program's answers unchanged",
            "spineline.pipeline.review.settings:PipelineAgreement",
            "spineline.pipeline.review.agreement:agreement",
        ),
        "export": Command(
            "export the whole pipeline as one folder for ONNX Runtime or OpenVINO",
            "spineline.pipeline.export.settings:PipelineExport",
            "spineline.pipeline.export.export:export",
        ),
    },
    "review": {
        "": Command(
            "review and correct results on a local page",
            "spineline.pipeline.review.settings:Review",
            "spineline.pipeline.review.review:review",
        ),
    },
    "pacs": {
        "pull": Command(
            "fetch studies from a PACS into folders, over DICOMweb or DIMSE",
            "spineline.pipeline.pacs.settings:PacsPull",
            "spineline.pipeline.pacs.pull:pull",
        ),
        "push": Command(
            "send results to a PACS as DICOM",
            "spineline.pipeline.pacs.settings:PacsPush",
            "spineline.pipeline.pacs.push:push",
        ),
        "listen": Command(
            "receive studies from a PACS, analyse them, and send results back",
            "spineline.pipeline.pacs.settings:PacsListen",
            "spineline.pipeline.pacs.listen:listen",
        ),
    },
    "weights": {
        "list": Command(
            "list bundled and local weights",
            "spineline.pipeline.cli.settings:WeightsList",
            "spineline.pipeline.cli.weights:list_weights",
        ),
        "verify": Command(
            "compare weights with their SHA-256",
            "spineline.pipeline.cli.settings:WeightsVerify",
            "spineline.pipeline.cli.weights:verify_weights",
        ),
        "strip": Command(
            "convert a checkpoint to safetensors without optimizer state and paths",
            "spineline.pipeline.training.settings:WeightsStrip",
            "spineline.pipeline.training.strip:strip_weights",
        ),
        "add": Command(
            "put stripped weights into a registry",
            "spineline.pipeline.cli.settings:WeightsAdd",
            "spineline.pipeline.cli.weights:add_weights",
        ),
        "graphs": Command(
            "write the graphs with which ONNX Runtime and OpenVINO run registered weights",
            "spineline.pipeline.cli.settings:WeightsGraphs",
            "spineline.pipeline.cli.weights:write_graphs",
        ),
    },
    "demo": {
        "": Command(
            "draw a phantom study and run the pipeline on it with the bundled weights",
            "spineline.pipeline.cli.settings:Demo",
            "spineline.pipeline.cli.demo:demo",
        ),
    },
    "doctor": {
        "": Command(
            "check the installation: versions, extras, device, weights, network",
            "spineline.pipeline.cli.settings:Doctor",
            "spineline.pipeline.cli.doctor:doctor",
        ),
    },
    "completion": {
        "": Command(
            "print a shell script that completes tasks, modes, keys and values",
            "spineline.pipeline.cli.settings:Completion",
            "spineline.pipeline.cli.completion:completion",
        ),
    },
}
