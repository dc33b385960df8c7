"""Codes of the DICOM outputs: SNOMED CT and DCM where available, else the scheme 99SPINELINE.

Vertebrae have the codes of DICOM's context group 7603, discs those of 7604 (PS3.16, edition of the
codes in pydicom). Grades beyond normal have private codes: SNOMED CT names disc disease by cause
and by side effects, and an approximate code would state something else.
"""

from __future__ import annotations

from pydicom.sr.coding import Code

from spineline.datasets.labels import KIND_OF_SEVEN, Kind

PRIVATE_SCHEME = "99SPINELINE"
PRIVATE_SCHEME_NAME = "spineline codes"


SITES: dict[str, Code] = {
    "T12-L1": Code("76206002", "SCT", "T12/L1 disc"),
    "L1": Code("66794005", "SCT", "L1 vertebra"),
    "L1-L2": Code("80064006", "SCT", "L1/L2 disc"),
    "L2": Code("14293000", "SCT", "L2 vertebra"),
    "L2-L3": Code("67459009", "SCT", "L2/L3 disc"),
    "L3": Code("36470004", "SCT", "L3 vertebra"),
    "L3-L4": Code("62551000", "SCT", "L3/L4 disc"),
    "L4": Code("11994002", "SCT", "L4 vertebra"),
    "L4-L5": Code("84020006", "SCT", "L4/L5 disc"),
    "L5": Code("49668003", "SCT", "L5 vertebra"),
    "L5-S1": Code("715056000", "SCT", "L5/S1 disc"),
}
"""The anatomical site of each level."""

KIND_CODES: dict[Kind, Code] = {
    "disc": Code("360499006", "SCT", "Intervertebral disc"),
    "vertebra": Code("51282000", "SCT", "Vertebra"),
}
"""The code of each kind of structure."""

LUMBAR_SPINE = Code("122496007", "SCT", "Lumbar spine")
_NORMAL = Code("17621005", "SCT", "Normal")
PRESENT = Code("52101004", "SCT", "Present")
ABSENT = Code("272519000", "SCT", "Absent")

SCHMORLS_NODE = Code("disc-v5", PRIVATE_SCHEME, "Schmorl's node (v5)")
FINDINGS: tuple[Code, ...] = (
    _NORMAL,
    Code("vertebra-v2", PRIVATE_SCHEME, "Degenerative vertebra (v2)"),
    _NORMAL,
    Code("disc-v2", PRIVATE_SCHEME, "Disc bulging (v2)"),
    Code("disc-v3", PRIVATE_SCHEME, "Disc protrusion (v3)"),
    Code("disc-v4", PRIVATE_SCHEME, "Disc extrusion (v4)"),
    SCHMORLS_NODE,
)
"""The finding of each seven-class code."""

NO_STRUCTURE = Code("no-structure", PRIVATE_SCHEME, "No vertebra or disc was found")
SCHMORL_PROBABILITY = Code("v5-probability", PRIVATE_SCHEME, "Probability of Schmorl's node")
CERTAINTY_OF_FEATURE = Code("111011", "DCM", "Certainty of Feature")
CERTAINTY_OF_FINDING = Code("111012", "DCM", "Certainty of Finding")
IMAGE_REGION = Code("111030", "DCM", "Image Region")
CENTER = Code("111010", "DCM", "Center")
DEVICE = Code("121007", "DCM", "Device")
COMMENT = Code("121106", "DCM", "Comment")
PERCENT = Code("%", "UCUM", "Percent")
IMAGE_LIBRARY = Code("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP = Code("126200", "DCM", "Image Library Group")
SOURCE = Code("260753009", "SCT", "Source")
EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")

NAMING = Code("naming", PRIVATE_SCHEME, "Naming of levels")
NAMED = Code("naming-given", PRIVATE_SCHEME, "Levels are named")
GUESSED = Code("naming-guess", PRIVATE_SCHEME, "Levels are a guess")
DETECTION = Code("detection", PRIVATE_SCHEME, "Detection of the structure")
DOUBTFUL = Code("doubtful", PRIVATE_SCHEME, "Doubtful")

MRI = Code("25056-3", "LN", "MRI unspecified body region")
IMAGING = Code("363679005", "SCT", "Imaging procedure")


def finding_of(code: int, kind: Kind) -> Code:
    """The finding of a seven-class code.

    >>> finding_of(3, "disc").meaning, finding_of(0, "vertebra").meaning
    ('Disc bulging (v2)', 'Normal')

    Raises:
        ValueError: the code does not belong to this kind.
    """
    if not 0 <= code < len(FINDINGS) or KIND_OF_SEVEN[code] != kind:
        msg = f"seven-class code {code} is none of a {kind}'s"
        raise ValueError(msg)
    return FINDINGS[code]
