"""Behaviour with bad input: cases written by hand, and thousands of mutants.

    python benchmarks/robustness.py [page=docs/robustness.md] [mutants=100] [seed=0] [cases=none]

Each case is a command run in its own process, with a limit of 60 s and 2 GB in addition to the
libraries, on phantom data with one defect. It defines the expected exit code and words. The run
fails if they are missing, or if there is a traceback or a partial output. The mutants are those of
``tests/fuzz``. ``page`` gets both tables.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from harness import parse_words
from pages import write_section

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import Settings, key
from spineline.datasets.dicom.select import choose_slice
from spineline.datasets.dicom.study import scan
from spineline.pipeline.inference.process_pool import Limits, ProcessPool

FUZZ = Path(__file__).resolve().parents[1] / "tests" / "fuzz"
LIMITS = Limits(seconds=60, megabytes=2048)


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustnessSettings(Settings):
    page: Path | None = key("Markdown page to write both tables to", default=None)
    mutants: int = key("of each class; 0 for none", default=100, minimum=0)
    seed: int = key("of the mutants", default=0, minimum=0)
    cases: str = key("whether to run those built by hand", default="all", choices=("all", "none"))


@dataclass(frozen=True, slots=True)
class Case:
    """One bad input.

    Attributes:
        group: of the table.
        given: the defect, in words; unique.
        make: spoils a copy of the sound data and returns the arguments of the command.
        code: the expected exit status.
        says: words that must be in the output.
        nobody: run without administrator rights.
    """

    group: str
    given: str
    make: Callable[[Path], list[str]]
    code: int
    says: str
    nobody: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a case; `problem` is empty if it passed."""

    case: Case
    code: int
    said: str
    seconds: float
    problem: str = ""


# ---- defects


def predict(folder: Path, source: str = "study", *words: str, out: str = "out") -> list[str]:
    return ["pipeline", "predict", f"source={folder / source}", f"out={folder / out}",
            "workers=0", "overlay=false", *words]  # fmt: skip


def chosen_files(folder: Path) -> list[Path]:
    """The files of the series that would be chosen."""
    return [header.path for header in choose_slice(scan(folder / "study")[0]).series.slices]


def each(change: Callable[[bytes], bytes]) -> Callable[[Path], list[str]]:
    """Spoil the bytes of every file of the chosen series; the others are removed."""

    def make(folder: Path) -> list[str]:
        kept = chosen_files(folder)
        for path in sorted((folder / "study").rglob("*")):
            if path.is_file() and path not in kept:
                path.unlink()
        for path in kept:
            path.write_bytes(change(path.read_bytes()))
        return predict(folder)

    return make


def tags(**values: object) -> Callable[[Path], list[str]]:
    """Set elements of every file of the chosen series; None removes one."""
    import io

    import pydicom

    def change(data: bytes) -> bytes:
        dataset = pydicom.dcmread(io.BytesIO(data))
        syntax = values.get("TransferSyntaxUID")
        if syntax:
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(str(syntax))
            if "1.2.4." in str(syntax) or str(syntax).endswith(".5"):
                dataset["PixelData"].VR = "OB"
                dataset["PixelData"].is_undefined_length = True
        for keyword, value in values.items():
            if keyword == "TransferSyntaxUID":
                continue
            if value is None:
                del dataset[keyword]
            else:
                setattr(dataset, keyword, value)
        stream = io.BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
        return stream.getvalue()

    return each(change)


