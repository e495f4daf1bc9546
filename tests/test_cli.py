"""`diffretouch retouch`: what it writes, what it never touches, and one clear line for everything that goes wrong."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import torch
from scenes import scene, write_data_set

from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline, open_photo
from diffretouch.commands.cli import main
from diffretouch.photo import SAVED_SUFFIXES


@pytest.fixture(scope="module")
def model(tiny_pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def retouch(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command in a folder of its own; returns the exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> int:
        given = [] if "--model" in arguments else ["--model", model]
        try:
            return main(["retouch", *map(str, [*arguments, *given])])
        except SystemExit as stop:
            return int(stop.code or 0)

    return run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return save(tmp_path / "photo.png", scene(0))


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    PIL.Image.fromarray(pixels).save(path, **options)
    return path


def pixels(path: Path | str) -> np.ndarray:
    return open_photo(path).pixels


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line of stderr; a finished progress bar, which erases itself, does not count."""
    shown = [line.split("\r")[-1] for line in capsys.readouterr().err.split("\n")]
    lines = [line for line in shown if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("diffretouch")
    return lines[0]


# What is written


def test_a_photo_goes_to_a_file(retouch, photo: Path, tmp_path: Path, capsys) -> None:
    assert retouch(photo, "-o", "better.png") == 0
    assert capsys.readouterr().out == "better.png\n"
    assert pixels("better.png").shape == pixels(photo).shape
    assert np.abs(pixels("better.png").astype(int) - pixels(photo)).mean() > 2
    assert sorted(files(tmp_path)) == ["better.png", "photo.png"]


def test_the_extension_of_the_output_chooses_the_format(retouch, photo: Path) -> None:
    for name, kind in (("a.jpg", "JPEG"), ("a.webp", "WEBP"), ("a.TIFF", "TIFF")):
        assert retouch(photo, "-o", name) == 0
        assert open_photo(name).format == kind


def test_photos_go_to_a_folder_under_their_own_names_and_kinds(retouch, tmp_path: Path) -> None:
    sources = [save(tmp_path / name, scene(i)) for i, name in enumerate(("a.jpg", "b.png", "c.d.TIF"))]
    (tmp_path / "nameless").write_bytes((tmp_path / "a.jpg").read_bytes())
    assert retouch(*sources, "nameless", "-o", "new/folder") == 0
    assert sorted(files(tmp_path / "new" / "folder")) == [
        "a-retouched.jpg",
        "b-retouched.png",
        "c.d-retouched.TIF",
        "nameless-retouched.jpg",
    ]


def test_an_existing_folder_is_one_whatever_its_name(retouch, photo: Path, tmp_path: Path) -> None:
    for name in ("trip.jpg", "old.gif"):
        (tmp_path / name).mkdir()
        assert retouch(photo, "-o", name) == 0
        assert list(files(tmp_path / name)) == ["photo-retouched.png"]


def test_variants_and_comparison_stand_beside_the_retouch(retouch, photo: Path, tmp_path: Path) -> None:
    assert retouch(photo, "-o", "out.png", "--variants", 2, "--compare") == 0
    assert retouch(photo, "-o", "folder", "--variants", 1, "--compare") == 0
    assert sorted(files(tmp_path)) == [
        "folder/photo-compare.jpg",
        "folder/photo-retouched.png",
        "folder/photo-variant-1.png",
        "out-compare.jpg",
        "out-variant-1.png",
        "out-variant-2.png",
        "out.png",
        "photo.png",
    ]


def test_the_comparison_shows_the_photo_and_every_version_side_by_side(retouch, photo: Path) -> None:
    retouch(photo, "-o", "out.png", "--variants", 1, "--compare")
    comparison = pixels("out-compare.jpg").astype(int)
    assert comparison.shape == (48, 3 * 72 + 2 * 8, 3)
    for place, shown in enumerate((photo, "out.png", "out-variant-1.png")):
        column = comparison[:, place * 80 : place * 80 + 72]
        assert np.abs(column - pixels(shown)).mean() < 3
    assert comparison[:, 74:78].min() > 240


@pytest.mark.parametrize(("size", "shown"), [((1500, 6), (720, 3)), ((6, 2600), (3, 1280)), ((1, 20000), (1, 1280))])
def test_the_comparison_is_bounded_in_height_and_width(retouch, tmp_path: Path, size, shown) -> None:
    source = save(tmp_path / "long.png", scene(0, *size))
    assert retouch(source, "-o", "out.png", "--compare") == 0
    assert pixels("out-compare.jpg").shape == (shown[0], 2 * shown[1] + 8, 3)
    assert pixels("out.png").shape == (*size, 3)


def test_the_comparison_of_a_deep_photo_is_not_darker(retouch, tmp_path: Path) -> None:
    deep = np.full((8, 8, 3), 40000, dtype=np.uint16)
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(deep))
    retouch("deep.png", "-o", "out.png", "--compare")
    assert pixels("out-compare.jpg")[:, :8].mean() == pytest.approx(40000 / 257, abs=2)


