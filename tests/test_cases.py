"""Kinds of photo files from elsewhere that went wrong once: each is made here and has to stay right."""

from __future__ import annotations

import json
import os
import struct
import sys
import textwrap
import threading
import time
from pathlib import Path

import makers
import numpy as np
import pytest
import simplejpeg

from diffretouch.commands.cli import main
from diffretouch.photo import Photo, PhotoError, open_photo, save_photo, was_retouched
from diffretouch.photo.core import Refused
from diffretouch.photo.isolation import DecoderPool


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(PhotoError) as caught:
        open_photo(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


@pytest.fixture
def look(tmp_path):
    """A retouch that changes nothing, so that the command line needs no model."""
    from diffretouch import AffineGrid

    AffineGrid.identity().save(tmp_path / "identity.safetensors")
    return str(tmp_path / "identity.safetensors")


# ---- what a decoder does to its process ----------------------------------------------------------------------------


def looping_tiff(chain: dict[int, int]) -> bytes:
    """Grey pages of 64 x 48, one for each number, each of which names the one that it is mapped to as the next."""

    def page(at: int, following: int) -> bytes:
        tags = {254: (4, 0), 256: (4, 64), 257: (4, 48), 258: (3, 8), 259: (3, 1), 262: (3, 1), 273: (4, 0)}
        tags |= {277: (3, 1), 278: (4, 48), 279: (4, 64 * 48)}
        plain = makers.tiff_directory(tags, at)
        tags[273] = (4, at + len(plain))
        directory = makers.tiff_directory(tags, at)[:-4] + struct.pack("<I", following)
        return directory + bytes(64 * 48)

    length = len(page(0, 0))
    start = b"II*\0" + struct.pack("<I", 8)
    return start + b"".join(page(8 + number * length, 8 + chain[number] * length) for number in chain)


def test_01_a_tiff_page_that_names_itself_as_the_next_is_one_page(tmp_path):
    started = time.monotonic()
    photo = open_photo(written(tmp_path / "a.tif", looping_tiff({0: 0})))
    assert photo.pixels.shape == (48, 64, 3) and time.monotonic() - started < 30


def test_01_tiff_pages_in_a_circle_are_refused_in_one_line(tmp_path):
    assert "2 pages" in refusal(written(tmp_path / "a.tif", looping_tiff({0: 1, 1: 0})))


def test_01_a_tiff_of_endless_pages_is_refused_before_they_are_read(tmp_path):
    chain = {number: number + 1 for number in range(300)}
    assert "more than 256 pages" in refusal(written(tmp_path / "a.tif", looping_tiff(chain)))


def decoder(tmp_path: Path, does: str) -> list[str]:
    """The command of a decoder process that does this with every photo, but decodes those called sound."""
    script = tmp_path / "decoder.py"
    script.write_text(
        textwrap.dedent(f"""
            import json, os, signal, sys, time
            from diffretouch.photo import decode_process
            answers = os.fdopen(os.dup(1), "wb")
            for line in sys.stdin.buffer:
                request = json.loads(line)
                if "sound" not in request["path"]:
                    {does}
                decode_process.send(answers, decode_process._answer(request))
        """)
    )
    return [sys.executable, str(script)]


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed on it (SIGSEGV)"),
        ("sys.exit(3)", "crashed on it (exit code 3)"),
        ("time.sleep(600)", "longer than 5 seconds and was stopped"),
        ("answers.write(b'[100, 1000]'); answers.flush(); os.abort()", "crashed on it (SIGABRT)"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="signals have other names elsewhere")
def test_a_decoder_that_crashes_or_hangs_costs_one_photo(tmp_path, does, told):
    pool = DecoderPool(decoder(tmp_path, does), seconds=5)
    sound = written(tmp_path / "sound.tif", looping_tiff({0: 0}))
    bad = written(tmp_path / "bad.tif", looping_tiff({0: 0}))
    with pytest.raises(Refused) as caught:
        pool.decode(str(bad), "TIFF", 10**6)
    assert told in str(caught.value)
    assert pool.decode(str(sound), "TIFF", 10**6).samples.shape == (48, 64)
    pool.close()


def test_decoder_processes_are_kept_and_as_many_as_are_used_at_once(tmp_path):
    pool = DecoderPool(seconds=60)
    path = str(written(tmp_path / "a.tif", looping_tiff({0: 0})))
    for _ in range(3):
        pool.decode(path, "TIFF", 10**6)
    assert len(pool._free) == 1
    threads = [threading.Thread(target=pool.decode, args=(path, "TIFF", 10**6)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(pool._free) <= 3
    pool.close()


def test_a_batch_goes_on_past_a_decoder_that_crashes(tmp_path, monkeypatch, capsys, look):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a-sound.tif", "b.tif", "c-sound.tif"):
        written(folder / name, looping_tiff({0: 0}))
    pool = DecoderPool(decoder(tmp_path, "os.abort()"), seconds=30)
    monkeypatch.setattr("diffretouch.photo.opening.decoder_pool", lambda: pool)
    assert main(["retouch", str(folder), "-o", str(tmp_path / "out"), "--look", look]) == 1
    assert "b.tif: its decoder crashed on it" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tif")) == [
        "a-sound-retouched.tif",
        "c-sound-retouched.tif",
    ]
    pool.close()


def test_03_raw_outside_tiff_opens_every_time_with_its_exif(tmp_path):
    path = written(tmp_path / "a.raf", makers.raf(makers.scene(3, 1200, 800)))
    for _ in range(3):
        photo = open_photo(path)
        assert b"INVENTED X1" in photo.exif and b"2026:05:17" in photo.exif


def test_05_panasonic_raw_that_ends_early_is_refused_and_a_whole_one_is_not(tmp_path):
    whole = makers.rw2(makers.scene(5, 448, 336))
    assert open_photo(written(tmp_path / "whole.rw2", whole)).notes == ()
    cut = written(tmp_path / "cut.rw2", whole[: int(0.55 * len(whole))])
    assert "bytes of its picture are missing" in refusal(cut)
    photo = open_photo(cut, allow_damaged=True)
    assert photo.pixels.shape == (336, 448, 3) and "missing" in photo.notes[0]


@pytest.mark.parametrize(("codes", "told", "channel"), [((36,), 512, 0), ((38,), 512, 2), ((14, 15, 16), 1500, 1)])
def test_raw_has_its_cameras_white_balance_and_its_makers_clipping(tmp_path, codes, told, channel):
    """Red and blue of the white balance doubled, and the level at which all is white far lower."""
    whole = makers.rw2(makers.scene(5, 448, 336))
    before = open_photo(written(tmp_path / "a.rw2", whole)).pixels[..., channel].mean()
    for code in codes:
        at = whole.index(struct.pack("<HHI", code, 3, 1)) + 8
        whole = whole[:at] + struct.pack("<H", told) + whole[at + 2 :]
    assert open_photo(written(tmp_path / "b.rw2", whole)).pixels[..., channel].mean() > 1.2 * before


def test_05_damaged_lossless_jpeg_in_dng_is_told_in_words(tmp_path, capfd):
    spoilt = makers.dng(makers.scene(5), packed=True, spoil=lambda data: data[:1000] + bytes(len(data) - 1000))
    message = refusal(written(tmp_path / "a.dng", spoilt))
    assert "object" not in message and "Error" not in message
    assert capfd.readouterr() == ("", "")


def test_06_jpeg_that_libjpeg_fills_up_is_refused(tmp_path, capfd):
    whole = makers.jpeg(makers.scene(6), 85, makers.exif())
    middle = len(whole) // 2
    spoilt = {
        "closed.jpg": whole[:middle] + b"\xff\xd9",
        "zeros.jpg": whole[:middle] + bytes(4096) + whole[middle + 4096 :],
        "open.jpg": whole[:middle],
    }
    for name, content in spoilt.items():
        path = written(tmp_path / name, content)
        assert "--allow-damaged" in refusal(path)
        assert "missing or wrong" in open_photo(path, allow_damaged=True).notes[0]
    assert capfd.readouterr() == ("", "")


def test_06_sound_jpegs_are_not_called_damaged(tmp_path):
    whole = makers.jpeg(makers.scene(6), 85, restart_marker_blocks=3)
    grey = makers.jpeg(makers.scene(6).convert("L"), 85, progressive=True)
    filled = whole.replace(b"\xff\xda", b"\xff\xff\xff\xda", 1)
    for number, content in enumerate(
        (whole, grey, filled, whole + b"behind" * 50, whole[:-2] + bytes(7) + whole[-2:])
    ):
        assert open_photo(written(tmp_path / f"{number}.jpg", content)).notes == ()


def test_06_allow_damaged_retouches_and_says_so_in_the_report(tmp_path, capsys, look):
    whole = makers.jpeg(makers.scene(6), 85)
    path = written(tmp_path / "a.jpg", whole[: len(whole) // 2] + b"\xff\xd9")
    asked = ["retouch", str(path), "-o", str(tmp_path / "b.jpg"), "--look", look]
    assert main(asked) == 2
    assert "a.jpg: it is damaged" in capsys.readouterr().err
    assert main([*asked, "--allow-damaged", "--report", str(tmp_path / "r.jsonl")]) == 0
    assert "a.jpg: it is damaged" in capsys.readouterr().err
    assert '"notes": ["it is damaged' in (tmp_path / "r.jsonl").read_text()


def test_06_jpeg_in_endless_passes_is_refused(tmp_path):
    whole = makers.jpeg(makers.scene(6), progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    assert "passes" in refusal(written(tmp_path / "a.jpg", whole[:-2] + scan * 600 + whole[-2:]))


def test_jpeg_decodes_as_libjpeg_turbo_does_elsewhere(tmp_path):
    import imagecodecs

    content = makers.jpeg(makers.scene(6), 85)
    np.testing.assert_array_equal(simplejpeg.decode_jpeg(content, fastdct=False), imagecodecs.jpeg8_decode(content))


def test_23_jpeg_xl_inside_of_dng_is_named(tmp_path):
    message = refusal(written(tmp_path / "a.dng", makers.dng(makers.scene(23), extra={259: (3, 52546)})))
    assert "JPEG XL" in message


# ---- folders -------------------------------------------------------------------------------------------------------


def test_20_raw_and_jpeg_of_one_name_with_comparisons(tmp_path, look):
    folder = tmp_path / "in"
    folder.mkdir()
    written(folder / "IMG_1.DNG", makers.dng(makers.scene(20, 96, 64)))
    written(folder / "IMG_1.JPG", makers.jpeg(makers.scene(20, 96, 64)))
    assert main(["retouch", str(folder), "-o", str(tmp_path / "out"), "--compare", "--look", look]) == 0
    pictures = sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".jsonl")
    assert pictures == [
        "IMG_1-DNG-compare.jpg",
        "IMG_1-JPG-compare.jpg",
        "IMG_1-retouched.JPG",
        "IMG_1-retouched.tif",
    ]
    for prefer, suffix in (("raw", ".tif"), ("jpeg", ".JPG")):
        out = tmp_path / prefer
        assert main(["retouch", str(folder), "-o", str(out), "--prefer", prefer, "--look", look]) == 0
        assert [path.name for path in out.glob("IMG*")] == [f"IMG_1-retouched{suffix}"]


def test_21_every_photo_of_a_folder_is_opened_and_what_is_not_is_named_once(tmp_path, capsys, look):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jfif", "b.jpe", "c.mpo", "d.jpg"):
        written(folder / name, makers.jpeg(makers.scene(21, 32, 24)))
    for name in ("film.MOV", "film2.mov", "moving.gif", "notes.txt"):
        written(folder / name, b"nothing")
    assert main(["retouch", str(folder), "-o", str(tmp_path / "out"), "--look", look]) == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*-retouched*"))
    assert names == ["a-retouched.jfif", "b-retouched.jpe", "c-retouched.jpg", "d-retouched.jpg"]
    assert "left out, as they cannot be opened: 1 .gif, 2 .mov\n" in capsys.readouterr().err


def test_a_changed_slider_over_what_is_there_says_in_one_line_what_to_do(tmp_path, capsys, look):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        written(folder / name, makers.jpeg(makers.scene(21, 32, 24)))
    asked = ["retouch", str(folder), "-o", str(tmp_path / "out"), "--look", look]
    assert main(asked) == 0
    capsys.readouterr()
    assert main([*asked, "--strength", "0.5"]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diffretouch:")]
    assert said == [
        "diffretouch: 2 of 2 photos are there already, made with other settings; choose another output or pass "
        "--overwrite"
    ]


def test_28_pairs_are_found_by_the_suffixes_that_retouch_opens():
    from diffretouch.data.matching import match_names
    from diffretouch.photo import OPENED_SUFFIXES

    before = [Path(f"P{number}{suffix}") for number, suffix in enumerate(sorted(OPENED_SUFFIXES))]
    pairs, unused = match_names(before, [path.with_suffix(".jpg") for path in before])
    assert len(pairs) == len(OPENED_SUFFIXES) and unused == []


def test_30_a_batch_leaves_alone_what_was_retouched_already_unless_told(tmp_path, capsys, look):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("new.jpg", "old.jpg"):
        written(folder / name, makers.jpeg(makers.scene(30, 32, 24)))
    save_photo(open_photo(folder / "old.jpg"), folder / "old.jpg", overwrite=True, done="brightness 0.3")
    asked = ["retouch", str(folder), "-o", str(out), "--look", look]
    assert main(asked) == 0
    assert "1 of 2 photos were left out, as DiffRetouch has retouched them already" in capsys.readouterr().err
    assert [path.name for path in out.glob("*.jpg")] == ["new-retouched.jpg"]
    told = {Path(line["source"]).name: line for line in map(json.loads, (out / "diffretouch.jsonl").open())}
    assert "skipped" in told["old.jpg"] and told["old.jpg"]["error"] is None and "skipped" not in told["new.jpg"]
    assert main([*asked, "--again"]) == 0, "the report of the run before must not stand in the way"
    said = capsys.readouterr().err
    assert "old.jpg: it was retouched by DiffRetouch before" in said and "1 of 2 photos were done already" in said
    assert sorted(path.name for path in out.glob("*.jpg")) == ["new-retouched.jpg", "old-retouched.jpg"]


def test_30_a_single_photo_that_was_retouched_already_is_retouched_with_a_word(tmp_path, capsys, look):
    path = tmp_path / "a.png"
    save_photo(Photo(np.asarray(makers.scene(30, 32, 24))), path, done="brightness 0.3")
    assert main(["retouch", str(path), "-o", str(tmp_path / "b.png"), "--look", look]) == 0
    assert capsys.readouterr().err.count("a.png: it was retouched by DiffRetouch before") == 1
    assert (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("elements", "attributes", "expected"),
    [
        ("", 'xmp:CreatorTool="DiffRetouch"', True),
        ("<xmp:CreatorTool>DiffRetouch</xmp:CreatorTool>", "", True),
        ("<dc:title>DiffRetouch</dc:title>", 'xmp:CreatorTool="Invented Editor"', False),
        ("<dc:title>DiffRetouch", "", False),  # no XML
    ],
)
def test_30_what_counts_as_retouched_is_what_the_history_says(elements, attributes, expected):
    photo = Photo(np.zeros((2, 2, 3), np.uint8), xmp=makers.xmp(elements, attributes))
    assert was_retouched(photo) == expected