def deflated_bomb(data: bytes) -> bytes:
    """A deflated data set that grows to 320 MB."""
    start = 144 + int.from_bytes(data[140:144], "little")
    meta = bytearray(data[132:start].replace(
        b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x16\x001.2.840.10008.1.2.1.99"))  # fmt: skip
    meta[8:12] = struct.pack("<L", len(meta) - 12)
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    packed = b"".join(packer.compress(bytes(1 << 24)) for _ in range(20)) + packer.flush()
    return data[:132] + bytes(meta) + packed


def encapsulated(frame: bytes) -> bytes:
    item = b"\xfe\xff\x00\xe0" + struct.pack("<L", 0)
    frame += b"\0" * (len(frame) % 2)
    return item + b"\xfe\xff\x00\xe0" + struct.pack("<L", len(frame)) + frame


RLE_BOMB = encapsulated(struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\0" * 3500)
J2K_BOMB = encapsulated(
    b"\xff\x4f\xff\x51" + struct.pack(">HHLLLLLLLLHBBB", 41, 0, 40000, 40000, 0, 0, 40000, 40000,
                                      0, 0, 1, 15, 1, 1) + bytes(64) + b"\xff\xd9"
)  # fmt: skip


def image(name: str, write: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        write(folder / name)
        return predict(folder, name)

    return make


def png_bomb(path: Path) -> None:
    """A few kilobytes that claim 50,000 x 50,000 pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        check = zlib.crc32(name + body)
        return struct.pack(">L", len(body)) + name + body + struct.pack(">L", check)

    data = zlib.compress(bytes(1 << 22), 9)
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def convert(kind: str, name: str, change: Callable[[str], str]) -> Callable[[Path], list[str]]:
    """Spoil an annotation file as text, and convert."""

    def make(folder: Path) -> list[str]:
        path = next(iter(sorted((folder / kind).glob(name))))
        path.write_text(change(path.read_text("utf-8-sig")), encoding="utf-8")
        images = {"report": "frames", "cervical": "frames", "prepared": "images"}[kind]
        source = path.parent if kind == "cervical" else path
        return ["convert", kind, f"annotations={source}", f"images={folder / kind / images}",
                f"out={folder / 'out'}", "split=train"]  # fmt: skip

    return make


def first_json(change: Callable[[dict], object]) -> Callable[[str], str]:
    def spoil(text: str) -> str:
        content = json.loads(text)
        change(content[0])
        return json.dumps(content)

    return spoil


def in_xml(head: str, body: str = "") -> Callable[[str], str]:
    """Insert text before the first annotation of a CSV's cells, and into its body."""

    def spoil(text: str) -> str:
        quoted = head.replace('"', '""')
        text = text.replace("<annotation>", f"{quoted}<annotation>")
        return text.replace("<filename>", f"<filename>{body}") if body else text

    return spoil


LAUGHS = (
    '<!DOCTYPE a [<!ENTITY l0 "lol">'
    + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    + "]>"
)


class _Hostile:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.place,)


def hostile_weights(name: str, *words: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(_Hostile(str(folder / "ESCAPED"))))
        return predict(folder, "study", f"detector={folder / name}", *words)

    return make


def lying_weights(header: bytes, length: int | None = None) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        size = len(header) if length is None else length
        (folder / "a.safetensors").write_bytes(struct.pack("<Q", size) + header)
        return predict(folder, "study", f"detector={folder / 'a.safetensors'}")

    return make


def yaml_bomb(folder: Path) -> list[str]:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (folder / "keys.yaml").write_text("\n".join(lines))
    return predict(folder, "study", f"cfg={folder / 'keys.yaml'}")


def loop(folder: Path) -> list[str]:
    """Links to the folder itself and to its parent, and a broken link."""
    (folder / "study" / "again").symlink_to(folder / "study")
    (folder / "study" / "up").symlink_to(folder / "study" / "..")
    (folder / "study" / "gone").symlink_to(folder / "nowhere")
    return predict(folder, out="elsewhere/out")


def unreadable(folder: Path) -> list[str]:
    (folder / "study").chmod(0)
    return predict(folder)


def unreadable_beside(folder: Path) -> list[str]:
    shutil.copytree(folder / "study", folder / "cohort" / "good")
    shutil.copytree(folder / "study", folder / "cohort" / "locked")
    (folder / "cohort" / "locked").chmod(0)
    return predict(folder, "cohort")


def read_only(folder: Path) -> list[str]:
    (folder / "locked").mkdir()
    (folder / "locked").chmod(0o555)
    return predict(folder, out="locked/out")


def full_disk(folder: Path) -> list[str]:
    """A disk of 64 KB; if none can be mounted, no file may grow beyond 2 KB."""
    (folder / "disk").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder / "disk")],
        capture_output=True, check=False,
    )  # fmt: skip
    if mounted.returncode == 0:
        (folder / "disk" / "filled").write_bytes(bytes(60 * 1024))
    else:
        (folder / "LIMIT").write_text("2048")
    return predict(folder, out="disk/out")


