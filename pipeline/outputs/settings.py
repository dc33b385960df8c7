"""Settings of the outputs of a study and of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.settings import key
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.outputs.registry import check_packages, list_outputs

_COMPARE = "Tianchi or report JSON for the source, whose labels are drawn beside the predictions"
_TO = (
    "further outputs: report (STUDY/report.html), page (index.html, all studies), "
    "tianchi (a submission to the challenge), coco (detections); for DICOM studies "
    "also sr (structured report), pr (presentation state), sc (secondary capture), "
    "slicer (points for 3D Slicer)"
)
NAMES_HELP = "name studies by their folder, or by a salted hash that hides names, UIDs and paths"
SALT_HELP = (
    "salt of names=hash; none: a random one is stored in OUT/salt.txt, which you must keep secret"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSettings(ModelSettings):
    """The keys of a study's outputs."""

    source: Path = key(
        "study, folder of studies, DICOM file, volume (NIfTI, MHA, NRRD, MGH), image, folder"
        " of images, or an archive (zip, tar) of these",
        group="data",
    )
    overlay: bool = key("draw STUDY/overlay.png", default=True, group="output")
    compare: Path | None = key(_COMPARE, default=None, group="output")
    to: tuple[str, ...] = key(_TO, default=(), choices=tuple(list_outputs()), group="output")
    names: str = key(NAMES_HELP, default="folder", choices=("folder", "hash"), group="output")
    salt: str | None = key(SALT_HELP, default=None, group="output")

    def __post_init__(self) -> None:
        ModelSettings.__post_init__(self)
        check_salt(self.salt, self.names)
        if self.names == "hash" and self.compare is not None:
            raise ConfigError("compare=…: finds labels by the names and UIDs that names=hash hides")
        check_packages(self.to)


def check_salt(salt: str | None, names: str) -> None:
    """Refuse a salt that is too short, or that nothing uses.

    Raises:
        ConfigError: names what is allowed.
    """
    if salt is not None and (names != "hash" or len(salt) < 8):
        raise ConfigError("salt=…: wanted eight characters or more, and names=hash")
