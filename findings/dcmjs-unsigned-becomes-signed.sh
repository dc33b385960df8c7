#!/usr/bin/env bash
# dcmjs declares the pixels of unsigned MR slices as signed when it joins them to an enhanced image.
#
# Packages: dcmjs==0.51.1 (npm), pydicom==3.0.2, numpy==2.4.6
# Input: three sagittal MR slices of 16 unsigned bits (Pixel Representation 0), whose scanner scales the
#   brightest pixel to 60000, read and given to Normalizer.normalizeToDataset, then written by dcmjs.
# Expected: one image of three frames with Pixel Representation 0 and 60000 as its brightest pixel: the
#   tag is there in each slice, and PS3.3 C.7.6.3.1 lets 0 stand for unsigned.
# Seen: Pixel Representation 1 over the same bytes, and -5536: "guess signed", which is meant for a
#   missing tag, is also taken for the value 0.
# Why it matters: all that is brighter than 32767, such as fat and fluid, becomes darker than
#   the background. Slices of 12 bits hide it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pydicom==3.0.2 numpy==2.4.6
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts dcmjs@0.51.1
venv/bin/python - <<'EOF'
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

study, series, frame = generate_uid(), generate_uid(), generate_uid()
for number in range(3):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
    ds.PatientName = ds.PatientID = ""
    ds.ImageType, ds.Modality, ds.InstanceNumber = ["ORIGINAL", "PRIMARY", "M"], "MR", number + 1
    ds.Rows, ds.Columns, ds.PixelSpacing, ds.SliceThickness = 6, 5, [0.5, 0.5], 4
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [0, 1, 0, 0, 0, -1], [4.5 * number, 0, 0]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = np.linspace(0, 60000, 30).astype(np.uint16).tobytes()
    ds.save_as(f"{number}.dcm", enforce_file_format=True)
EOF
node - <<'EOF' >/dev/null
const fs = require("fs");
const { data, normalizers } = require("dcmjs");

const slices = [0, 1, 2].map((number) => {
  const file = data.DicomMessage.readFile(new Uint8Array(fs.readFileSync(`${number}.dcm`)).buffer);
  const slice = data.DicomMetaDictionary.naturalizeDataset(file.dict);
  slice._meta = data.DicomMetaDictionary.namifyDataset(file.meta);
  slice.PixelData = slice.PixelData[0];
  return slice;
});
const joined = normalizers.Normalizer.normalizeToDataset(slices);
joined._meta = slices[0]._meta;
fs.writeFileSync("joined.dcm", Buffer.from(data.datasetToDict(joined).write()));
EOF
venv/bin/python - <<'EOF'
from pydicom import dcmread

before, after = dcmread("0.dcm"), dcmread("joined.dcm")
for name, ds in (("slice", before), ("joined", after)):
    print(name, "Pixel Representation", ds.PixelRepresentation, "brightest pixel", ds.pixel_array.flat[29])
assert before.PixelRepresentation == 0 and before.pixel_array.flat[29] == 60000
assert after.NumberOfFrames == 3 and after.PixelRepresentation == 1
assert after.pixel_array.flat[29] == 60000 - 65536
EOF