def test_a_seed_repeats_itself_and_another_one_differs(retouch, photo: Path) -> None:
    for name, seed in (("a.png", 3), ("b.png", 3), ("c.png", 4)):
        assert retouch(photo, "-o", name, "--seed", seed) == 0
    assert np.array_equal(pixels("a.png"), pixels("b.png"))
    assert not np.array_equal(pixels("a.png"), pixels("c.png"))


def test_variants_differ_and_count_up_from_the_seed(retouch, photo: Path) -> None:
    retouch(photo, "-o", "a.png", "--seed", 5, "--variants", 2)
    retouch(photo, "-o", "b.png", "--seed", 6)
    styles = [pixels(name).astype(int) for name in ("a.png", "a-variant-1.png", "a-variant-2.png")]
    assert all(np.abs(one - other).max() > 3 for i, one in enumerate(styles) for other in styles[:i])
    assert np.abs(styles[1] - pixels("b.png")).max() <= 1


def test_the_first_picture_does_not_depend_on_the_number_of_variants(retouch, photo: Path) -> None:
    retouch(photo, "-o", "alone.png")
    retouch(photo, "-o", "first.png", "--variants", 3)
    assert np.abs(pixels("alone.png").astype(int) - pixels("first.png")).max() <= 1


@pytest.mark.parametrize("name", ["colorfulness", "brightness", "contrast", "temperature"])
def test_every_slider_reaches_the_model(retouch, photo: Path, name: str) -> None:
    for value in ("-1.5", "1"):
        assert retouch(photo, "-o", f"{name}{value}.png", f"--{name}", value) == 0
    assert not np.array_equal(pixels(f"{name}-1.5.png"), pixels(f"{name}1.png"))


def test_steps_reach_the_model(retouch, photo: Path) -> None:
    retouch(photo, "-o", "few.png", "--steps", 1)
    retouch(photo, "-o", "many.png", "--steps", 5)
    assert not np.array_equal(pixels("few.png"), pixels("many.png"))


def test_strength_zero_keeps_every_pixel(retouch, photo: Path, tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(deep))
    assert retouch(photo, "deep.png", "-o", "same", "--strength", 0) == 0
    assert np.array_equal(pixels("same/photo-retouched.png"), pixels(photo))
    assert np.array_equal(pixels("same/deep-retouched.png"), deep)


def test_strength_between_lies_between(retouch, photo: Path) -> None:
    for strength in ("0.5", "1"):
        retouch(photo, "-o", f"{strength}.png", "--strength", strength)
    original, half, full = (pixels(name).astype(float) for name in (photo, "0.5.png", "1.png"))
    inside = (full > 0) & (full < 255)
    assert np.abs(half - (original + full) / 2)[inside].max() <= 1


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bits_stay_16_bits(retouch, tmp_path: Path, extension: str) -> None:
    ramp = np.linspace(10000, 50000, 40 * 60 * 3).astype(np.uint16).reshape(40, 60, 3)
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(ramp))
    assert retouch("deep.png", "-o", f"out.{extension}") == 0
    retouched = pixels(f"out.{extension}")
    assert retouched.dtype == np.uint16
    assert (retouched % 257 != 0).mean() > 0.9


