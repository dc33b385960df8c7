#!/usr/bin/env bash
# dicom2nifti turns left and right round in an enhanced MR image that is numbered against its order of storage.
#
# Packages: dicom2nifti==2.6.2, pydicom==3.0.2, nibabel==5.4.2, numpy==2.4.6
# Input: an enhanced MR image of five sagittal slices; every pixel is the distance of its slice to
#   the left in mm. The frames are stored from right to left, or from left to right. In both cases
#   slice 1 is the rightmost by In-Stack Position Number.
# Expected: each voxel holds the distance to the left that the affine gives it, whatever the order:
#   PS3.3 C.7.6.16 leaves the order of frames open, and each frame has its position.
# Seen: stored from left to right, the volume is mirrored. dicom2nifti sorts the pixels by In-Stack
#   Position Number and takes the affine from the first and the last frame as stored. Its check of
#   the slice increment passes.
# Why it matters: findings change sides; no symmetric anatomy shows it, and nothing is reported.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check dicom2nifti==2.6.2 pydicom==3.0.2 nibabel==5.4.2 numpy==2.4.6
venv/bin/python - <<'EOF'
from pathlib import Path

import dicom2nifti
import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid


def item(**values):
    ds = Dataset()
    for name, value in values.items():
        setattr(ds, name, value)
    return ds


def frame(number):
    """The frame of the slice of this number, 5 mm to the left of the one before."""
    content = item(StackID="1", InStackPositionNumber=number, DimensionIndexValues=[1, number])
    position = item(ImagePositionPatient=[5 * number, -20, 30])
    return item(FrameContentSequence=[content], PlanePositionSequence=[position])


def converted(folder, numbers):
    """Writes the slices in this order, converts them, and gives (mm to the left, pixel) of each."""
    organization = generate_uid()
    ds = item(
        SOPClassUID=EnhancedMRImageStorage, SOPInstanceUID=generate_uid(),
        StudyInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid(),
        FrameOfReferenceUID=generate_uid(), PatientName="", PatientID="", Modality="MR",
        ImageType=["ORIGINAL", "PRIMARY", "M", "NONE"], InstanceNumber=1,
        NumberOfFrames=len(numbers), Rows=6, Columns=4,
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
                PixelMeasuresSequence=[
                    item(PixelSpacing=[0.5, 0.5], SliceThickness=4, SpacingBetweenSlices=5)
                ],
                PlaneOrientationSequence=[item(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])],
                PixelValueTransformationSequence=[
                    item(RescaleSlope=1, RescaleIntercept=0, RescaleType="US")
                ],
            )
        ],
        PerFrameFunctionalGroupsSequence=[frame(number) for number in numbers],
    )  # fmt: skip
    ds.PixelData = np.repeat(5 * np.array(numbers, np.uint16), 6 * 4).tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    Path(folder).mkdir()
    ds.save_as(f"{folder}/image.dcm", enforce_file_format=True)
    dicom2nifti.dicom_series_to_nifti(folder, f"{folder}.nii")
    volume = nibabel.load(f"{folder}.nii")
    found = []
    for voxel in np.ndindex(volume.shape):
        right = (volume.affine @ [*voxel, 1])[0]  # NIfTI counts to the right
        found.append((round(-right), int(volume.dataobj[voxel])))
    return sorted(set(found))


upwards = converted("upwards", [1, 2, 3, 4, 5])
downwards = converted("downwards", [5, 4, 3, 2, 1])
print("(mm to the left by the affine, by the pixel)")
print("stored from right to left", upwards)
print("stored from left to right", downwards)
assert upwards == [(5, 5), (10, 10), (15, 15), (20, 20), (25, 25)]
assert downwards == [(5, 25), (10, 20), (15, 15), (20, 10), (25, 5)]
EOF
