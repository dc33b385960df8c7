#!/usr/bin/env bash
# dcmjs-imaging renders more columns than an image has if its pixels are not square.
#
# Packages: dcmjs-imaging==0.2.5 (npm), pydicom==3.0.2, numpy==2.4.6
# Input: a sagittal MR slice of 4 rows and 8 columns with Pixel Spacing 0.5\0.8, black except for the
#   sixth column.
# Expected: 4 rows and 8 columns of RGBA with the sixth bright, as getHeight() and getWidth() of the
#   same image say; neither the text nor the types of the package speak of resampling.
# Seen: 4 rows and 13 columns, of which the ninth is bright: the columns are stretched to square
#   pixels. With square pixels, 8 columns come back.
# Why it matters: points and outlines in pixels, as presentation states, SCOORD and label files have
#   them, fall on another place, and a detector that is fed the rendering reports boxes in its grid.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pydicom==3.0.2 numpy==2.4.6
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts dcmjs-imaging@0.2.5
venv/bin/python - <<'EOF'
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

pixels = np.zeros((4, 8), np.uint16)
pixels[:, 5] = 1000
for name, spacing in (("square", [0.5, 0.5]), ("oblong", [0.5, 0.8])):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = generate_uid(), generate_uid(), generate_uid()
    ds.PatientName = ds.PatientID = ""
    ds.Modality, ds.InstanceNumber = "MR", 1
    ds.Rows, ds.Columns, ds.PixelSpacing, ds.SliceThickness = 4, 8, spacing, 4
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [0, 1, 0, 0, 0, -1], [0, 0, 0]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = pixels.tobytes()
    ds.save_as(f"{name}.dcm", enforce_file_format=True)
EOF
node - <<'EOF'
const assert = require("assert");
const fs = require("fs");
const { DicomImage } = require("dcmjs-imaging");

function columns(name) {
  const image = new DicomImage(new Uint8Array(fs.readFileSync(name)).buffer);
  const rendered = image.render();
  const row = new Uint8Array(rendered.pixels).slice(0, 4 * rendered.width);
  const bright = [...Array(rendered.width).keys()].filter((column) => row[4 * column] > 127);
  console.log(name, "width", image.getWidth(), "rendered", rendered.width, "bright", bright);
  return [image.getWidth(), rendered.width, rendered.height, bright];
}

assert.deepStrictEqual(columns("square.dcm"), [8, 8, 4, [5]]);
assert.deepStrictEqual(columns("oblong.dcm"), [8, 13, 4, [8]]);
EOF