DICOM, PICTURES, SOURCES = "DICOM", "images", "annotations"
WEIGHTS, DISKS = "weights and settings", "folders and disks"
CASES: tuple[Case, ...] = (
    Case(DICOM, "text named .dcm", each(lambda _: b"no DICOM at all\n" * 20), 1, "no DICOM image"),
    Case(DICOM, "empty files", each(lambda _: b""), 1, "empty file"),
    Case(DICOM, "without preamble and mark", each(lambda d: d[132:]), 1, "no DICOM image"),
    Case(DICOM, "header cut short", each(lambda d: d[:400]), 1, "cut short"),
    Case(DICOM, "pixels cut short", each(lambda d: d[:-5000]), 1, "cannot be decoded"),
    Case(DICOM, "Rows = 0", tags(Rows=0), 1, "Rows x Columns is 0"),
    Case(DICOM, "Rows that the pixels do not fill", tags(Rows=500), 1, "export it again"),
    Case(DICOM, "more frames than pixels", tags(NumberOfFrames=9), 1, "frames"),
    Case(DICOM, "no PixelData", tags(PixelData=None), 1, "no PixelData"),
    Case(DICOM, "JPEG-LS that is none", tags(TransferSyntaxUID="1.2.840.10008.1.2.4.80",
         PixelData=encapsulated(b"\xff\xd8\xff\xf7junk")), 1, "compressed pixels are cut short"),
    Case(DICOM, "RLE that is none", tags(TransferSyntaxUID="1.2.840.10008.1.2.5",
         PixelData=encapsulated(b"junk" * 30)), 1, "cannot be decoded"),
    Case(DICOM, "a syntax without decoder", tags(TransferSyntaxUID="1.2.840.10008.1.2.4.102",
         PixelData=encapsulated(b"junk" * 30)), 1, "cannot be decoded"),
    Case(DICOM, "7 KB of RLE that claim 40000 x 40000", tags(Rows=40000, Columns=40000,
         TransferSyntaxUID="1.2.840.10008.1.2.5", PixelData=RLE_BOMB), 1, "pixels allowed"),
    Case(DICOM, "JPEG 2000 that claims 40000 x 40000 in a small frame", tags(
         TransferSyntaxUID="1.2.840.10008.1.2.4.90", PixelData=J2K_BOMB), 1,
         "compressed pixels are 40000 x 40000"),
    Case(DICOM, "deflated data that grow to 320 MB", each(deflated_bomb), 1, "when inflated"),
    Case(DICOM, "MONOCHROME1", tags(PhotometricInterpretation="MONOCHROME1"), 1, "not_lumbar_t2"),
    Case(DICOM, "an even image", tags(PixelData=bytes(128 * 128 * 2)), 1, "constant image"),
    Case(DICOM, "no PixelSpacing", tags(PixelSpacing=None), 0, "no_geometry"),
    Case(DICOM, "PixelSpacing 0", tags(PixelSpacing=["0", "0"]), 0, "no_geometry"),
    Case(DICOM, "PixelSpacing of ten times the size", tags(PixelSpacing=["9", "9"]), 0,
         "spacing_implausible"),
    Case(DICOM, "PixelSpacing of three times the width", tags(PixelSpacing=["1", "3"]), 1,
         "not_lumbar_t2"),
    Case(DICOM, "BurnedInAnnotation YES", tags(BurnedInAnnotation="YES"), 0, "burned_in_text"),
    Case(DICOM, "a UID that leads out of the folder", tags(StudyInstanceUID="../../x"), 0,
         "done"),
    Case(PICTURES, "an array of NaN", image("a.npy", lambda p: np.save(p, np.full((9, 9), np.nan))),
         1, "constant image"),
    Case(PICTURES, "a pickled array", image("a.npy", lambda p: np.save(
         p, np.array([{}]), allow_pickle=True)), 1, "cannot be read as a NumPy array"),
    Case(PICTURES, "a PNG of 4 KB that claims 50,000 x 50,000", image("a.png", png_bomb), 1,
         "pixels"),
    Case(PICTURES, "a text named .png", image("a.png", lambda p: p.write_text("no")), 1,
         "cannot be decoded"),
    Case(SOURCES, "LabelMe XML with a DOCTYPE that swells", convert("cervical", "*.csv",
         in_xml(LAUGHS, "&l9;")), 1, "XML"),
    Case(SOURCES, "LabelMe XML that names a file", convert("cervical", "*.csv",
         in_xml('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>', "&x;")), 1, "broken_xml"),
    Case(SOURCES, "LabelMe XML cut short", convert("cervical", "*.csv",
         lambda t: t.replace("</annotation>", "")), 1, "not well-formed"),
    Case(SOURCES, "a CSV field of 11 MB", convert("cervical", "*.csv",
         lambda t: t.replace("<annotation>", "<annotation>" + " " * (11 << 20), 1)), 1,
         "oversized_field"),
    Case(SOURCES, "an id that leads out of the folder", convert("report", "*.json",
         first_json(lambda e: e.update(id="../../x"))), 1, "cannot name a file"),
    Case(SOURCES, "an id with a NUL byte", convert("report", "*.json",
         first_json(lambda e: e.update(id="a\0b"))), 1, "cannot name a file"),
    Case(SOURCES, "a path of an image out of the folder", convert("prepared", "*.json",
         first_json(lambda e: e.update(img_path="../../../secret.png"))), 1, "image is missing"),
    Case(SOURCES, "NaN and numbers of 400 digits as coordinates", convert("report", "*.json",
         first_json(lambda e: e["point"][0].update(coord=[float("nan"), 10**400]))), 1, "coord"),
    Case(SOURCES, "JSON 100,000 deep", convert("report", "*.json", lambda _: "[" * 100_000), 1,
         "not usable JSON"),
    Case(SOURCES, "JSON cut short", convert("report", "*.json", lambda t: t[:-100]), 1,
         "not valid JSON"),
    Case(WEIGHTS, "a pickle that runs code, without trust", hostile_weights("a.pt"), 1,
         "is a pickle"),
    Case(WEIGHTS, "the same named .safetensors", hostile_weights("a.safetensors"), 1, "pickle"),
    Case(WEIGHTS, "the same with trust=true", hostile_weights("a.pt", "trust=true"), 1, "unsafe"),
    Case(WEIGHTS, "safetensors that claim a header of 2**62 bytes", lying_weights(b"{}", 2**62), 1,
         "no safetensors file"),
    Case(WEIGHTS, "safetensors that claim a tensor of 4 GB", lying_weights(
         b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}'), 1,
         "no safetensors file"),
    Case(WEIGHTS, "YAML whose aliases stand for 10**12 values", yaml_bomb, 2, "aliases"),
    Case(DISKS, "links that go round in circles", loop, 0, "1 study done"),
    Case(DISKS, "a folder that may not be read", unreadable, 1, "cannot be listed", nobody=True),
    Case(DISKS, "one such study of two", unreadable_beside, 0, "cannot be listed", nobody=True),
    Case(DISKS, "an output folder that may not be written", read_only, 1, "not writable",
         nobody=True),
    Case(DISKS, "a full disk", full_disk, 1, "cannot be written"),
)  # fmt: skip


