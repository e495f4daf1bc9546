"""The teacher: its package is checked, its padding and flattening are as documented, its answers as on record.

The real package is not needed; where the variable DIFFRETOUCH_TEACHER names its unpacked folder, the answer to a
generated picture is compared with the one on record (teacher_reference.png).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tfjs_graphs import float32, gelu, layer_norm, linear, mean_of, node, write_graph, write_package

from diffretouch.data.teacher import MODEL, PACKAGE, Package, Teacher, TeacherError, check_package, flatten

REFERENCE = Path(__file__).with_name("teacher_reference.png")


def gradient(height: int = 48, width: int = 64) -> np.ndarray:
    """A generated picture, (height, width, 3) uint8, with all hues, a highlight and a shadow."""
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    waves = [0.5 + 0.5 * np.cos(2 * np.pi * (x - shift)) for shift in (0, 1 / 3, 2 / 3)]
    return np.round(255 * (0.15 + 0.85 * y[..., None]) * np.stack(waves, axis=-1) ** 0.5).astype(np.uint8)


@pytest.fixture
def identity(tmp_path) -> Teacher:
    """A teacher who leaves everything as it is."""
    return Teacher.from_package(tmp_path, write_package(tmp_path, [node("out", "Identity", "x")], {}))


# ---- retouching -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(64, 128), (48, 72), (1, 1), (65, 3), (127, 64)])
def test_a_photo_of_any_size_comes_back_where_it_was(identity, height, width):
    photo = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = photo.copy()
    answer = identity.retouch(photo)
    assert answer.dtype == np.uint8
    np.testing.assert_array_equal(answer, photo)
    np.testing.assert_array_equal(photo, before)


def test_the_network_sees_the_photo_reflected_to_multiples_of_64(tmp_path):
    nodes = [*mean_of("mean", "x", keep=True), node("none", "Mul", "x", "zero"), node("out", "AddV2", "none", "mean")]
    constants = {"axes": np.array([1, 2], np.int32), "share": float32(1 / (64 * 128)), "zero": float32(0.0)}
    teacher = Teacher.from_package(tmp_path, write_package(tmp_path, nodes, constants))
    photo = gradient(40, 70)
    padded = np.pad(photo, ((12, 12), (29, 29), (0, 0)), mode="reflect")
    expected = np.round(padded.mean((0, 1)))
    assert not np.array_equal(expected, np.round(photo.mean((0, 1))))
    np.testing.assert_array_equal(teacher.retouch(photo), np.broadcast_to(expected, photo.shape))


def test_what_leaves_the_range_is_clipped_and_halves_are_rounded(tmp_path):
    nodes = [node("far", "Mul", "x", "three"), node("out", "Sub", "far", "one")]
    package = write_package(tmp_path, nodes, {"three": float32(3.0), "one": float32(1.0)})
    photo = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=-1)
    expected = np.clip(3 * photo.astype(int) - 255, 0, 255)
    np.testing.assert_array_equal(Teacher.from_package(tmp_path, package).retouch(photo), expected)


def test_an_answer_is_the_retouch_carried_by_a_table_of_the_pictures_colours(tmp_path):
    nodes = [node("half", "Mul", "x", "factor"), node("out", "AddV2", "half", "lift")]
    package = write_package(tmp_path, nodes, {"factor": float32(0.5), "lift": float32(0.1)})
    teacher, photo = Teacher.from_package(tmp_path, package), gradient()
    answer = teacher.answer(photo)
    assert answer.dtype == np.float32 and answer.min() >= 0 and answer.max() <= 1
    np.testing.assert_allclose(answer, photo / 255 * 0.5 + 0.1, atol=0.04)


def test_a_label_is_the_answer_to_the_flattened_photo(tmp_path):
    nodes, constants = [], {}
    for spell, source, output in ((layer_norm, "x", "a"), (gelu, "a", "b"), (linear, "b", "out")):
        further, values = spell(source, output)
        nodes, constants = nodes + further, {**constants, **values}
    teacher = Teacher.from_package(tmp_path, write_package(tmp_path, nodes, constants))
    photo = gradient()
    np.testing.assert_array_equal(teacher.label(photo), teacher.retouch(flatten(photo)))
    assert not np.array_equal(teacher.label(photo), teacher.retouch(photo))


@pytest.mark.parametrize(
    ("photo", "error"),
    [
        (Image.new("RGB", (4, 4)), TypeError),
        (np.zeros((4, 4, 3), np.float32), ValueError),
        (np.zeros((4, 4, 4), np.uint8), ValueError),
        (np.zeros((4, 4), np.uint8), ValueError),
        (np.zeros((0, 4, 3), np.uint8), ValueError),
    ],
)
def test_anything_but_a_photo_of_8_bits_is_refused(identity, photo, error):
    for function in (identity.retouch, identity.label, flatten):
        with pytest.raises(error, match="`photo` has to be "):
            function(photo)


# ---- flattening -----------------------------------------------------------------------------------------------------


def slow_flatten(photo: np.ndarray) -> np.ndarray:
    """Pixel by pixel, in double precision, before rounding."""

    def darker(value: int) -> float:
        srgb = value / 255
        light = (srgb / 12.92 if srgb <= 0.04045 else ((srgb + 0.055) / 1.055) ** 2.4) * 2**-0.7
        return light * 12.92 if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055

    dark = [[[darker(int(value)) for value in pixel] for pixel in row] for row in photo]
    values = [value for row in dark for pixel in row for value in pixel]
    mean = sum(values) / len(values)
    out = []
    for row in dark:
        for pixel in row:
            red, green, blue = (mean + 0.85 * (value - mean) for value in pixel)
            luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
            out.append([255 * min(1.0, max(0.0, luma + 0.75 * (value - luma))) for value in (red, green, blue)])
    return np.array(out).reshape(photo.shape)


@pytest.mark.parametrize("photo", [gradient(), np.random.default_rng(8).integers(0, 256, (9, 7, 3), dtype=np.uint8)])
def test_flattening_is_what_a_loop_says(photo):
    flat = flatten(photo)
    assert (flat.dtype, flat.shape) == (np.uint8, photo.shape)
    # Half a level is the rounding, the rest single precision.
    assert np.abs(flat - slow_flatten(photo)).max() < 0.501


def test_flattening_darkens_and_keeps_grey_grey():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=-1)
    flat = flatten(grey)
    assert flat.mean() < grey.mean() - 15
    assert np.ptp(flat) < 0.85 * np.ptp(grey)
    assert np.ptp(flat.astype(int), axis=-1).max() == 0


# ---- the package ----------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path) -> Package:
    """A stand-in for the package, in `tmp_path`."""
    return write_package(tmp_path, *linear())


def refused(folder: Path, package: Package) -> str:
    """The one line with which a package is refused, by the check and by the teacher alike."""
    said = []
    for function in (check_package, Teacher.from_package):
        with pytest.raises(TeacherError) as caught:
            function(folder, package)
        said.append(str(caught.value))
    assert said[0] == said[1] and len(said[0].splitlines()) == 1
    assert said[0].startswith(f"the teacher has to be the unpacked npm package {package}, but ")
    return said[0]


def test_the_recorded_package_is_named_with_its_version(tmp_path):
    assert str(PACKAGE) == "@upscalerjs/maxim-retouching 0.1.0"
    assert len(PACKAGE.sha256) == 15 and MODEL in PACKAGE.sha256
    said = refused(tmp_path / "nowhere", PACKAGE)
    assert "@upscalerjs/maxim-retouching 0.1.0" in said and str(tmp_path / "nowhere") in said


@pytest.mark.parametrize("manifest", [None, "", "[]", '{"name": "stand-in"}'])
def test_a_folder_without_a_whole_package_json_is_refused(tmp_path, package, manifest):
    (tmp_path / "package.json").unlink()
    if manifest is not None:
        (tmp_path / "package.json").write_text(manifest)
    assert refused(tmp_path, package).endswith("has no readable package.json")


@pytest.mark.parametrize("found", [("stand-in", "1.0.1"), ("other", "1.0.0")])
def test_another_package_or_version_is_refused(tmp_path, package, found):
    (tmp_path / "package.json").write_text(json.dumps(dict(zip(("name", "version"), found, strict=True))))
    assert refused(tmp_path, package).endswith(f"{tmp_path} has {' '.join(found)}")


def test_a_missing_and_a_damaged_file_are_named(tmp_path, package):
    shard = tmp_path / "models" / "shard2of2.bin"
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    assert "but models/shard2of2.bin in" in refused(tmp_path, package)
    shard.unlink()
    assert refused(tmp_path, package).endswith("has no readable models/shard2of2.bin")


def test_a_graph_that_cannot_be_run_is_refused_in_one_line(tmp_path):
    package = write_package(tmp_path, [node("out", "Softmax", "x")], {})
    with pytest.raises(TeacherError, match=r"^stand-in 1.0.0 in .* cannot be run: the operation Softmax is not"):
        Teacher.from_package(tmp_path, package)


def test_other_weights_than_those_on_record_are_refused(tmp_path, package):
    nodes, constants = linear()
    write_graph(tmp_path / MODEL, nodes, {**constants, "offset": constants["offset"] + 1})
    assert "is damaged: its sha256 is" in refused(tmp_path, package)


# ---- the real one ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif("DIFFRETOUCH_TEACHER" not in os.environ, reason="DIFFRETOUCH_TEACHER names no package")
def test_the_real_teacher_gives_the_answer_on_record():
    """One level for other processors' rounding: the weights are 32-bit, and sums differ in their last digits."""
    teacher = Teacher.from_package(os.environ["DIFFRETOUCH_TEACHER"])
    with Image.open(REFERENCE) as opened:
        reference = np.asarray(opened).astype(int)
    assert np.abs(teacher.label(gradient()) - reference).max() <= 1
