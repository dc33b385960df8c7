#!/usr/bin/env bash
# dcmjs gives the frames of an enhanced MR image the acquisition times of other slices.
#
# Packages: dcmjs==0.51.1 (npm), pydicom==3.0.2, numpy==2.4.6
# Input: three sagittal MR slices at x = 0, 4.5 and 9 mm, taken at 10:00:20, 10:00:10 and 10:00:00,
#   given to Normalizer.normalizeToDataset in the order in which they were taken, then written by dcmjs.
# Expected: each frame with the Frame Acquisition DateTime (0018,9074) of the slice at its position.
# Seen: the frame at 0 mm has 10:00:00, the one at 9 mm 10:00:20: frames are sorted by position, but
#   the times are dealt out in the order of the input.
# Why it matters: a frame can no longer be traced to the moment it was taken, as is needed for
#   contrast and motion; nothing is wrong if the input happens to be in order of position.
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
    ds.AcquisitionDate, ds.AcquisitionTime = "20260105", f"1000{10 * number:02}"
    ds.Rows, ds.Columns, ds.PixelSpacing, ds.SliceThickness = 6, 5, [0.5, 0.5], 4
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [0, 1, 0, 0, 0, -1], [9 - 4.5 * number, 0, 0]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = np.full((6, 5), 100 * number, np.uint16).tobytes()
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

slices = [dcmread(f"{number}.dcm") for number in range(3)]
taken = {float(ds.ImagePositionPatient[0]): ds.AcquisitionDate + ds.AcquisitionTime for ds in slices}
seen = {
    float(frame.PlanePositionSequence[0].ImagePositionPatient[0]):
        frame.FrameContentSequence[0].FrameAcquisitionDateTime
    for frame in dcmread("joined.dcm").PerFrameFunctionalGroupsSequence
}
for x_mm in sorted(taken):
    print(x_mm, "mm taken", taken[x_mm], "seen", seen[x_mm])
assert [taken[x_mm][-2:] for x_mm in (0.0, 4.5, 9.0)] == ["20", "10", "00"]
assert [seen[x_mm][-2:] for x_mm in (0.0, 4.5, 9.0)] == ["00", "10", "20"]
EOF