# ---- running


def make_sound(folder: Path) -> None:
    """Sound phantom data, in the same places for every case."""
    sys.path.append(str(FUZZ))
    import fuzz_targets

    fuzz_targets.make_base(folder / "base")
    base, sound = folder / "base", folder / "sound"
    shutil.copytree(base / "dicom" / "study0", sound / "study")
    for name in ("report", "prepared"):
        shutil.copytree(base / name, sound / name)
    shutil.copytree(base / "neck" / "descr", sound / "cervical")
    shutil.copytree(base / "neck" / "frames", sound / "cervical" / "frames")


def run_case(case: Case, folder: Path, number: int) -> Done:
    """Run one case in its own process and judge the outcome."""
    place = folder / f"case{number}" / "a" / "b"
    shutil.copytree(folder / "sound", place)
    words = case.make(place)
    said = folder / f"said{number}"
    if case.nobody:
        for path in (folder, *place.parents[:2], place):
            path.chmod(0o777)
    command = partial(run_command, words, said, case.nobody)
    with ProcessPool(command, workers=1, limits=LIMITS) as pool:
        (result,) = pool.map([place])
    code = 99 if result.value is None else result.value
    text = said.read_text("utf-8", "backslashreplace").replace(str(place), "")
    problem = result.failure.reason if result.failure else _problem(case, code, text, place)
    subprocess.run(["umount", str(place / "disk")], capture_output=True, check=False)
    with contextlib.suppress(OSError):
        for locked in (place / "study", place / "cohort" / "locked", place / "locked"):
            if locked.exists():
                locked.chmod(0o777)
    shutil.rmtree(folder / f"case{number}", ignore_errors=True)
    return Done(case, code, text, result.seconds, problem)


def run_command(words: Sequence[str], said: Path, nobody: bool, place: Path) -> int:
    """Run a command in this worker; its output goes to a file."""
    from spineline.pipeline.cli.main import main

    handle = os.open(said, os.O_WRONLY | os.O_CREAT, 0o666)
    if nobody:
        _drop_rights()
    if (place / "LIMIT").exists():
        limit = int((place / "LIMIT").read_text())
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    logging.disable(logging.NOTSET)  # workers disable logging
    for stream in (1, 2, sys.stdout.fileno()):
        os.dup2(handle, stream)
    code = main(list(words))
    sys.stdout.flush()
    return code


