#!/usr/bin/env bash
# SimpleITK scales all frames of an enhanced MR image by the slope of the first.
#
# Packages: SimpleITK==2.5.7, highdicom==0.28.2, pydicom==3.0.2, numpy==2.4.6
# Input: an enhanced MR image of three sagittal slices, whose frames have the rescale slopes 4, 2 and
#   1 and the stored values 100, 200 and 400, so that all hold 400; and the same frames stored from
#   the other end.
# Expected: 400 everywhere, as highdicom gives: the Pixel Value Transformation of PS3.3 C.7.6.16.2.9
#   may be one of each frame.
# Seen: 400, 800 and 1600; stored from the other end 400, 200 and 100, with no warning. A series of
#   single frames is scaled slice by slice.
# Why it matters: brightness that rises from slice to slice looks like that of a coil, but comes from
#   the order of storage; maps of T2 or of diffusion are wrong by these factors.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check SimpleITK==2.5.7 highdicom==0.28.2 pydicom==3.0.2 numpy==2.4.6
venv/bin/python - <<'EOF'
import highdicom as hd
import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid


def item(**values):
    ds = Dataset()
    for name, value in values.items():
        setattr(ds, name, value)
    return ds


def frame(number, slope):
    """A frame of the slice of this number, 4 mm to the left of the one before."""
    content = item(StackID="1", InStackPositionNumber=number + 1, DimensionIndexValues=[1, number + 1])
    scale = item(RescaleSlope=slope, RescaleIntercept=0, RescaleType="US")
    return item(
        FrameContentSequence=[content],
        PixelValueTransformationSequence=[scale],
        PlanePositionSequence=[item(ImagePositionPatient=[4 * number, -20, 30])],
    )


def read(path, frames):
    """Writes the frames (slice, slope) in this order, stored as 400 over the slope, and reads them."""
    organization = generate_uid()
    ds = item(
        SOPClassUID=EnhancedMRImageStorage, SOPInstanceUID=generate_uid(),
        StudyInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid(),
        FrameOfReferenceUID=generate_uid(), PatientName="", PatientID="", Modality="MR",
        StudyDate="", StudyTime="", StudyID="", AccessionNumber="", ReferringPhysicianName="",
        PatientBirthDate="", PatientSex="", SeriesNumber=1,
        ImageType=["ORIGINAL", "PRIMARY", "M", "NONE"], InstanceNumber=1,
        NumberOfFrames=len(frames), Rows=6, Columns=5,
        BitsAllocated=16, BitsStored=12, HighBit=11, PixelRepresentation=0,
        SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2",
        DimensionOrganizationSequence=[item(DimensionOrganizationUID=organization)],
        DimensionIndexSequence=[
            item(
                DimensionOrganizationUID=organization,
                DimensionIndexPointer=tag,
                FunctionalGroupPointer=0x00209111,
            )
            for tag in (0x00209056, 0x00209057)
        ],
        SharedFunctionalGroupsSequence=[
            item(
                PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.5], SliceThickness=4)],
                PlaneOrientationSequence=[item(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])],
            )
        ],
        PerFrameFunctionalGroupsSequence=[frame(*each) for each in frames],
    )  # fmt: skip
    pixels = np.array([400 // slope for _, slope in frames], np.uint16)
    ds.PixelData = np.repeat(pixels, 6 * 5).tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    image = sitk.ReadImage(path)
    values = sitk.GetArrayFromImage(image)[:, 0, 0].tolist()
    other = hd.imread(path).get_volume().array[:, 0, 0].tolist()
    print(path, "SimpleITK", values, "spacing", image.GetSpacing(), "highdicom", other)
    return values, other


frames = [(0, 4), (1, 2), (2, 1)]
assert read("in_order.dcm", frames) == ([400, 800, 1600], [400, 400, 400])
assert read("reversed.dcm", frames[::-1]) == ([400, 200, 100], [400, 400, 400])
EOF
