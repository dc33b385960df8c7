#!/usr/bin/env bash
# highdicom returns a segment of a label map that was not asked for, if it is the only one left out.
#
# Packages: highdicom==0.28.2, pydicom==3.0.2, numpy==2.4.6
# Input: one mask of a sagittal MR series with vertebra, disc and canal as segments 1, 2 and 3, made
#   a segmentation of type BINARY and one of type LABELMAP; get_volume() and
#   get_pixels_by_source_instance() with combine_segments=True and some of the segment_numbers.
# Expected: the numbers asked for, and 0 elsewhere, from both types: segment_numbers holds the
#   "segment numbers to include".
# Seen: BINARY gives that always. LABELMAP gives it for one number of three; for two numbers of three
#   the third is there as well, under its own number. It filters if more than one segment is left out.
# Why it matters: a volume or overlap of "all but the canal" includes the canal; in a file of two
#   segments, either one alone is both.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check highdicom==0.28.2 pydicom==3.0.2 numpy==2.4.6
venv/bin/python - <<'EOF'
import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

SLICES, ROWS, COLUMNS = 4, 12, 16
uids = {name: hd.UID() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
images = []
for number in range(SLICES):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, hd.UID()
    for name, uid in uids.items():
        setattr(ds, name, uid)
    ds.PatientName = ds.PatientID = ds.PatientBirthDate = ds.PatientSex = ""
    ds.StudyDate = ds.StudyTime = ds.StudyID = ds.AccessionNumber = ds.ReferringPhysicianName = ""
    ds.Modality, ds.InstanceNumber, ds.PositionReferenceIndicator = "MR", number + 1, ""
    ds.Rows, ds.Columns, ds.PixelSpacing, ds.SliceThickness = ROWS, COLUMNS, [0.5, 0.5], 4
    ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    ds.ImagePositionPatient = [-4 * number, 0, 0]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = np.zeros((ROWS, COLUMNS), np.uint16).tobytes()
    images.append(ds)
mask = np.zeros((SLICES, ROWS, COLUMNS), np.uint8)
mask[:, 0:4, 2:8], mask[:, 4:6, 2:8], mask[:, :, 10:12] = 1, 2, 3


def segmentation(kind):
    structures = (("51282000", "Vertebra"), ("360499006", "Disc"), ("61853006", "Spinal canal"))
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=mask,
        segmentation_type=kind,
        segment_descriptions=[
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=label,
                segmented_property_category=Code("91723000", "SCT", "Anatomical structure"),
                segmented_property_type=Code(code, "SCT", label),
                algorithm_type="MANUAL",
            )
            for number, (code, label) in enumerate(structures, start=1)
        ],
        series_instance_uid=hd.UID(), series_number=2,
        sop_instance_uid=hd.UID(), instance_number=1,
        manufacturer="x", manufacturer_model_name="x", software_versions="1",
        device_serial_number="1",
    )  # fmt: skip


def found(kind, numbers):
    """The numbers in the volume and in the frames by source image."""
    seg = segmentation(kind)
    asked = {"segment_numbers": numbers, "combine_segments": True}
    volume = seg.get_volume(**asked).array
    frames = seg.get_pixels_by_source_instance([ds.SOPInstanceUID for ds in images], **asked)
    return np.unique(volume).tolist(), np.unique(frames).tolist()


for numbers in ([1], [1, 2], [1, 3], [1, 2, 3]):
    binary, labelmap = found("BINARY", numbers), found("LABELMAP", numbers)
    print("asked for", numbers, "BINARY", binary, "LABELMAP", labelmap)
    right = [0, *numbers]
    assert binary == (right, right)
    wrong = [0, 1, 2, 3] if len(numbers) == 2 else right
    assert labelmap == (wrong, wrong)
EOF