def _drop_rights() -> None:
    """Give up an administrator's right to read and write what its permissions forbid."""
    if os.geteuid() == 0:
        import ctypes

        header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        if ctypes.CDLL(None).capset(header, none) != 0:
            raise PermissionError("the rights of an administrator cannot be dropped here")


def _problem(case: Case, code: int, text: str, place: Path) -> str:
    """The deviation from what was expected; empty if there is none."""
    if "Traceback" in text:
        return "a traceback"
    if code != case.code:
        return f"exit code {code}, wanted {case.code}"
    if case.says not in text:
        return f"does not say {case.says!r}"
    if (place / "ESCAPED").exists():
        return "code in a file was run"
    half = [p.name for p in place.rglob("*") if p.name.endswith((".partial", ".old"))]
    if half:
        return f"half-written files stay: {half[:3]}"
    inside = place.parents[1]
    beside = [p.name for p in (*inside.iterdir(), *place.parent.iterdir()) if p.name not in "ab"]
    return f"something was written outside: {beside}" if beside else ""


def run_cases(cases: Sequence[Case], folder: Path) -> list[Done]:
    """Run cases in order; libraries are loaded once."""
    import spineline.classify.model
    import spineline.detect.yolo.backend
    import spineline.pipeline.run.predict  # noqa: F401 - loaded for the children

    make_sound(folder)
    folder.chmod(0o755)
    done = []
    for number, case in enumerate(cases):
        done.append(run_case(case, folder, number))
        problem = done[-1].problem or "as wanted"
        print(f"{problem}: {case.given} ({done[-1].seconds:.1f} s)", flush=True)
    return done


# ---- the page


def shorten(text: str, most: int = 150) -> str:
    """The most informative line of the output, shortened for a cell."""
    lines = [line for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower() or "left out" in line] or lines
    line = " ".join((telling or ["nothing"])[0].split()).replace("|", "\\|")
    line = "".join(c if c.isprintable() else "?" for c in line).replace("<", "&lt;")
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def cases_table(done: Sequence[Done]) -> str:
    lines = ["| class | given | exit code | said |", "|---|---|--:|---|"]
    for item in done:
        telling = next((x for x in item.said.splitlines() if item.case.says in x), item.said)
        lines.append(
            f"| {item.case.group} | {item.case.given} | {item.code} | {shorten(telling)} |"
        )
    return "\n".join(lines)


def fuzz_table(folder: Path, mutants: int, seed: int) -> tuple[str, list[str]]:
    """The table of the fuzzer's classes, and its failures."""
    sys.path.append(str(FUZZ))
    from fuzz_targets import TARGETS, make_base
    from fuzz_workers import GOOD, fuzz

    base = folder / "sound"
    make_base(base)

    lines = [
        f"Seed {seed}.",
        "",
        "| class | spoilt; read by | mutants | refused | answered | warned | bad | a refusal |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    bad = []
    for target in TARGETS:
        found = fuzz(
            [target.name], mutants=mutants, seed=seed, base=base, folder=folder / target.name
        )
        count = Counter(verdict.verdict for verdict in found)
        wrong = [v for v in found if v.bad]
        bad += [f"{v.target} {v.number}: {v.verdict}: {v.text}" for v in wrong]
        said = next((v.text for v in found if v.verdict == "refused"), "")
        shown = shorten(said.replace("/a/b/in", ""), 90) if said else ""
        counts = " | ".join(str(count[name]) for name in GOOD)
        lines.append(
            f"| {target.name} | {target.what} | {len(found)} | {counts} | {len(wrong)} | {shown} |"
        )
        print(f"{target.name}: {dict(count)}", flush=True)
    return "\n".join(lines), bad


def main(words: list[str]) -> None:
    settings = parse_words(words, RobustnessSettings)
    if settings is None:
        return
    page, mutants = settings.page, settings.mutants
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = run_cases(CASES if settings.cases == "all" else (), folder / "cases")
        bad = [f"{item.case.given}: {item.problem}" for item in done if item.problem]
        table, crashed = fuzz_table(folder, mutants, settings.seed) if mutants else ("", [])
    if page is not None:
        if done:
            write_section(page, "cases", cases_table(done), title="Robustness")
        if table:
            write_section(page, "mutants", table, title="Robustness")
    if bad or crashed:
        raise SpinelineError("; ".join((*bad, *crashed))[:5000])


if __name__ == "__main__":
    run_script(main)
