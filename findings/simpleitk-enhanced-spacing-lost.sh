#!/usr/bin/env bash
# SimpleITK gives an enhanced MR image voxels of 1 mm when its frames are not in the order of their positions.
#
# Packages: SimpleITK==2.5.7, pydicom==3.0.2, numpy==2.4.6
# Input: an enhanced MR image of five sagittal slices, pixels of 0.5 × 0.6 mm, slices 4.4 mm apart,
#   stored in three ways: from right to left, odd slices before even ones, and with two echoes.
# Expected: a spacing of 0.6, 0.5 and 4.4 mm three times: Pixel Spacing stands in the shared
#   functional groups, and each frame has its position. PS3.3 C.7.6.16 does not prescribe an order.
# Seen: the first is right; the others have a spacing of 1, 1, 1 and the frames as they are stored,
#   with no warning. Both echoes form one stack of ten slices.
# Why it matters: heights of vertebrae, volumes and resampled images of multi-echo or interleaved
#   files are wrong, while the size, the origin and the grey levels look right.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check SimpleITK==2.5.7 pydicom==3.0.2 numpy==2.4.6
venv/bin/python - <<'EOF'
import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

TAGS = {"StackID": 0x00209056, "InStackPositionNumber": 0x00209057, "EffectiveEchoTime": 0x00189082}
GROUPS = {"StackID": 0x00209111, "InStackPositionNumber": 0x00209111, "EffectiveEchoTime": 0x00189114}


def item(**values):
    ds = Dataset()
    for name, value in values.items():
        setattr(ds, name, value)
    return ds


def frame(number, echo):
    """A frame of the slice of this number, 4.4 mm to the left of the one before."""
    return item(
        PlanePositionSequence=[item(ImagePositionPatient=[4.4 * number, -20, 30])],
        MREchoSequence=[item(EffectiveEchoTime=40.0 * echo)],
        FrameContentSequence=[
            item(
                StackID="1",
                InStackPositionNumber=number + 1,
                DimensionIndexValues=[1, number + 1, echo],
            )
        ],
    )


def read(path, frames):
    """Writes the frames (slice, echo) in this order and reads them; pixels are 100 × echo + slice."""
    organization = generate_uid()
    ds = item(
        SOPClassUID=EnhancedMRImageStorage, SOPInstanceUID=generate_uid(),
        StudyInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid(),
        FrameOfReferenceUID=generate_uid(), PatientName="", PatientID="", Modality="MR",
        ImageType=["ORIGINAL", "PRIMARY", "M", "NONE"], InstanceNumber=1,
        NumberOfFrames=len(frames), Rows=6, Columns=5,
        BitsAllocated=16, BitsStored=12, HighBit=11, PixelRepresentation=0,
        SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2",
        DimensionOrganizationSequence=[item(DimensionOrganizationUID=organization)],
        DimensionIndexSequence=[
            item(
                DimensionOrganizationUID=organization,
                DimensionIndexPointer=TAGS[name],
                FunctionalGroupPointer=GROUPS[name],
            )
            for name in TAGS
        ],
        SharedFunctionalGroupsSequence=[
            item(
                PixelMeasuresSequence=[
                    item(PixelSpacing=[0.5, 0.6], SliceThickness=4, SpacingBetweenSlices=4.4)
                ],
                PlaneOrientationSequence=[item(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])],
                PixelValueTransformationSequence=[
                    item(RescaleSlope=1, RescaleIntercept=0, RescaleType="US")
                ],
            )
        ],
        PerFrameFunctionalGroupsSequence=[frame(*each) for each in frames],
    )  # fmt: skip
    pixels = np.array([100 * echo + number for number, echo in frames], np.uint16)
    ds.PixelData = np.repeat(pixels, 6 * 5).tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    image = sitk.ReadImage(path)
    spacing = tuple(round(mm, 3) for mm in image.GetSpacing())
    values = sitk.GetArrayFromImage(image)[:, 0, 0].tolist()
    print(path, "size", image.GetSize(), "spacing", spacing, "slices", values)
    return spacing, values


in_order = read("in_order.dcm", [(n, 1) for n in range(5)])
interleaved = read("interleaved.dcm", [(n, 1) for n in (0, 2, 4, 1, 3)])
echoes = read("echoes.dcm", [(n, echo) for echo in (1, 2) for n in range(5)])
assert in_order == ((0.6, 0.5, 4.4), [100, 101, 102, 103, 104])
assert interleaved == ((1, 1, 1), [100, 102, 104, 101, 103])
assert echoes == ((1, 1, 1), [100, 101, 102, 103, 104, 200, 201, 202, 203, 204])
EOF
