#!/usr/bin/env bash
# highdicom lists the finding category of a measurement group among its qualitative evaluations.
#
# Packages: highdicom==0.28.2, pydicom==3.0.2, numpy==2.4.6
# Input: three planar measurement groups (TID 1410), made and read by highdicom: one with a finding
#   category and one evaluation, one with a category alone, one with an evaluation alone.
# Expected: get_qualitative_evaluations() gives what went in by qualitative_evaluations=, so one,
#   none and one: the category has a property of its own, finding_category.
# Seen: two, one and one. The category is a CODE item that the group contains, as evaluations are;
#   TID 1410 and TID 1501 give it a row of its own, and highdicom leaves the finding and the finding
#   site out of the list, but not the category.
# Why it matters: whoever counts or averages evaluations over structures finds one more each, with
#   "Morphologically abnormal structure" or "Anatomical structure" as the answer.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check highdicom==0.28.2 pydicom==3.0.2 numpy==2.4.6
venv/bin/python - <<'EOF'
import numpy as np
from highdicom import sr
from pydicom.sr.coding import Code

image = sr.SourceImageForRegion("1.2.840.10008.5.1.4.1.1.4", "1.2.3")
square = np.array([[1.0, 1.0], [9.0, 1.0], [9.0, 9.0], [1.0, 9.0], [1.0, 1.0]])
category = Code("91723000", "SCT", "Anatomical structure")
absent = sr.QualitativeEvaluation(
    Code("105590001", "SCT", "Osteophyte"), Code("2667000", "SCT", "Absent")
)


def evaluations(**given):
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid="1.2.3.4", identifier="L5"),
        referenced_region=sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, square, image),
        finding_type=Code("17621005", "SCT", "Normal"),
        finding_sites=[sr.FindingSite(Code("49668003", "SCT", "L5"))],
        **given,
    )
    again = sr.PlanarROIMeasurementsAndQualitativeEvaluations.from_sequence(group)
    return [(e.name.meaning, e.value.meaning) for e in again.get_qualitative_evaluations()]


both = evaluations(finding_category=category, qualitative_evaluations=[absent])
alone = evaluations(finding_category=category)
without = evaluations(qualitative_evaluations=[absent])
print("category and evaluation:", both)
print("category alone:         ", alone)
print("evaluation alone:       ", without)
listed = ("Finding category", "Anatomical structure")
assert both == [listed, ("Osteophyte", "Absent")]
assert alone == [listed]
assert without == [("Osteophyte", "Absent")]
EOF