def test_exif_is_kept_and_orientation_applied(retouch, tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker of cameras", 6
    source = save(tmp_path / "phone.jpg", scene(0, 40, 60), exif=exif, quality=95)
    assert retouch(source, "-o", "out.jpg", "--strength", 0) == 0
    with PIL.Image.open("out.jpg") as saved:
        assert saved.size == (40, 60)
        assert saved.getexif()[0x010F] == "Maker of cameras"
        assert saved.getexif()[0x0112] == 1
    assert np.abs(pixels("out.jpg").astype(int) - np.rot90(scene(0, 40, 60), -1)).mean() < 4


def test_the_profile_is_kept_in_the_retouch_and_in_the_comparison(retouch, tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = save(tmp_path / "tagged.jpg", scene(0), icc_profile=profile)
    retouch(source, "-o", "out.jpg", "--compare")
    assert open_photo("out.jpg").icc_profile == open_photo("out-compare.jpg").icc_profile == profile


def test_alpha_returns_untouched(retouch, tmp_path: Path) -> None:
    alpha = np.random.default_rng(0).integers(0, 256, (48, 72, 1), dtype=np.uint8)
    source = save(tmp_path / "cut.png", np.concatenate([scene(0), alpha], axis=2))
    assert retouch(source, "-o", "out.png", "--compare") == 0
    assert np.array_equal(open_photo("out.png").alpha, alpha[..., 0])


def test_a_batch_gives_what_single_calls_give(retouch, tmp_path: Path) -> None:
    sources = [save(tmp_path / f"{i}.png", scene(i, 30 + i, 40)) for i in range(3)]
    assert retouch(*sources, "-o", "batch") == 0
    assert retouch(sources[2], "-o", "single.png") == 0
    assert np.array_equal(pixels("batch/2-retouched.png"), pixels("single.png"))


# Contact sheets


def sheet(*arguments: object) -> int:
    try:
        return main(list(map(str, arguments)))
    except SystemExit as stop:
        return int(stop.code or 0)


def cells(path: Path | str, rows: int, columns: int) -> np.ndarray:
    """A sheet cut into (rows, columns, h, w, 3) without the captions, which are 26 pixels high."""
    whole = pixels(path).astype(int)
    height, width = whole.shape[0] // rows, whole.shape[1] // columns
    grid = whole.reshape(rows, height, columns, width, 3).swapaxes(1, 2)
    captions = grid[:, :, :26]
    assert captions.max() == 255
    assert (captions.reshape(rows, columns, -1).min(-1) < 100).all()
    return grid[:, :, 26:]


def test_a_sweep_shows_every_slider_at_five_positions(retouch, model: Path, photo: Path) -> None:
    assert sheet("sweep", photo, "-o", "sweep.png", "--model", model, "--seed", 3) == 0
    shown = cells("sweep.png", 4, 5)
    assert shown.shape[2:] == (48, 72, 3)
    retouch(photo, "-o", "bright.png", "--brightness", 0.5, "--seed", 3)
    assert np.abs(shown[1, 3] - pixels("bright.png")).max() <= 1
    assert np.array_equal(shown[0, 2], shown[3, 2])  # the middle of every row is the same retouch
    assert all(not np.array_equal(row[0], row[-1]) for row in shown)


def test_variants_show_the_photo_and_its_styles(retouch, model: Path, photo: Path) -> None:
    options = ("--model", model, "--count", 3, "--seed", 5, "--contrast", -1, "--strength", 0.8)
    assert sheet("variants", photo, "-o", "styles.png", *options) == 0
    shown = cells("styles.png", 1, 4)[0]
    assert np.array_equal(shown[0], pixels(photo))
    retouch(photo, "-o", "second.png", "--seed", 6, "--contrast", -1, "--strength", 0.8)
    assert np.abs(shown[2] - pixels("second.png")).max() <= 1


def test_a_sheet_replaces_nothing_and_refuses_what_is_no_photo(model: Path, photo: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(photo.parent)
    before = photo.read_bytes()
    for command in ("sweep", "variants"):
        assert sheet(command, photo, "-o", photo, "--model", model) == 2
        assert "photo.png exists" in one_line(capsys)
        assert sheet(command, photo, "-o", photo, "--model", model, "--overwrite") == 2
        assert "it is the photo's own source" in one_line(capsys)
        assert sheet(command, photo, "-o", "sheet.txt", "--model", model) == 2
        assert "`output` has to end in .jpg" in one_line(capsys)
        assert sheet(command, "missing.png", "-o", "sheet.png", "--model", model) == 2
        assert "missing.png" in one_line(capsys)
    assert photo.read_bytes() == before
    assert list(photo.parent.iterdir()) == [photo]


# What is never touched


def test_an_existing_output_is_refused_before_any_work(retouch, photo: Path, tmp_path: Path, capsys) -> None:
    for option, taken in (
        ((), "out.png"),
        (("--variants", 2), "out-variant-2.png"),
        (("--compare",), "out-compare.jpg"),
    ):
        (tmp_path / taken).write_bytes(b"precious")
        before = files(tmp_path)
        assert retouch(photo, "-o", "out.png", *option) == 2
        assert f"{taken} exists; choose another output or pass --overwrite" in one_line(capsys)
        assert files(tmp_path) == before
        (tmp_path / taken).unlink()


def test_a_dangling_link_counts_as_an_existing_output(retouch, photo: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "out.png").symlink_to(tmp_path / "nowhere.png")
    assert retouch(photo, "-o", "out.png") == 2
    assert "out.png exists" in one_line(capsys)


def test_overwrite_replaces_an_existing_output(retouch, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "out.png").write_bytes(b"old")
    assert retouch(photo, "-o", "out.png", "--overwrite") == 0
    assert pixels("out.png").shape == (48, 72, 3)


def test_one_existing_output_stops_the_whole_batch_before_it_starts(retouch, tmp_path: Path, capsys) -> None:
    sources = [save(tmp_path / f"{i}.png", scene(i)) for i in range(2)]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1-retouched.png").write_bytes(b"precious")
    assert retouch(*sources, "-o", "out") == 2
    assert "1-retouched.png exists" in one_line(capsys)
    assert files(tmp_path / "out") == {"1-retouched.png": b"precious"}


def test_the_input_is_replaced_only_where_output_and_overwrite_say_so(retouch, photo: Path, capsys) -> None:
    before = photo.read_bytes()
    assert retouch(photo, "-o", photo) == 2
    assert "photo.png exists" in one_line(capsys)
    assert photo.read_bytes() == before
    assert retouch(photo, "-o", "../" + photo.parent.name + "/photo.png", "--overwrite") == 0
    assert not np.array_equal(pixels(photo), scene(0))


def test_a_variant_never_replaces_the_input(retouch, tmp_path: Path, capsys) -> None:
    source = save(tmp_path / "out-variant-1.png", scene(0))
    assert retouch(source, "-o", "out.png", "--variants", 1, "--overwrite") == 2
    assert "out-variant-1.png is an input, too; choose another output" in one_line(capsys)
    assert list(files(tmp_path)) == ["out-variant-1.png"]


def test_a_retouch_never_replaces_another_input_of_the_batch(retouch, tmp_path: Path, capsys) -> None:
    sources = [save(tmp_path / name, scene(0)) for name in ("a.png", "a-retouched.png")]
    before = files(tmp_path)
    assert retouch(*sources, "-o", tmp_path, "--overwrite") == 2
    assert "a-retouched.png is an input, too" in one_line(capsys)
    assert files(tmp_path) == before


def test_a_hard_link_to_the_input_is_not_replaced_either(retouch, photo: Path, tmp_path: Path, capsys) -> None:
    os.link(photo, tmp_path / "link.png")
    assert retouch(photo, "-o", "link.png", "--overwrite") == 2
    assert "link.png: it is the photo's own source" in one_line(capsys)
    assert np.array_equal(pixels("link.png"), scene(0))


def test_two_inputs_with_one_output_name_are_refused(retouch, tmp_path: Path, capsys) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder / "same.png", scene(0))
    assert retouch("one/same.png", "two/same.png", "-o", "out") == 2
    assert "one/same.png and two/same.png would both be written to out/same-retouched.png" in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_several_photos_do_not_go_to_one_file(retouch, photo: Path, tmp_path: Path, capsys) -> None:
    assert retouch(photo, photo, "-o", "out.png") == 2
    assert "`output` has to be a folder for 2 photos, got out.png" in one_line(capsys)
    assert list(files(tmp_path)) == ["photo.png"]


def test_an_output_of_another_picture_format_is_refused(retouch, photo: Path, tmp_path: Path, capsys) -> None:
    assert retouch(photo, "-o", "out.gif") == 2
    assert f"`output` has to be a folder or end in {', '.join(SAVED_SUFFIXES)}, got out.gif" in one_line(capsys)
    assert list(tmp_path.iterdir()) == [photo]


# What goes wrong


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--brightness", "7", "`brightness` has to be a number in [-1.5, 1.5], got 7"),
        ("--temperature", "warm", "`temperature` has to be a number in [-1.5, 1.5], got warm"),
        ("--contrast", "nan", "`contrast` has to be a number in [-1.5, 1.5], got nan"),
        ("--colorfulness", "-1.6", "`colorfulness` has to be a number in [-1.5, 1.5], got -1.6"),
        ("--strength", "2.1", "`strength` has to be a number in [0, 2], got 2.1"),
        ("--strength", "-1", "`strength` has to be a number in [0, 2], got -1"),
        ("--steps", "0", "`steps` has to be an integer in [1, 1000], got 0"),
        ("--steps", "1001", "`steps` has to be an integer in [1, 1000], got 1001"),
        ("--steps", "2.5", "`steps` has to be an integer in [1, 1000], got 2.5"),
        ("--variants", "-1", "`variants` has to be an integer in [0, 32], got -1"),
        ("--variants", "33", "`variants` has to be an integer in [0, 32], got 33"),
        ("--seed", "-1", "`seed` has to be an integer in [0, 4294967295], got -1"),
        ("--seed", "9" * 30, "`seed` has to be an integer in [0, 4294967295], got 999"),
        ("--seed", "٣", "`seed` has to be an integer in [0, 4294967295], got"),
        ("--sharpness", "1", "unrecognized arguments: --sharpness 1"),
    ],
)
def test_a_bad_option_is_one_line_and_exit_code_2(retouch, photo, tmp_path, capsys, option, value, message) -> None:
    assert retouch(photo, "-o", "out.png", option, value) == 2
    assert message in one_line(capsys)
    assert list(tmp_path.iterdir()) == [photo]


