#!/usr/bin/env python3
"""Opens and saves mutants of one small file per format; nothing may come of any but a photo or one `PhotoError`.

    python benchmarks/fuzz.py [--inputs 10000] [--seed 0] [--formats .jpg .tif] [-o fuzz.json]

Each input is told by its format and its number, by which it is made again: `--one .tif:123` leaves it in the working
folder. Findings are: another exception, a crash, a hang (more than --seconds), a decoder process that was killed for
its time, and a worker that took more than 2 GB of memory. A decoder process that crashes costs one photo and is told
in the library's words; how often that happened is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from decoding import dng
from limits import Broken, Worker, answer
from PIL import Image
from tqdm import tqdm

from diffretouch.photo import Photo, PhotoError, open_photo, save_photo

FORMATS = (".jpg", ".png", ".webp", ".tif", ".heic", ".avif", ".jxl", ".dng")
_MAX_PIXELS = 1_000_000
_MEMORY, _MOST_RESIDENT = 8 << 30, 2 << 20  # bytes of addresses; kB in use
_HEADER = 4096
_EXTREMES = (
    b"\0",
    b"\xff",
    b"\0\0",
    b"\xff\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\x80",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="of all formats together")
    parser.add_argument("--seed", type=int, default=0, help="the number of the first input of each format")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--seconds", type=float, default=120, help="most per input")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--one", metavar="FORMAT:NUMBER", help="write this input here and open it")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        said = open(options.worker / "said.txt", "w+b")  # noqa: SIM115 (as long as the process)
        os.dup2(said.fileno(), 2)
        answer(lambda request: _tried_quietly(request[0], request[1], options.worker, said), _MEMORY)
        return 0
    if options.one:
        suffix, number = options.one.split(":")
        print(_tried(suffix, int(number), Path()))
        return 0
    outcomes, findings = _run(options)
    for suffix, counts in outcomes.items():
        print(f"{suffix:6} {', '.join(f'{outcome} {count}' for outcome, count in counts.most_common())}")
    print("\n".join(findings) or "no finding")
    if options.output:
        table = {"inputs": options.inputs, "outcomes": outcomes, "findings": findings}
        options.output.write_text(json.dumps(table, indent=2) + "\n")
    return 1 if findings else 0


def _run(options: argparse.Namespace) -> tuple[dict[str, Counter[str]], list[str]]:
    outcomes: dict[str, Counter[str]] = {suffix: Counter() for suffix in options.formats}
    findings = []
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker([sys.executable, __file__, "--worker", folder], options.seconds)
        for index in tqdm(range(options.inputs), unit="input", mininterval=5):
            suffix = options.formats[index % len(options.formats)]
            number = options.seed + index // len(options.formats)
            try:
                outcome, words = worker.ask([suffix, number])
            except Broken as broken:
                outcome, words = broken.args
            outcomes[suffix][outcome] += 1
            if outcome not in ("opened", "refused", "decoder crashed"):
                findings.append(f"{suffix}:{number} {outcome}: {words}")
                tqdm.write(findings[-1])
        worker.close()
    return outcomes, findings


def _tried_quietly(suffix: str, number: int, folder: Path, said: BinaryIO) -> tuple[str, str]:
    """As `_tried`; a word on the terminal is a finding, as it would name no photo."""
    said.seek(0)
    said.truncate()
    outcome = _tried(suffix, number, folder)
    said.seek(0)
    printed = said.read().decode("utf-8", "replace").strip()
    return ("printed", printed[:200]) if printed and outcome[0] in ("opened", "refused") else outcome


def _tried(suffix: str, number: int, folder: Path) -> tuple[str, str]:
    path = folder / f"mutant{suffix}"
    path.write_bytes(mutant(_whole(suffix, folder), number))
    try:
        photo = open_photo(path, max_pixels=_MAX_PIXELS, allow_damaged=number % 2 == 1)
        target = folder / f"saved{'.tif' if number % 3 else '.jpg'}"
        save_photo(photo, target, overwrite=True, remove_gps=number % 5 == 0, done="nothing")
        open_photo(target)
    except PhotoError as error:
        words = str(error)
        if "saved." in words:
            return "saved what cannot be opened", words
        if "and was stopped" in words:
            return "hung", words
        return ("decoder crashed" if "crashed" in words else "refused"), words
    except Exception as error:
        return type(error).__name__, " ".join(str(error).split())[:200]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return ("large", f"{resident} kB in use") if resident > _MOST_RESIDENT else ("opened", "")


_files: dict[str, bytes] = {}


def _whole(suffix: str, folder: Path) -> bytes:
    """A sound file with all the metadata its format can hold, of 48 x 32 pixels."""
    if suffix not in _files:
        if suffix == ".dng":
            _files[suffix] = dng(_picture())
        else:
            save_photo(_photo(), folder / f"whole{suffix}", overwrite=True, done="nothing")
            _files[suffix] = (folder / f"whole{suffix}").read_bytes()
    return _files[suffix]


def _picture() -> np.ndarray:
    y, x = np.mgrid[0:32, 0:48]
    return np.stack((x * 5, y * 8, (x + y) * 3), -1).astype(np.uint8)


def _photo() -> Photo:
    exif = Image.Exif()
    exif[271], exif[274], exif[306] = "Invented", 1, "2026:05:17 18:30:00"
    exif.get_ifd(0x8769).update({36867: "2026:05:17 18:30:00", 37500: b"Panasonic\0\0\0" + bytes(60), 34855: 200})
    exif.get_ifd(0x8825).update({1: "S", 2: (30.0, 15.0, 0.0), 3: "W", 4: (20.0, 45.0, 0.0)})
    space = "http://www.metadataworkinggroup.com/schemas/regions/"
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:a="{space}" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" '
        'photoshop:City="Nowhere"><a:Regions rdf:parseType="Resource"/></rdf:Description></rdf:RDF></x:xmpmeta>'
    )
    records = b"\x1c\x02\x05\0\x05Boats\x1c\x02\x5a\0\x07Nowhere"
    texts = (("Title", "Boats"),)
    return Photo(_picture(), exif=exif.tobytes()[6:], xmp=xmp.encode(), iptc=records, texts=texts, dpi=(300.0, 300.0))


def mutant(whole: bytes, number: int) -> bytes:
    """The file with one to four mistakes, more of them where its structure is than among its pixels."""
    rng = np.random.default_rng(number)
    changed = bytearray(whole)
    for _ in range(rng.integers(1, 5)):
        end = min(_HEADER, len(changed)) if rng.random() < 0.7 else len(changed)
        at, length = int(rng.integers(0, max(end, 1))), int(rng.integers(1, 65))
        kind = rng.choice(
            ["bit", "byte", "extreme", "cut", "take out", "repeat", "swap"], p=[0.3, 0.2, 0.2, 0.05, 0.1, 0.1, 0.05]
        )
        _changed(changed, str(kind), at, length, rng)
    return bytes(changed)


def _changed(data: bytearray, kind: str, at: int, length: int, rng: Any) -> None:
    if not data:
        return
    if kind == "bit":
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == "byte":
        data[at] = int(rng.integers(256))
    elif kind == "extreme":
        value = _EXTREMES[rng.integers(len(_EXTREMES))]
        data[at : at + len(value)] = value
    elif kind == "cut":
        del data[at:]
    elif kind == "take out":
        del data[at : at + length]
    elif kind == "repeat":
        data[at:at] = data[at : at + length]
    else:
        data[at : at + length] = data[at : at + length][::-1]


if __name__ == "__main__":
    sys.exit(main())
