"""Which series and which slice are chosen, and what is said about it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.select import Choice, choose_slice
from spineline.datasets.dicom.types import Rejection, Series, Study

SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
TRANSVERSE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def make_series(
    description: str = "T2_TSE_SAG", *, uid: str | None = None, count: int = 7, **fields: object
) -> Series:
    uid = description if uid is None else uid
    slices = []
    for n in range(count):
        values: dict[str, object] = {
            "path": Path(f"{uid}-{n}.dcm"),
            "study_uid": "1",
            "series_uid": uid,
            "instance_uid": f"{uid}.{n}",
            "rows": 320,
            "columns": 320,
            "spacing_rc_mm": (1.0, 1.0),
            "orientation": SAGITTAL,
            "position": (-4.0 * n, 0.0, 0.0),
            "series_description": description,
            "modality": "MR",
            "instance_number": n + 1,
            "image_type": ("ORIGINAL", "PRIMARY", "M"),
            "words": description.upper(),
        }
        slices.append(SliceHeader(**{**values, **fields}))  # type: ignore[arg-type]
    return Series(uid, description, tuple(slices))


def choose(*series: Series, **fields: object) -> Choice:
    return choose_slice(Study("1", "study", Path(), series, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "description",
    [
        "T2_TSE_SAG",
        "SAG T2 FRFSE",
        "t2_tse_sag_384",
        "T2W_TSE_SAG",
        "sT2W_TSE SAG",
        "Sag T2",
        "FSE T2",
        "T2 SAG SCREENING",
        "SAG T2 NO FS",
        "T2_SAG_NON-FS",
        "T2 SAG without FAT SAT",
        "t2 sag ohne fatsat",
        "T2 sag ohne Fettsättigung",
        "SAG T2 sans saturation de graisse",
        "T2 plan sagittal",
        "Т2 саг",  # a Cyrillic T
    ],
)
def test_t2_names_are_known_without_a_warning(description: str) -> None:
    choice = choose(make_series("T1_TSE_SAG"), make_series(description))
    assert choice.series.description == description
    assert choice.warnings == ()


@pytest.mark.parametrize(
    "description",
    [
        "T2_TSE_SAG_FS", "T2 fs sag", "SAG T2 FATSAT", "T2 FAT SAT", "t2_stir_sag", "SAG STIR",
        "t2_tirm_sag", "T2 SPAIR SAG", "T2_SPIR", "T2W_TSE_dixon_W", "t2_tse_dixon_sag_water",
        "T2_DIXON_F", "T2FS SAG", "矢状 T2 压脂", "T2 FSAT SAG", "t2 sag Fettsättigung",
        "T2 sag fettgesättigt", "SAG T2 saturation de graisse", "SAG T2 SUPRESION GRASA",
        "T2 sagittale sat. grasso", "T2 sag vetonderdrukt", "矢状断 T2 脂肪抑制",
        "Т2 саг жироподавление",
    ],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_fat_suppression_is_avoided_then_used_with_a_warning(description: str, first: bool) -> None:
    suppressed, plain = make_series(description, count=15), make_series("T2_TSE_SAG", count=5)
    both = (suppressed, plain) if first else (plain, suppressed)
    choice = choose(*both)
    assert choice.series is plain
    assert choice.warnings == ()
    assert any(description in note.text and "fat-suppressed" in note.text for note in choice.notes)
    alone = choose(suppressed)
    assert alone.series is suppressed
    assert len(alone.warnings) == 1
    assert "fat-suppressed" in str(alone.warnings[0])


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"scan_options": ("FAST_GEMS", "FS")}, "scan option FS"),
        ({"inversion_time_ms": 160.0}, "inversion time 160 ms"),
        ({"image_type": ("DERIVED", "PRIMARY", "DIXON", "WATER")}, "water image"),
    ],
    ids=["options", "inversion", "image-type"],
)
def test_fat_suppression_is_seen_in_the_tags(fields: dict[str, object], why: str) -> None:
    choice = choose(make_series("T2 SAG A", **fields), make_series("T2 SAG B", count=3))
    assert choice.series.description == "T2 SAG B"
    assert any(why in note.text for note in choice.notes)


DIXON_NAMES = [
    {"water": "t2_tse_dixon_sag_W", "in-phase": "t2_tse_dixon_sag_in",
     "opposed-phase": "t2_tse_dixon_sag_opp", "fat": "t2_tse_dixon_sag_F"},
    {"water": "WATER: Sag T2 FLEX", "in-phase": "InPhase: Sag T2 FLEX",
     "opposed-phase": "OutPhase: Sag T2 FLEX", "fat": "FAT: Sag T2 FLEX"},
    {"water": "Sag T2 IDEAL water", "in-phase": "Sag T2 IDEAL IP",
     "opposed-phase": "Sag T2 IDEAL OP", "fat": "Sag T2 IDEAL fat"},
    {"water": "T2_tse_sag_water", "in-phase": "T2_tse_sag_in", "opposed-phase": "T2_tse_sag_opp",
     "fat": "T2_tse_sag_fat"},
    {"water": "T2W_sag_W", "in-phase": "T2W_sag_IP", "opposed-phase": "T2W_sag_OP",
     "fat": "T2W_sag_F"},
    {"water": "(WATER) Sag T2", "in-phase": "(IN) Sag T2", "opposed-phase": "(OUT) Sag T2",
     "fat": "(FAT) Sag T2"},
    {"water": "t2_W_sag_p2", "in-phase": "t2_in_sag_p2", "opposed-phase": "t2_opp_sag_p2",
     "fat": "t2_F_sag_p2"},
    {"water": "T2 SAG W 腰椎", "in-phase": "T2 SAG IP 腰椎", "opposed-phase": "T2 SAG OP 腰椎",
     "fat": "T2 SAG F 腰椎"},
    {"water": "T2 sag [Wasser]", "in-phase": "T2 sag [in]", "opposed-phase": "T2 sag [opp]",
     "fat": "T2 sag [Fett]"},
]  # fmt: skip
PARTS = ("water", "in-phase", "opposed-phase", "fat")


@pytest.mark.parametrize("names", DIXON_NAMES, ids=lambda names: names["water"])
@pytest.mark.parametrize("first", range(2), ids=["water-in-opposed-fat", "without-water"])
@pytest.mark.parametrize("backwards", [False, True])
def test_of_a_dixon_scan_water_comes_before_in_phase_and_the_rest(
    names: dict[str, str], first: int, backwards: bool
) -> None:
    parts = PARTS[first:]
    series = [make_series(names[part], uid=f"1.{9 - n}") for n, part in enumerate(parts)]
    choice = choose(*(series[::-1] if backwards else series))
    assert choice.series.description == names[parts[0]]
    assert ["fat-suppressed" in each.text for each in choice.warnings] == [True] * (not first)
    assert choice.alternatives == ()


@pytest.mark.parametrize(
    "types",
    [
        {"water": "WATER", "in-phase": "IN_PHASE", "opposed-phase": "OPP_PHASE", "fat": "FAT"},
        {"water": "W", "in-phase": "IP", "opposed-phase": "OP", "fat": "F"},
        {"water": "WAT", "in-phase": "IN", "opposed-phase": "OPP", "fat": "FAT"},
        {
            "water": "WATER_ONLY",
            "in-phase": "IN-PHASE",
            "opposed-phase": "OUT_OF_PHASE",
            "fat": "FAT ONLY",
        },
    ],
    ids=["words", "letters", "short words", "long words"],
)
@pytest.mark.parametrize("together", [False, True], ids=["four series", "one series"])
def test_parts_of_a_dixon_scan_are_known_by_image_type_alone(
    types: dict[str, str], together: bool
) -> None:
    series = [
        make_series("T2 SAG", uid=f"1.{9 - n}", image_type=("DERIVED", "PRIMARY", types[part]))
        for n, part in enumerate(PARTS)
    ]
    if together:
        series = [Series("1", "T2 SAG", tuple(h for each in series for h in each.slices))]
    choice = choose(*series)
    assert choice.slice.image_type[2] == types["water"]
    assert choice.slice.instance_uid.endswith(".3")


def test_a_plain_t2_series_comes_before_a_dixon_scan() -> None:
    plain = make_series("T2_TSE_SAG", count=5)
    choice = choose(make_series("t2_dixon_sag_W"), make_series("t2_dixon_sag_in"), plain)
    assert choice.series is plain


@pytest.mark.parametrize("protocol", ["L SPINE T1 T2 STIR", "LUMBAR DWI", "SPINE LOC", "FS GRE"])
def test_the_name_of_an_exam_does_not_change_what_descriptions_say(protocol: str) -> None:
    names = ("SAG T1", "SAG T2", "SAG STIR")
    series = [make_series(name, words=f"{name} {protocol}") for name in names]
    for order in (series, series[::-1]):
        choice = choose(*order)
        assert choice.series.description == "SAG T2"
        assert choice.warnings == ()
        assert len(choice.t1_slices) == 7
    assert "fat-suppressed" in choose(series[2]).warnings[0].text


def test_a_protocol_that_names_a_whole_exam_says_nothing_of_one_series() -> None:
    choice = choose(make_series("sag 2", words="SAG 2 LSPINE T1 T2 STIR", echo_time_ms=100.0))
    assert choice.warnings == ()


def test_the_name_of_a_sequence_says_more_than_the_description() -> None:
    choice = choose(make_series("T2", words="T2 T2_TSE_FS_SAG"), make_series("T2 SAG", count=3))
    assert choice.series.description == "T2 SAG"
    assert any("fat-suppressed (described as 'FS')" in note.text for note in choice.notes)


@pytest.mark.parametrize("protocol", ["LUMBAR FLEX COIL", "L SPINE IDEAL", "L SPINE"])
def test_a_dixon_word_in_the_protocol_hides_no_fat_suppression(protocol: str) -> None:
    names = ("SAG T2 FS", "SAG T2")
    dark, plain = (make_series(name, words=f"{name} {protocol}") for name in names)
    choice = choose(replace(dark, slices=dark.slices * 2), plain)
    assert choice.series is plain
    assert choice.warnings == ()
    assert "fat-suppressed" in choose(dark).warnings[0].text


def test_letters_at_the_end_mean_nothing_alone() -> None:
    assert choose(make_series("T2_TSE_SAG_F")).warnings == ()


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        (make_series("T1_TSE_SAG"), "T1-weighted"),
        (make_series("PD SAG"), "PD-weighted"),
        (make_series("T2_TSE_TRA", orientation=TRANSVERSE), "transverse, not sagittal"),
        (make_series("T2_COR", orientation=CORONAL), "coronal, not sagittal"),
        (make_series("LOCALIZER"), "a localizer"),
        (make_series("3-pl T2 Loc"), "a localizer"),
        (make_series("T2", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")), "a localizer"),
        (make_series("T2 SAG", modality="CT"), "modality CT, not MR"),
        (
            make_series("T2 SAG", sop_class_uid="1.2.840.10008.5.1.4.1.1.7"),
            "a screenshot or secondary capture",
        ),
        (make_series("T2 SAG MIP"), "a projection"),
        (make_series("T2 SAG SUB"), "a subtraction"),
        (make_series("T2 SAG", image_type=("ORIGINAL", "PRIMARY", "P")), "a phase image"),
        (make_series("sag", acquisition_contrast="T1"), "T1-weighted"),
        (make_series("sag", echo_time_ms=10.0, repetition_time_ms=600.0), "T1-weighted"),
        (make_series("sag", echo_time_ms=20.0, repetition_time_ms=2500.0), "PD-weighted"),
        (make_series("T2 SAG", rows=32), "only 32x320 pixels"),
        (make_series("T2", orientation=None), "no orientation"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_study_without_sagittal_t2_says_what_was_found(series: Series, reason: str) -> None:
    with pytest.raises(DicomReadError, match="no sagittal T2 series; found") as caught:
        choose(series)
    assert reason in str(caught.value)
    assert "or use one of these all the same with force=true" in str(caught.value)
    choice = choose(series, make_series("T2 sagittal good", count=3))
    assert choice.series.description == "T2 sagittal good"
    assert any(reason in note.text for note in choice.notes)


def test_an_empty_study_names_its_files() -> None:
    rejections = (Rejection(Path("a.dcm"), "header cut short"),)
    with pytest.raises(DicomReadError, match=r"no usable DICOM image \(a.dcm: header cut short\)"):
        choose(rejections=rejections)


def test_echo_and_repetition_time_decide_where_words_are_silent() -> None:
    t1 = make_series("sag", uid="1", echo_time_ms=10.0, repetition_time_ms=500.0)
    t2 = make_series("sag", uid="2", echo_time_ms=98.0, repetition_time_ms=3100.0)
    choice = choose(t1, t2)
    assert choice.series is t2
    assert choice.warnings == ()


@pytest.mark.parametrize(
    ("worse", "warning"),
    [
        (make_series("sag"), "weighting unknown"),
        (make_series("T2* SAG MEDIC"), r"T2\*-weighted"),
        (make_series("T2 SAG", echo_time_ms=900.0), "myelography"),
        (make_series("T2 SAG", echo_time_ms=12.0), "echo time is 12 ms"),
        (make_series("T2 SAG", image_type=("DERIVED", "SECONDARY")), "derived image"),
        (make_series("T2 SAG CERVICAL"), "another part of the body"),
        (make_series("T2 SAG", body_part="CSPINE"), "another part of the body"),
        (make_series("T2 SAG", modality=""), "modality is missing"),
        (make_series("T2 SAG", count=2), r"only 2 slice\(s\)"),
        (make_series("T2 SAG", orientation=None), "assumed to be sagittal by its description"),
    ],
    ids=[
        "unknown", "t2-star", "myelography", "short-echo", "derived", "cervical-word",
        "cervical-tag", "no-modality", "two-slices", "no-orientation",
    ],
)  # fmt: skip
def test_second_best_is_used_last_and_with_a_warning(worse: Series, warning: str) -> None:
    good = make_series("T2_TSE_SAG", count=3)
    assert choose(worse, good).series is good
    alone = choose(worse)
    assert alone.series is worse
    assert any(re.search(warning, each.text) for each in alone.warnings)


def test_ties_are_decided_by_slices_then_size_then_uid_and_reported() -> None:
    few, many = make_series("T2 SAG", uid="a", count=5), make_series("T2 SAG", uid="b", count=9)
    fine = make_series("T2 SAG", uid="c", count=9, rows=512, columns=512)
    twin = make_series("T2 SAG", uid="0", count=9, rows=512, columns=512)
    for order in ((few, many), (many, few)):
        choice = choose(*order)
        assert choice.series is many
        assert "the number of slices decided" in str(choice.warnings[0])
    assert choose(many, fine).series is fine
    choice = choose(fine, twin)
    assert choice.series is twin
    assert "the series UID decided" in str(choice.warnings[0])


@pytest.mark.parametrize(("count", "middle"), [(1, 0), (2, 1), (5, 2), (6, 3), (7, 3), (15, 7)])
def test_the_middle_slice_by_position(count: int, middle: int) -> None:
    series = make_series(count=count)
    chosen = choose(series).slice
    # the normal of these slices points to the right, as the index counts
    assert chosen.instance_uid == f"{series.series_uid}.{middle}"


def test_position_counts_and_not_the_order_of_files_or_numbers() -> None:
    positions = [8.0, -12.0, 0.0, 4.0, 12.0, -4.0, -8.0]
    slices = tuple(
        make_series(count=1, position=(x, 3.0, 5.0), instance_number=n, instance_uid=str(x)).slices[
            0
        ]
        for n, x in enumerate(positions)
    )
    assert choose(Series("1", "T2", slices)).slice.instance_uid == "0.0"
    assert choose(Series("1", "T2", slices[::-1])).slice.instance_uid == "0.0"


def test_a_gap_in_the_stack_does_not_shift_the_middle() -> None:
    slices = [make_series(count=1, position=(x, 0.0, 0.0), instance_uid=str(x)).slices[0]
              for x in (-20.0, -16.0, -12.0, -8.0, 0.5, 20.0)]  # fmt: skip
    assert choose(Series("1", "T2", tuple(slices))).slice.instance_uid == "0.5"


@pytest.mark.parametrize(
    ("places", "told"),
    [
        ((0, 4, 8, 20, 24), True),
        ((0, 4, 8, 12, 20, 24), True),
        ((0, 4, 8, 12, 16), False),
        ((0, 1, 4, 5, 8, 9, 12, 13), False),
        ((0, 4, 12), False),
    ],
    ids=["two lost", "one lost", "none lost", "two stacks", "too few to know"],
)
def test_slices_that_seem_to_be_missing_are_told(places: tuple[float, ...], told: bool) -> None:
    slices = [make_series(count=1, position=(float(x), 0.0, 0.0)).slices[0] for x in places]
    warnings = choose(Series("1", "T2", tuple(slices))).warnings
    assert [each.code for each in warnings] == ["slice_choice"] * told
    assert all("slices seem to be missing: some lie" in each.text for each in warnings)


@pytest.mark.parametrize("position", [None, (0.0, 0.0, 0.0)], ids=["absent", "all-equal"])
def test_without_positions_the_instance_number_decides(position: object) -> None:
    series = make_series(count=5, position=position)
    shuffled = Series("1", "T2", tuple(series.slices[n] for n in (3, 0, 4, 2, 1)))
    choice = choose(shuffled)
    assert choice.slice.instance_number == 3
    assert "the middle is by instance number" in str(choice.warnings[0])
    assert ("millimetres across" in str(choice.warnings[0])) == (position is not None)


@pytest.mark.parametrize("position", [None, (0.0, 0.0, 0.0)], ids=["absent", "all-equal"])
def test_without_positions_slice_locations_come_before_numbers(position: object) -> None:
    series = make_series(count=7, position=position)
    slices = tuple(
        replace(header, location_mm=4.0 * place - 12)
        for header, place in zip(series.slices, (0, 2, 4, 6, 1, 3, 5), strict=True)
    )
    choice = choose(Series("1", "T2", slices))
    assert choice.slice.location_mm == 0
    assert choice.slice.instance_number == 6
    assert "the middle is by slice location" in str(choice.warnings[0])


def test_of_several_images_at_one_place_the_longest_echo_is_taken() -> None:
    slices = [
        make_series(count=1, position=(x, 0.0, 0.0), echo_time_ms=echo, instance_uid=f"{x}/{echo}")
        .slices[0]
        for x in (-4.0, 0.0, 4.0)
        for echo in (70.0, 110.0)
    ]  # fmt: skip
    choice = choose(Series("1", "T2 SAG", tuple(slices)))
    assert choice.slice.instance_uid == "0.0/110.0"
    assert "the longest echo was chosen" in str(choice.warnings[0])


def in_one_series(*series: Series) -> Series:
    """The slices of series under one UID, numbered on."""
    slices = [header for each in series for header in each.slices]
    slices = [replace(each, series_uid="1", instance_number=n) for n, each in enumerate(slices, 1)]
    return Series("1", slices[0].series_description, tuple(slices))


@pytest.mark.parametrize("words", ["PD_T2_SAG", "SAG"])
@pytest.mark.parametrize("first", [15.0, 100.0])
def test_of_two_echoes_in_one_series_the_t2_weighted_one_is_taken(words: str, first: float) -> None:
    echoes = [make_series(words, uid=str(echo), echo_time_ms=echo, repetition_time_ms=3000.0)
              for echo in (first, 115.0 - first)]  # fmt: skip
    choice = choose(in_one_series(*echoes))
    assert choice.slice.echo_time_ms == 100.0
    assert choice.slice.instance_uid == "100.0.3"
    assert len(choice.neighbours) == 6


def test_of_a_study_under_one_series_uid_the_t2_slices_are_taken_and_described() -> None:
    choice = choose(in_one_series(make_series("T1_TSE_SAG"), make_series("T2_TSE_SAG")))
    assert choice.slice.instance_uid == "T2_TSE_SAG.3"
    assert choice.series.description == "T2_TSE_SAG"
    assert "of series 'T2_TSE_SAG'" in str(choice.notes[0])
    assert len(choice.t1_slices) == 7


def test_descriptions_within_one_series_name_the_parts_of_a_dixon_scan() -> None:
    names = ("FAT: Sag T2", "WATER: Sag T2", "InPhase: Sag T2", "OutPhase: Sag T2")
    choice = choose(in_one_series(*(make_series(name) for name in names)))
    assert choice.slice.series_description == "WATER: Sag T2"
    assert choice.warnings[0].code == "fat_suppressed"


@pytest.mark.parametrize("numbered", [True, False])
def test_of_a_complex_image_in_one_series_the_magnitude_is_taken(numbered: bool) -> None:
    parts = [make_series(uid=part, image_type=("ORIGINAL", "PRIMARY", part)) for part in "RIPM"]
    mixed = in_one_series(*parts)
    if not numbered:
        slices = tuple(replace(header, instance_number=1) for header in mixed.slices)
        mixed = Series("1", "T2", slices)
    choice = choose(mixed)
    assert choice.slice.instance_uid == "M.3"
    assert {header.image_type[2] for header in choice.neighbours} == {"M"}
    assert choice.warnings == ()


def test_two_acquisitions_in_one_series_are_equally_suited() -> None:
    choice = choose(in_one_series(make_series(uid="a"), make_series(uid="b")))
    assert choice.slice.instance_uid == "a.3"
    assert [s.instance_uid for s in choice.alternatives[0].slices[:2]] == ["b.0", "b.1"]
    assert "from 2 equally suited series" in str(choice.warnings[0])


def test_two_fields_of_view_in_one_series_are_two_stacks() -> None:
    wide = make_series(uid="w", count=5, spacing_rc_mm=(1.2, 1.2), echo_time_ms=120.0)
    choice = choose(in_one_series(wide, make_series(uid="n", echo_time_ms=100.0)))
    assert choice.slice.instance_uid == "n.3"
    assert {header.spacing_rc_mm for header in choice.neighbours} == {(1.0, 1.0)}


def test_a_slice_without_a_position_does_not_disturb_the_others() -> None:
    series = make_series()
    slices = (replace(series.slices[0], position=None, instance_number=99), *series.slices[1:])
    choice = choose(Series("1", "T2", slices))
    assert choice.slice.instance_uid == "T2_TSE_SAG.4"
    assert len(choice.neighbours) == 5


def test_planes_within_one_series_are_kept_apart() -> None:
    planes = [
        make_series("T2 HASTE", uid="s", count=3, orientation=orientation)
        for orientation in (TRANSVERSE, SAGITTAL, CORONAL)
    ]
    mixed = Series("s", "T2 HASTE", tuple(h for series in planes for h in series.slices))
    choice = choose(mixed)
    assert choice.slice.orientation == SAGITTAL


@pytest.mark.parametrize("words", ["T2 SAGITTALE", "T2 sagital", "T2 sagittal, écho", "T2 矢状位"])
def test_without_orientation_the_description_says_sagittal(words: str) -> None:
    choice = choose(make_series(words, orientation=None, position=None))
    assert choice.slice.instance_number == 4
    assert any("assumed to be sagittal by its description" in w.text for w in choice.warnings)


def test_a_slightly_oblique_stack_is_sagittal() -> None:
    angle = np.radians(20)
    oblique = (-np.sin(angle), np.cos(angle), 0.0, 0.0, 0.0, -1.0)
    assert choose(make_series(orientation=tuple(map(float, oblique)))).warnings == ()


def test_a_single_file_is_taken_as_asked() -> None:
    choice = choose(make_series("T1_TSE_SAG", count=1), single_file=True)
    assert choice.slice.series_description == "T1_TSE_SAG"
    assert "used as requested, although it is: T1-weighted" in str(choice.warnings[0])


def test_by_force_the_least_strange_series_is_taken() -> None:
    t1 = make_series("T1_TSE_SAG", uid="1", count=3)
    axial = make_series("T2 TRA", uid="0", orientation=TRANSVERSE)
    study = Study("1", "study", Path(), (axial, t1))
    choice = choose_slice(study, force=True)
    assert choice.series is t1
    assert "used because of force=true, although it is: T1-weighted" in str(choice.warnings[0])
    assert [str(note) for note in choice.notes if "left out" in str(note)] == [
        "left out, series 'T2 TRA': transverse, not sagittal"
    ]
    better = make_series("T2 sagittal", uid="2")
    forced = choose_slice(Study("1", "study", Path(), (axial, t1, better)), force=True)
    assert forced.series is better
    assert forced.warnings == ()


def test_damaged_files_are_warned_of_and_foreign_ones_noted() -> None:
    rejections = (
        Rejection(Path("x/cut.dcm"), "header cut short", "damaged"),
        Rejection(Path("x/.DS_Store"), "not DICOM", "foreign"),
    )
    choice = choose(make_series(), rejections=rejections)
    assert [str(each) for each in choice.warnings] == [
        "files_left_out: file cut.dcm was left out: header cut short"
    ]
    assert dict(choice.warnings[0].parameters) == {"file": "cut.dcm", "reason": "header cut short"}
    assert any(".DS_Store: not DICOM" in note.text for note in choice.notes)


def test_the_slices_beside_the_chosen_one_come_nearest_first() -> None:
    choice = choose(make_series(count=7))
    assert choice.slice.instance_uid == "T2_TSE_SAG.3"
    assert [s.instance_uid[-1] for s in choice.neighbours] == ["2", "4", "1", "5", "0", "6"]


def test_of_several_echoes_at_one_place_one_is_a_neighbour() -> None:
    echoes = [make_series(uid=str(echo), echo_time_ms=echo) for echo in (90.0, 120.0)]
    mixed = Series("1", "T2_TSE_SAG", tuple(h for series in echoes for h in series.slices))
    choice = choose(mixed)
    assert len(choice.neighbours) == 6
    assert {s.echo_time_ms for s in choice.neighbours} == {120.0}


def test_other_stacks_of_the_same_rank_are_offered_by_their_middle() -> None:
    first, twin = make_series(uid="0"), make_series(uid="1")
    worse = make_series("T2_TSE_SAG_FS", count=9)
    choice = choose(twin, worse, first)
    assert choice.series is first
    assert [s.series_uid for s in choice.alternatives] == ["1"]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"frame_of_reference_uid": "9"}, True),
        ({"frame_of_reference_uid": "8"}, False),
        ({}, True),
        ({"frame_of_reference_uid": "9", "orientation": TRANSVERSE}, False),
    ],
    ids=["same", "another", "unknown", "transverse"],
)
def test_a_sagittal_t1_stack_of_the_same_frame_of_reference(
    fields: dict[str, object], found: bool
) -> None:
    t2 = make_series(frame_of_reference_uid="9")
    t1 = make_series("T1_TSE_SAG", count=5, **fields)
    assert choose(t2, t1).t1_slices == (t1.slices if found else ())


def test_stacks_tilted_alike_share_coordinates_whatever_their_frames_are_called() -> None:
    tilted = (0.034, 0.9994, 0.0052, -0.0225, 0.006, -0.9997)
    t2 = make_series(frame_of_reference_uid="9", orientation=tilted)
    t1 = make_series("T1_TSE_SAG", frame_of_reference_uid="8", orientation=tilted)
    assert choose(t2, t1).t1_slices == t1.slices


def test_of_the_stations_of_a_whole_spine_the_lowest_is_taken_and_told() -> None:
    stations = [
        make_series("T2_TSE_SAG", uid=uid, position=(0.0, 0.0, z), count=count)
        for uid, z, count in (("1", 450.0, 9), ("2", 150.0, 7), ("3", 750.0, 9))
    ]
    choice = choose(*stations)
    assert choice.series.series_uid == "2"
    assert "the lowest of 3 stations of a whole spine" in str(choice.warnings)
    assert choice.alternatives == ()


@pytest.mark.parametrize(("aside", "chosen"), [(0.0, "2"), (90.0, "1")], ids=["column", "aside"])
def test_stations_may_have_frames_of_reference_of_their_own(aside: float, chosen: str) -> None:
    stations = [
        make_series(uid=uid, position=(0.0, y, z), count=count, frame_of_reference_uid=f"9.{uid}")
        for uid, y, z, count in (("1", aside, 450.0, 9), ("2", 0.0, 150.0, 7))
    ]
    choice = choose(*stations)
    assert choice.series.series_uid == chosen
    assert ("the lowest of 2 stations" in str(choice.warnings)) == (chosen == "2")


def test_stations_within_one_series_are_stacks_of_their_own() -> None:
    slices = [
        make_series(count=1, position=(-4.0 * n, 0.0, z), instance_uid=f"{z}/{n}").slices[0]
        for z in (450.0, 150.0)
        for n in range(5)
    ]
    choice = choose(Series("1", "T2 SAG", tuple(slices)))
    assert choice.slice.instance_uid == "150.0/2"
    assert len(choice.neighbours) == 4


def test_series_of_the_same_place_are_no_stations() -> None:
    choice = choose(make_series(uid="1"), make_series(uid="2", position=(0.0, 0.0, 60.0)))
    assert "stations" not in str(choice.warnings)


def test_damaged_files_and_copies_are_counted_in_an_error() -> None:
    rejections = [Rejection(Path(f"{n}.dcm"), "cut {short}", "damaged") for n in range(3)]
    rejections.append(Rejection(Path("x.dcm"), "the same instance as a", "duplicate"))
    with pytest.raises(DicomReadError, match=r"3 damaged files left out; 1 further copies left"):
        choose(make_series("T1 SAG"), rejections=tuple(rejections))


def test_many_damaged_files_are_counted_after_the_first() -> None:
    rejections = [Rejection(Path(f"{n}.dcm"), "cut short", "damaged") for n in range(40)]
    warnings = choose(make_series(), rejections=tuple(rejections)).warnings
    assert len(warnings) == 5
    assert warnings[-1].text == "36 more damaged files were left out"
