"""All commands: of each, one line of help and where its settings and its function are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """One command: where its settings and its function are, by ``module:name``."""

    summary: str
    settings: str
    run: str


_CONVERT = "spineline.converters.settings"
_DETECT = "spineline.detect.settings"
_CLASSIFY = "spineline.classify.settings"

COMMANDS: dict[str, dict[str, Command]] = {
    "convert": {
        "tianchi": Command(
            "Tianchi JSON with DICOM studies to YOLO, VOC and COCO",
            f"{_CONVERT}:ConvertTianchi",
            "spineline.converters.convert:convert_tianchi",
        ),
        "report": Command(
            "the report's JSON with frames to YOLO, VOC and COCO",
            f"{_CONVERT}:ConvertReport",
            "spineline.converters.convert:convert_report",
        ),
        "cervical": Command(
            "cervical CSV with LabelMe XML to YOLO, VOC and COCO: healthy and sick discs",
            f"{_CONVERT}:ConvertCervical",
            "spineline.converters.convert:convert_cervical",
        ),
        "prepared": Command(
            "the older cervical project's prepared JSON to YOLO, VOC and COCO",
            f"{_CONVERT}:ConvertPrepared",
            "spineline.converters.convert:convert_prepared",
        ),
        "result": Command(
            "results of pipeline predict, corrected or not, to YOLO, VOC and COCO",
            f"{_CONVERT}:ConvertPredicted",
            "spineline.converters.convert:convert_result",
        ),
        "coco": Command(
            "COCO boxes or key points, as of CVAT, to YOLO, VOC and COCO",
            f"{_CONVERT}:ConvertCoco",
            "spineline.converters.convert:convert_export",
        ),
        "cvat": Command(
            "CVAT's XML (points, boxes, skeletons) to the same",
            f"{_CONVERT}:ConvertCvat",
            "spineline.converters.convert:convert_export",
        ),
        "labelstudio": Command(
            "Label Studio's JSON (key points, rectangles) to the same",
            f"{_CONVERT}:ConvertLabelStudio",
            "spineline.converters.convert:convert_export",
        ),
        "labelme": Command(
            "LabelMe's JSON files (points, rectangles) to the same",
            f"{_CONVERT}:ConvertLabelme",
            "spineline.converters.convert:convert_export",
        ),
        "slicer": Command(
            "3D Slicer's points in DICOM studies or volumes to the same",
            f"{_CONVERT}:ConvertSlicer",
            "spineline.converters.convert:convert_export",
        ),
        "csv": Command(
            "a CSV of points to the same",
            f"{_CONVERT}:ConvertCsv",
            "spineline.converters.convert:convert_export",
        ),
    },
    "data": {
        "check": Command(
            "find what is wrong with a source or a converted dataset",
            f"{_CONVERT}:DataCheck",
            "spineline.converters.check:check",
        ),
        "stats": Command(
            "counts, sizes, spacing, mean and std, histograms",
            "spineline.datasets.commands.settings:DataStats",
            "spineline.datasets.commands.stats:stats",
        ),
        "show": Command(
            "overlays of boxes, points and levels",
            "spineline.datasets.commands.settings:DataShow",
            "spineline.datasets.commands.show:show",
        ),
        "crops": Command(
            "crops for the classifier, jittered and balanced on request",
            "spineline.datasets.commands.settings:DataCrops",
            "spineline.datasets.commands.crops:crops",
        ),
        "export": Command(
            "a dataset or results for correction in CVAT, Label Studio or 3D Slicer",
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
            "figures of boxes: COCO, one to one, the older rule",
            f"{_DETECT}:DetectVal",
            "spineline.detect.val:val",
        ),
        "predict": Command(
            "boxes on images", f"{_DETECT}:DetectPredict", "spineline.detect.predict:predict"
        ),
        "export": Command(
            "to ONNX or TorchScript", f"{_DETECT}:DetectExport", "spineline.detect.export:export"
        ),
    },
    "classify": {
        "train": Command(
            "train a classifier", f"{_CLASSIFY}:ClassifyTrain", "spineline.classify.train:train"
        ),
        "val": Command(
            "accuracy, F1, AUC on crops", f"{_CLASSIFY}:ClassifyVal", "spineline.classify.val:val"
        ),
        "predict": Command(
            "grades of crops", f"{_CLASSIFY}:ClassifyPredict", "spineline.classify.predict:predict"
        ),
        "calibrate": Command(
            "fit a temperature on out-of-fold predictions, and write it into weights",
            f"{_CLASSIFY}:ClassifyCalibrate",
            "spineline.classify.calibrate:calibrate",
        ),
        "export": Command(
            "to ONNX or TorchScript",
            f"{_CLASSIFY}:ClassifyExport",
            "spineline.classify.export:export",
        ),
    },
    "naming": {
        "train": Command(
            "train the network that reads levels off the straightened spine",
            "spineline.detect.level_reader.settings:NamingTrain",
            "spineline.detect.level_reader.train:train",
        ),
    },
    "kfold": {
        "detect": Command(
            "cross-validate variants of a detector: each fold, mean, spread, intervals",
            "spineline.pipeline.kfold.settings:KfoldDetect",
            "spineline.pipeline.kfold.kfold:kfold_detect",
        ),
        "classify": Command(
            "cross-validate variants of a classifier",
            "spineline.pipeline.kfold.settings:KfoldClassify",
            "spineline.pipeline.kfold.kfold:kfold_classify",
        ),
        "pipeline": Command(
            "cross-validate the recipe of all three networks, scored as one pipeline",
            "spineline.pipeline.kfold.settings:KfoldPipeline",
            "spineline.pipeline.kfold.kfold:kfold_pipeline",
        ),
    },
    "pipeline": {
        "train": Command(
            "detector, classifier and namer of one dataset, by the default bundle's recipe",
            "spineline.pipeline.training.settings:PipelineTrain",
            "spineline.pipeline.training.train:train",
        ),
        "predict": Command(
            "studies in, named and graded structures out",
            "spineline.pipeline.run.settings:PipelinePredict",
            "spineline.pipeline.run.predict:predict",
        ),
        "val": Command(
            "score the pipeline against annotations",
            "spineline.pipeline.evaluation.settings:PipelineVal",
            "spineline.pipeline.evaluation.val:val",
        ),
        "write": Command(
            "outputs of results as corrected by hand, without running networks",
            "spineline.pipeline.review.settings:PipelineWrite",
            "spineline.pipeline.review.write:write",
        ),
        "agreement": Command(
            "how often a reader left the program's answers as they were",
            "spineline.pipeline.review.settings:PipelineAgreement",
            "spineline.pipeline.review.agreement:agreement",
        ),
        "export": Command(
            "the whole pipeline as one folder for ONNX Runtime or OpenVINO",
            "spineline.pipeline.export.settings:PipelineExport",
            "spineline.pipeline.export.export:export",
        ),
    },
    "review": {
        "": Command(
            "look through results and correct them: a page on this machine",
            "spineline.pipeline.review.settings:Review",
            "spineline.pipeline.review.review:review",
        ),
    },
    "pacs": {
        "pull": Command(
            "studies of a PACS as folders, over DICOMweb or DIMSE",
            "spineline.pipeline.pacs.settings:PacsPull",
            "spineline.pipeline.pacs.pull:pull",
        ),
        "push": Command(
            "results as DICOM to a PACS",
            "spineline.pipeline.pacs.settings:PacsPush",
            "spineline.pipeline.pacs.push:push",
        ),
        "listen": Command(
            "take studies as a PACS sends them, look at each, and send results back",
            "spineline.pipeline.pacs.settings:PacsListen",
            "spineline.pipeline.pacs.listen:listen",
        ),
    },
    "weights": {
        "list": Command(
            "bundled and local weights",
            "spineline.pipeline.cli.settings:WeightsList",
            "spineline.pipeline.cli.weights:list_weights",
        ),
        "verify": Command(
            "compare weights with their SHA-256",
            "spineline.pipeline.cli.settings:WeightsVerify",
            "spineline.pipeline.cli.weights:verify_weights",
        ),
        "strip": Command(
            "a checkpoint to safetensors without optimizer state and paths",
            "spineline.pipeline.training.settings:WeightsStrip",
            "spineline.pipeline.training.strip:strip_weights",
        ),
        "add": Command(
            "put stripped weights into a registry",
            "spineline.pipeline.cli.settings:WeightsAdd",
            "spineline.pipeline.cli.weights:add_weights",
        ),
        "graphs": Command(
            "write the graphs by which ONNX Runtime and OpenVINO run registered weights",
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
            "versions, extras, device, weights, network: what is here, and whether all holds",
            "spineline.pipeline.cli.settings:Doctor",
            "spineline.pipeline.cli.doctor:doctor",
        ),
    },
    "completion": {
        "": Command(
            "print a script by which a shell completes tasks, modes, keys and values",
            "spineline.pipeline.cli.settings:Completion",
            "spineline.pipeline.cli.completion:completion",
        ),
    },
}
