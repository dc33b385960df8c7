"""Settings of ``spineline pipeline export``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.common.settings import Settings, key
from spineline.datasets.networks.runtimes import FORMS
from spineline.pipeline.inference.settings import ModelSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineExport(Settings):
    """Keys of ``pipeline export``."""

    out: Path = key("folder to write: bundle.json and the networks' files")
    format: str = key(
        "library that runs it without torch: ONNX Runtime or OpenVINO",
        default="onnx",
        choices=FORMS,
    )
    weights: str = key(
        "bundle, DETECTOR,CLASSIFIER, or one network that replaces its counterpart in "
        "the default bundle: names or files",
        default="default",
    )
    detector: str | None = key("detector instead of that of weights", default=None)
    classifier: str | None = key(
        "classifier instead of that of weights; several, as A,B, are averaged", default=None
    )
    namer: str = key("level reader instead of that of weights, or none", default="bundle")
    trust: bool = key("allow weights that are pickles, which can run code", default=False)
    overwrite: bool = key("replace an earlier output", default=False)

    def models(self) -> ModelSettings:
        """The networks that are exported."""
        return ModelSettings(
            weights=self.weights,
            detector=self.detector,
            classifier=self.classifier,
            namer=self.namer,
            runtime="torch",
            trust=self.trust,
        )
