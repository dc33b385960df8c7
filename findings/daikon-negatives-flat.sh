#!/usr/bin/env bash
# daikon gives all negative pixels of a MONOCHROME1 image one and the same value.
#
# Packages: daikon==1.2.46 (npm), pydicom==3.0.2, numpy==2.4.6
# Input: a signed MR image of 12 bits with pixels of -2000, -1000, -5, 0, 1000 and 2000, once as
#   MONOCHROME2, once as MONOCHROME1, read with getInterpretedData.
# Expected: six different values for both, as stored or in the opposite order: PS3.3 C.7.6.3.1.2 lets
#   the lowest value be white, and signed pixels of 12 bits go down to -2048.
# Seen: 2047, 2047, 2047, 2047, 1047 and 47 for MONOCHROME1: each pixel is taken from 2047.5 and then
#   cut at 2047.5, so that nothing below zero is told apart.
# Why it matters: the bright half of the image is one flat white, although it was inverted
#   to look right; unsigned images show nothing of it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pydicom==3.0.2 numpy==2.4.6
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts daikon@1.2.46
venv/bin/python - <<'EOF'
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

for photometric in ("MONOCHROME1", "MONOCHROME2"):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = generate_uid(), generate_uid(), generate_uid()
    ds.PatientName = ds.PatientID = ""
    ds.Modality, ds.InstanceNumber = "MR", 1
    ds.Rows, ds.Columns, ds.PixelSpacing, ds.SliceThickness = 2, 3, [0.5, 0.5], 4
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [0, 1, 0, 0, 0, -1], [0, 0, 0]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 1
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, photometric
    ds.PixelData = np.array([-2000, -1000, -5, 0, 1000, 2000], np.int16).tobytes()
    ds.save_as(f"{photometric}.dcm", enforce_file_format=True)
EOF
node - <<'EOF'
const assert = require("assert");
const fs = require("fs");
const daikon = require("daikon");

function pixels(name) {
  const image = daikon.Series.parseImage(new DataView(new Uint8Array(fs.readFileSync(`${name}.dcm`)).buffer));
  const values = Array.from(image.getInterpretedData(false, false));
  console.log(name, values.join(" "));
  return values;
}

assert.deepStrictEqual(pixels("MONOCHROME2"), [-2000, -1000, -5, 0, 1000, 2000]);
assert.deepStrictEqual(pixels("MONOCHROME1"), [2047, 2047, 2047, 2047, 1047, 47]);
EOF