@pytest.mark.parametrize("arguments", [[], ["retouch"], ["retouch", "a.jpg"], ["retouch", "-o", "b.jpg"], ["paint"]])
def test_missing_arguments_are_one_line_and_exit_code_2(arguments, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert one_line(capsys)


def test_a_mistyped_command_costs_no_import_of_torch() -> None:
    program = "import sys; from diffretouch.commands.cli import main\n"
    program += "try: main(['retouch', 'a.jpg', '-o', 'b.jpg', '--steps', '0'])"
    program += "\nexcept SystemExit: print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout == "False\n"


def bad_photos(folder: Path) -> dict[str, str]:
    """Files that are no photos, with what has to be said about each."""
    whole = save(folder / "whole.png", scene(0)).read_bytes()
    (folder / "whole.png").unlink()
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("not a photo")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "folder.jpg").mkdir()
    frames = [PIL.Image.fromarray(scene(i)) for i in range(2)]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:])
    header = (
        b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + b"IHDR" + (200_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    )
    (folder / "bomb.png").write_bytes(header + b"\0" * 4)
    return {
        "empty.jpg": "it is empty",
        "text.jpg": "it is not a photo file",
        "cut.png": "damaged or cut short",
        "folder.jpg": "it is a folder",
        "moving.webp": "2 frames",
        "bomb.png": "200000 x 200000 pixels",
        "missing.jpg": "No such file",
    }


def test_a_single_bad_photo_is_one_line_and_exit_code_2(retouch, tmp_path: Path, capsys) -> None:
    for name, reason in bad_photos(tmp_path).items():
        assert retouch(name, "-o", "new/out.png") == 2
        line = one_line(capsys)
        assert name in line
        assert reason in line
    assert not (tmp_path / "new").exists()


def test_a_batch_goes_on_past_bad_photos_and_names_them_at_the_end(retouch, photo, tmp_path: Path, capsys) -> None:
    bad = bad_photos(tmp_path)
    last = save(tmp_path / "last.png", scene(1))
    assert retouch(photo, *bad, last, "-o", "out") == 1
    captured = capsys.readouterr()
    assert captured.out.split() == ["out/photo-retouched.png", "out/last-retouched.png"]
    assert sorted(files(tmp_path / "out")) == ["last-retouched.png", "photo-retouched.png"]
    said = [
        line.split("\r")[-1] for line in captured.err.splitlines() if line.split("\r")[-1].startswith("diffretouch")
    ]
    assert [name for name, line in zip(bad, said, strict=False) if name in line] == list(bad)
    assert said[-1] == "diffretouch: 7 of 9 photos failed, the rest is done"


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_photos_of_extreme_shapes_are_retouched(retouch, tmp_path: Path, size) -> None:
    source = save(tmp_path / "odd.png", np.full((*size, 3), 90, dtype=np.uint8))
    assert retouch(source, "-o", "out.png", "--compare") == 0
    assert pixels("out.png").shape == (*size, 3)


@pytest.mark.parametrize(
    "kind", ["missing", "empty", "no index", "bad index", "other index", "cut weights", "no weights"]
)
def test_a_bad_model_is_one_line_and_exit_code_2(retouch, model: Path, photo, tmp_path: Path, capsys, kind) -> None:
    folder = tmp_path / "models" / "mine" / "bad"
    if kind != "missing":
        shutil.copytree(model, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if kind == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif kind == "no index":
        (folder / "model_index.json").unlink()
    elif kind == "bad index":
        (folder / "model_index.json").write_text("{")
    elif kind == "other index":
        (folder / "model_index.json").write_text(
            '{"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}'
        )
    elif kind == "cut weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif kind == "no weights":
        weights.unlink()
    before = files(tmp_path)
    assert retouch(photo, "-o", "out/out.png", "--model", folder) == 2
    line = one_line(capsys)
    assert f"`model` has to be a DiffRetouch folder or Hub id, got {folder}: " in line
    assert files(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_a_folder_below_a_file_cannot_be_made(retouch, photo: Path, tmp_path: Path, capsys) -> None:
    for output in ("photo.png/out", "photo.png/deeper/out.jpg"):
        assert retouch(photo, "-o", output) == 2
        assert "photo.png is a file" in one_line(capsys)
    assert list(tmp_path.iterdir()) == [photo]


def test_an_output_folder_that_is_a_file_is_refused(retouch, photo: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "notes").write_text("precious")
    assert retouch(photo, "-o", "notes") == 2
    assert "cannot make the folder notes: notes is a file" in one_line(capsys)
    assert (tmp_path / "notes").read_text() == "precious"


@pytest.mark.parametrize("output", ["/proc/diffretouch/out.png", "/proc/diffretouch"])
def test_a_folder_nobody_can_write_into_is_one_line_and_exit_code_2(retouch, photo: Path, capsys, output) -> None:
    assert retouch(photo, "-o", output) == 2
    assert "/proc" in one_line(capsys)


def test_a_full_disk_is_one_line_and_the_old_file_stays(retouch, tmp_path: Path, capsys) -> None:
    source = save(tmp_path / "noise.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "out.png").write_bytes(b"precious")
    before = files(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        code = retouch(source, "-o", "out.png", "--overwrite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 2
    assert "cannot save out.png: File too large" in one_line(capsys)
    assert files(tmp_path) == before


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """A shell lets its background jobs ignore Ctrl-C, and a test run may be one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_stops_a_batch_with_one_line_and_whole_files(retouch, tmp_path: Path, capsys) -> None:
    sources = [save(tmp_path / f"{i}.png", scene(i % 3)) for i in range(20)]
    finished = threading.Event()

    def interrupt() -> None:
        while not any((tmp_path / "out").glob("*.png")) and not finished.is_set():
            time.sleep(0.005)
        # Python drops an interrupt that comes inside a finalizer: pressed again, as people do.
        while not finished.is_set():
            os.kill(os.getpid(), signal.SIGINT)
            finished.wait(5)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    code = retouch(*sources, "-o", "out", "--steps", 150)
    finished.set()
    watcher.join()
    assert code == 130
    assert "diffretouch: stopped; every file written so far is complete" in capsys.readouterr().err
    written = list((tmp_path / "out").iterdir())
    assert 1 <= len(written) < 20
    assert all(pixels(path).shape == (48, 72, 3) for path in written)


def test_fast_takes_the_models_fast_sampling(tmp_path):
    PIL.Image.fromarray(scene(0)).save(tmp_path / "photo.png")
    photo = str(tmp_path / "photo.png")
    assert main(["retouch", photo, "-o", str(tmp_path / "fast.png"), "--fast"]) == 0
    pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL)
    seed = torch.Generator().manual_seed(0)
    (wanted,) = pipe(scene(0), generator=seed, output_type="grid", **pipe.fast_sampling()).grids
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "fast.png")), wanted.apply(scene(0)))
    with pytest.raises(SystemExit) as refusal:
        main(["retouch", photo, "-o", str(tmp_path / "both.png"), "--fast", "--steps", "3"])
    assert refusal.value.code == 2


# ---- evaluate, report ----------------------------------------------------------------------------------------------


def test_evaluate_writes_figures_and_a_report_and_prints_the_table(tiny_pipeline, tmp_path, capsys):
    model = tmp_path / "model"
    tiny_pipeline().save_pretrained(model)
    data = write_data_set(tmp_path / "data", {"test": 1})
    out = tmp_path / "evaluation"
    assert main(["evaluate", str(data), "--model", str(model), "-o", str(out)]) == 0
    figures = json.loads((out / "quality.json").read_text())
    assert figures["settings"]["split"] == "test" and figures["quality"]["oracle c"]["delta_e"] > 0
    assert "oracle c" in capsys.readouterr().out
    assert "<html" in (out / "report.html").read_text()


def test_evaluate_measures_other_models_beside(tiny_pipeline, tmp_path, capsys):
    model, data, out = tmp_path / "a=b", write_data_set(tmp_path / "data", {"test": 1}), tmp_path / "evaluation"
    tiny_pipeline().save_pretrained(model)
    beside = ["--beside", f"one={model}", "--beside", f"a second={model}"]
    assert main(["evaluate", str(data), "--model", str(model), "-o", str(out), *beside]) == 0
    figures = json.loads((out / "quality.json").read_text())
    assert figures["settings"]["beside"] == list(figures["coverage_beside"]) == ["one", "a second"]
    assert figures["settings"]["models_beside"] == [str(model), str(model)]
    assert figures["quality"]["a second"] == figures["quality"]["c = 0"]
    assert capsys.readouterr().out.count("| a second |") == 6  # quality, coverage, detail and the sections


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        (["model"], "argument --beside: `beside` has to be NAME=MODEL, got model"),
        (["=model"], "argument --beside: `beside` has to be NAME=MODEL, got =model"),
        (["x="], "argument --beside: `beside` has to be NAME=MODEL, got x="),
        (["x=a", "x=b"], "`beside` has to give every model a name of its own, got x, x"),
    ],
)
def test_a_model_beside_without_a_name_of_its_own_is_refused_in_one_line(beside, message, tmp_path, capsys):
    options = [option for value in beside for option in ("--beside", value)]
    try:
        code = main(["evaluate", "data", "-o", str(tmp_path / "out"), *options])
    except SystemExit as refusal:
        code = refusal.code
    assert code == 2 and message in capsys.readouterr().err


def test_evaluate_names_a_missing_data_set_in_one_line(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path / "nowhere"), "-o", str(tmp_path / "evaluation")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("diffretouch: ") and "nowhere" in error
    assert not (tmp_path / "evaluation").exists()


def test_report_of_a_folder_without_a_run_is_refused_in_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
