"""A look from photos before and after an edit: look/fit.py, look/agree.py, data/look_pairs.py, `diffretouch look`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import pytest
from PIL import ImageCms
from scenes import scene
from scipy.ndimage import map_coordinates, uniform_filter

from diffretouch import AffineGrid, Look, Photo, PhotoError, fit_look
from diffretouch.commands.cli import main
from diffretouch.data.look_pairs import PairError, look_from_pairs, pairs_of_folders
from diffretouch.look.agree import Verdict, verdicts
from diffretouch.look.fit import Pixels, at_strength, delta_e, fit_pixels, metric
from diffretouch.photo.colour import ADOBE_RGB

SIZE = (160, 240)
EXAMPLES = Path(__file__).parents[1] / "examples"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def photo(seed: int) -> np.ndarray:
    return scene(seed, *SIZE)


def example(name: str) -> np.ndarray:
    return np.array(PIL.Image.open(EXAMPLES / f"{name}.jpg").convert("RGB").reduce(2))


def warm_fade(picture: np.ndarray) -> np.ndarray:
    """A fixed edit: faded, warmer, less saturated, with a curve."""
    unit = picture / 255
    luma = unit @ [0.299, 0.587, 0.114]
    toned = 0.7 * unit + 0.3 * luma[..., None]
    curved = toned + 0.1 * np.sin(2 * np.pi * luma)[..., None] * -1
    return to_bytes(0.12 + 0.8 * curved + [0.03, 0, -0.04])


def other_edit(picture: np.ndarray) -> np.ndarray:
    """Unlike `warm_fade`: dark and blue."""
    return to_bytes((picture / 255) ** 1.8 * [0.7, 0.8, 1.0])


def to_bytes(unit: np.ndarray) -> np.ndarray:
    return np.round(np.clip(unit, 0, 1) * 255).astype(np.uint8)


def error_on(look: AffineGrid | Look, edit, seed: int = 99) -> float:
    unseen = photo(seed)
    made, wanted = (picture.reshape(-1, 3) / np.float32(255) for picture in (look.apply(unseen), edit(unseen)))
    return float(delta_e(made, wanted).mean())


def save(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(picture).save(path, quality=95)
    return path


# ---------------------------------------------------------------- the fit


def test_the_metric_is_delta_e_2000_for_small_differences():
    rng = np.random.default_rng(0)
    colours = rng.uniform(0.1, 0.9, (2000, 3)).astype(np.float32)
    step = rng.normal(0, 0.002, (2000, 3)).astype(np.float32)
    linear = np.linalg.norm(np.einsum("nij,nj->ni", metric(colours), step), axis=1)
    assert np.median(np.abs(linear / delta_e(colours, colours + step) - 1)) < 0.15


def test_a_fixed_edit_is_found_from_one_pair_and_from_several():
    before = error_on(AffineGrid.identity(), warm_fade)
    one = look_from_pairs([(photo(0), warm_fade(photo(0)))])
    five = look_from_pairs([(photo(seed), warm_fade(photo(seed))) for seed in range(5)])
    assert before > 5 and error_on(one.look, warm_fade) < 2.5 and error_on(five.look, warm_fade) < 1.2
    assert five.error.mean < 1.2 and five.error.mean < five.error.p95
    assert five.fit.unexplained < 0.2 and "more than one look can hold" in five.summary and not five.notes


def test_the_look_does_what_was_fitted_to_the_most_saturated_colours_too():
    rng = np.random.default_rng(0)
    before = np.concatenate([rng.random((4000, 3)), rng.integers(0, 2, (200, 3))]).astype(np.float32)
    after = np.clip(before**1.3 * [0.8, 0.9, 0.7] + 0.05, 0, 1).astype(np.float32)
    fitted = fit_pixels(Pixels(before, after, np.zeros(4200, np.int64), np.ones(4200, np.float32)))
    # Of one fold, what is held back is what was fitted.
    applied = delta_e(fitted.look.apply(before[None])[0], after)
    assert np.abs(applied - fitted.held_back).max() < 0.02


def more_vibrance(picture: np.ndarray) -> np.ndarray:
    """Pale colours gain more saturation than strong ones: no matrix does that."""
    unit = picture / 255
    luma = (unit @ [0.2126, 0.7152, 0.0722])[..., None]
    chroma = np.abs(unit - luma).max(2, keepdims=True)
    return to_bytes(luma + (unit - luma) * (1 + 0.8 * np.exp(-6 * chroma)))


def test_an_edit_that_tells_pale_from_strong_colours_is_followed():
    pairs = [(photo(seed), more_vibrance(photo(seed))) for seed in range(8)]
    found = look_from_pairs(pairs)
    assert error_on(found.look, more_vibrance) < 0.5 * error_on(AffineGrid.identity(), more_vibrance)


@pytest.mark.parametrize(
    "edit",
    [lambda p: np.repeat(to_bytes((p / 255 @ [0.3, 0.6, 0.1])[..., None]), 3, 2), lambda p: 255 - p],
    ids=["black-and-white", "inverted"],
)
def test_black_and_white_and_negatives_are_looks(edit):
    assert error_on(fit_look([(photo(seed), edit(photo(seed))) for seed in (0, 1)]), edit) < 2


def test_crop_and_scale_are_undone():
    edited = PIL.Image.fromarray(warm_fade(photo(0))[10:150, 20:230]).resize((180, 120), PIL.Image.Resampling.LANCZOS)
    found = look_from_pairs([(photo(0), edited)])
    assert error_on(found.look, warm_fade) < 3


def test_a_local_edit_is_left_out_and_told():
    edited = warm_fade(photo(0))
    edited[40:90, 40:110] = [250, 40, 200]
    found = look_from_pairs([(photo(0), edited)])
    assert error_on(found.look, warm_fade) < 3
    assert any("of the pixels were edited unlike the rest" in note for note in found.notes)


def test_an_edit_that_depends_on_the_photo_is_told_to_be_one():
    levels = (0.4, 1.0, 1.8, 0.7, 1.4, 0.5)
    pairs = [(photo(n), to_bytes(photo(n) / 255 * level + 0.05)) for n, level in enumerate(levels)]
    found = look_from_pairs(pairs)
    assert found.fit.unexplained > 0.25 and "depends on the photo" in found.summary


def cross_processed(picture: np.ndarray) -> np.ndarray:
    """Film in the chemistry of another kind: each channel its own steep curve."""
    red, green, blue = np.moveaxis(picture / 255, 2, 0)
    return to_bytes(np.stack([red**0.7, 0.5 - 0.5 * np.cos(np.pi * green), 0.2 + 0.6 * blue], 2))


def test_cross_processing_is_a_look():
    found = look_from_pairs([(photo(seed), cross_processed(photo(seed))) for seed in range(4)])
    assert error_on(found.look, cross_processed) < 2 and not found.adapts


def tone_mapped(picture: np.ndarray) -> np.ndarray:
    """What merging exposures does: every part of the picture is brought to the same light."""
    light = uniform_filter(picture.mean(2) / 255, 41)
    return to_bytes(picture / 255 * (0.5 / (light + 0.1))[..., None])


def darkened_half(picture: np.ndarray) -> np.ndarray:
    """A heavy local edit: half of the picture under a dark blue filter."""
    edited = warm_fade(picture)
    edited[:, : picture.shape[1] // 2] = edited[:, : picture.shape[1] // 2] * [0.3, 0.3, 0.5]
    return edited


@pytest.mark.parametrize("edit", [tone_mapped, darkened_half])
def test_what_depends_on_the_place_is_told_to_do_so(edit):
    found = look_from_pairs([(example("horses"), edit(example("horses")))])
    assert found.adapts and "depends on the place: no one look can hold it" in found.summary


def test_a_photo_whose_lens_was_corrected_is_refused_in_one_line():
    picture = example("memorial")
    height, width = picture.shape[:2]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    bent = 1 + 0.06 * (x * x + y * y - 1)
    places = [(y * bent + 1) / 2 * (height - 1), (x * bent + 1) / 2 * (width - 1)]
    straight = np.stack([map_coordinates(picture[..., k], places, order=1, mode="nearest") for k in range(3)], 2)
    with pytest.raises(PairError, match="^before 1 and after 1 were straightened or warped"):
        fit_look([(picture, warm_fade(straight))])


def test_deep_pairs_in_another_colour_space_tell_of_the_same_look():
    edited = warm_fade(photo(0))
    deep = [side.astype(np.uint16) * 257 for side in (photo(0), edited)]
    wide = [imagecodecs.cms_transform(side, SRGB, ADOBE_RGB, colorspace="rgb", outcolorspace="rgb") for side in deep]
    found = fit_look([tuple(Photo(side, icc_profile=ADOBE_RGB) for side in wide)])
    plain = fit_look([(photo(0), edited)])
    unseen = photo(99)
    assert np.abs(found.apply(unseen).astype(int) - plain.apply(unseen)).mean() < 1.5


def test_a_table_is_held_where_it_is_nearer_and_not_where_it_is_not():
    rng = np.random.default_rng(0)
    levels = [picture_at(photo(n), level) for n, level in enumerate(rng.uniform(0.4, 1.8, 6))]
    fixed = look_from_pairs([(photo(seed), more_vibrance(photo(seed))) for seed in range(6)])
    adaptive = look_from_pairs([(photo(n), level) for n, level in enumerate(levels)])
    assert fixed.has_table and fixed.look.table is not None
    assert not adaptive.has_table and adaptive.look.table is None
    assert error_on(fixed.look, more_vibrance) < 0.9 * error_on(fixed.look.grid, more_vibrance)


def picture_at(picture: np.ndarray, level: float) -> np.ndarray:
    return to_bytes(picture / 255 * level)


def test_what_is_told_of_a_look_is_what_it_does_to_photos_it_has_not_seen():
    found = look_from_pairs([(photo(seed), warm_fade(photo(seed))) for seed in range(8)])
    unseen = np.mean([error_on(found.look, warm_fade, seed) for seed in range(90, 96)])
    assert 0.6 < found.error.mean / unseen < 1.6


# ---------------------------------------------------------------- pairs among pairs


def test_a_swapped_pair_is_turned_and_a_contradicting_one_left_out():
    pairs = [(photo(seed), warm_fade(photo(seed))) for seed in range(7)]
    pairs[2] = pairs[2][::-1]
    pairs[5] = (photo(5), other_edit(photo(5)))
    found = look_from_pairs(pairs)
    assert len(found.names) == 6 and error_on(found.look, warm_fade) < 1.2
    assert any("before 3 and after 3 came the wrong way round" in note for note in found.notes)
    assert any(note.startswith("left out: before 6 and after 6, edited unlike") for note in found.notes)


def test_one_pair_of_hundreds_that_contradicts_is_found():
    rng = np.random.default_rng(0)
    samples = [(colours, 0.6 * colours + 0.2) for colours in rng.random((300, 60, 3)).astype(np.float32)]
    samples[150] = (samples[150][0], samples[150][0] ** 3)
    assert [n for n, verdict in enumerate(verdicts(samples)) if verdict is Verdict.CONTRADICTS] == [150]


def test_two_pairs_are_not_judged():
    samples = [(photo(0)[0] / np.float32(255),) * 2, (photo(1)[0] / np.float32(255), photo(2)[0] / np.float32(255))]
    assert verdicts(samples) == [Verdict.AGREES] * 2


def test_pairs_that_cannot_be_used_are_refused_in_one_line():
    with pytest.raises(PairError, match="are the same picture: there is no edit to learn$"):
        fit_look([(photo(0), photo(0))])
    with pytest.raises(PairError, match="before 1 and after 1 do not show the same"):
        fit_look([(photo(0), photo(1))])
    with pytest.raises(PairError, match="got none"):
        fit_look([])
    found = look_from_pairs([(photo(0), warm_fade(photo(0))), (photo(1), photo(2))])
    assert len(found.names) == 1 and found.notes[0].startswith("left out: before 2 and after 2 do not show")
    assert list(found.left_out) == ["before 2 and after 2"]


def test_a_file_that_cannot_be_opened_is_left_out_of_many_and_ends_the_only_one(tmp_path):
    good = save(tmp_path / "a.png", photo(0)), save(tmp_path / "a-edit.png", warm_fade(photo(0)))
    (tmp_path / "b.jpg").write_bytes(b"no photo")
    bad = good[0], tmp_path / "b.jpg"
    found = look_from_pairs([good, bad])
    assert len(found.names) == 1 and "b.jpg: it is not a" in found.notes[0]
    with pytest.raises(PhotoError, match="cannot open .*b.jpg"):
        fit_look([bad])


def test_folders_are_paired_by_name_and_the_rest_named_once(tmp_path):
    for name in ("a.jpg", "b.jpg", "lonely.jpg"):
        save(tmp_path / "before" / name, photo(0))
    for name in ("a-edit.jpg", "b.png", "other.jpg"):
        save(tmp_path / "after" / name, photo(0))
    pairs, notes = pairs_of_folders(tmp_path / "before", tmp_path / "after")
    assert [(one.name, other.name) for one, other in pairs] == [("a.jpg", "a-edit.jpg"), ("b.jpg", "b.png")]
    assert len(notes) == 1 and "lonely.jpg" in notes[0] and "other.jpg" in notes[0]
    with pytest.raises(PairError, match="has a retouched version of its name"):
        pairs_of_folders(tmp_path / "before", tmp_path)


# ---------------------------------------------------------------- the command


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for seed in range(3):
        save(tmp_path / "before" / f"{seed}.jpg", photo(seed))
        save(tmp_path / "after" / f"{seed}.jpg", warm_fade(photo(seed)))
    return tmp_path


def look(*arguments: object) -> int:
    return main(["look", *map(str, arguments)])


def test_the_command_writes_a_look_and_tables_that_apply(folders, capsys):
    out, cube, hald = (folders / name for name in ("out.safetensors", "out.cube", "out.png"))
    assert look(folders / "before", folders / "after", "-o", out, "--cube", cube, "--haldclut", hald) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(cube), str(hald), str(out)]
    assert "Delta E 2000 on held-back pairs of 3" in said.err
    assert error_on(Look.load(out), warm_fade) < 1.5
    assert "the edits of 3 photos" in cube.read_text()[:200] and PIL.Image.open(hald).size == (125, 125)
    assert main(["retouch", str(folders / "before" / "0.jpg"), "-o", str(folders / "r.jpg"), "--look", str(out)]) == 0


def test_a_look_that_makes_grey_still_does_so_weakened_and_is_nothing_at_none():
    photo = scene(1)
    look = fit_look([(photo, photo // 2 + 40)]).grid
    grey = look.neutral()
    assert np.ptp(at_strength(grey, 0.5).apply(photo), axis=2).max() == 0
    assert np.array_equal(at_strength(grey, 0.0).apply(photo), photo)
    assert not at_strength(look, 0.5).is_neutral


def test_strength_is_held_by_the_look(folders):
    files = folders / "before" / "0.jpg", folders / "after" / "0.jpg"
    assert look(*files, "-o", folders / "full.safetensors") == 0
    assert look(*files, "-o", folders / "half.safetensors", "--strength", "0.5") == 0
    full, half = (Look.load(folders / f"{name}.safetensors") for name in ("full", "half"))
    assert np.abs(full.apply(photo(0), 0.5).astype(int) - half.apply(photo(0))).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["before/0.jpg", "after/0.jpg", "before/1.jpg", "-o", "x.safetensors"], "have to come in pairs"),
        (["before", "after/0.jpg", "-o", "x.safetensors"], "two photos or two folders"),
        (["before/0.jpg", "before/0.jpg", "-o", "x.safetensors"], "are the same picture"),
        (["before/0.jpg", "after/1.jpg", "-o", "x.safetensors"], "do not show the same"),
        (["before/0.jpg", "missing.jpg", "-o", "x.safetensors"], "cannot open missing.jpg"),
        (["before/0.jpg", "after/0.jpg", "-o", "x.jpg"], "`output` has to end in .safetensors"),
        (["before/0.jpg", "after/0.jpg", "-o", "no/x.safetensors"], "there is no folder no"),
        (["before/0.jpg", "after/0.jpg", "-o", "there.safetensors"], "exists; choose another output"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(folders, monkeypatch, capsys, arguments, line):
    monkeypatch.chdir(folders)
    Path("there.safetensors").write_text("mine")
    files = sorted(folders.rglob("*"))
    assert look(*arguments) == 2
    said = capsys.readouterr()
    assert line in said.err and said.err.count("\n") == 1 and not said.out
    assert sorted(folders.rglob("*")) == files and Path("there.safetensors").read_text() == "mine"


def test_overwrite_replaces_a_look_whole_or_not_at_all(folders, monkeypatch):
    out = folders / "out.safetensors"
    out.write_text("old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    assert look(folders / "before" / "0.jpg", folders / "after" / "0.jpg", "-o", out, "--overwrite") == 2
    assert out.read_text() == "old" and len(list(folders.iterdir())) == 3
    monkeypatch.undo()
    assert look(folders / "before" / "0.jpg", folders / "after" / "0.jpg", "-o", out, "--overwrite") == 0
    assert Look.load(out).grid.coefficients.shape == (12, 8, 1, 1)


def test_a_haldclut_never_replaces_a_photo(folders, monkeypatch):
    shutil.copy(folders / "before" / "0.jpg", folders / "p.png")
    files = [folders / "p.png", folders / "after" / "0.jpg"]
    assert look(*files, "-o", folders / "x.safetensors", "--haldclut", files[0], "--overwrite") == 2
    assert not (folders / "x.safetensors").exists()
