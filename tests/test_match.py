"""Photos brought near to an example: look/match.py and `diffretouch match`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
import torch

from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline, match_look, open_photo
from diffretouch.commands.cli import main
from diffretouch.look.match import reference_tones, tones

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def pipe() -> DiffRetouchPipeline:
    pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def example(name: str) -> np.ndarray:
    """(h, w, 3) uint8, small."""
    picture = PIL.Image.open(EXAMPLES / f"{name}.jpg").convert("RGB")
    picture.thumbnail((320, 320))
    return np.array(picture)


def page() -> np.ndarray:
    """A page of text, scanned: paper that is not quite even or white."""
    picture = PIL.Image.new("RGB", (600, 800), (236, 233, 224))
    draw = PIL.ImageDraw.Draw(picture)
    for line in range(26):
        draw.text((60, 60 + 26 * line), "the quick brown fox jumps over the lazy dog " * 2, (30, 30, 40))
    noise = np.random.default_rng(0).normal(0, 2, (800, 600, 1))
    return np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)


REFUSED = {
    "white": (np.full((64, 64, 3), 255, np.uint8), "of which 100% is one colour"),
    "black": (np.zeros((64, 64, 3), np.uint8), "of which 100% is one colour"),
    "page": (page(), r"got a page or drawing: \d\d% is its paper"),
    "tiny": (np.zeros((40, 16, 3), np.uint8), "at least 32 pixels on a side, got 16 x 40"),
}


# ---------------------------------------------------------------- the distance


def test_the_distance_is_of_colours_and_not_of_where_they_are():
    photo = example("horses") / np.float32(255)
    shuffled = np.random.default_rng(0).permutation(photo.reshape(-1, 3)).reshape(photo.shape)
    assert tones(photo).distance(tones(shuffled)) == 0
    assert tones(photo).distance(tones(1 - photo)) == tones(1 - photo).distance(tones(photo)) > 10


def test_the_distance_sees_a_cast_that_leaves_lightness_alone():
    grey = np.full((8, 8, 3), 0.5, np.float32)
    warm = grey + np.float32([0.03, 0, -0.06])
    assert 3 < tones(grey).distance(tones(warm)) < 12


# ---------------------------------------------------------------- the search


def test_sliders_that_made_an_example_are_found_again(pipe):
    photo = example("horses")
    wanted = pipe(photo, brightness=-0.8, temperature=0.7, output_type="np").images[0]
    found = match_look(pipe, photo, wanted)
    assert found.after < 0.25 * found.before and found.after < 0.25 * found.middle and found.after < 1.5
    assert abs(found.sliders["brightness"] + 0.8) < 0.3 and abs(found.sliders["temperature"] - 0.7) < 0.3
    assert "which is near" in found.summary


def test_a_match_is_a_retouch_that_its_sliders_and_seed_ask_for(pipe):
    photo = example("horses")
    found = match_look(pipe, photo, example("photo"))
    assert found.strength == 1 and all(-1 <= value <= 1 for value in found.sliders.values())
    generator = [torch.Generator().manual_seed(found.seed)]
    (again,) = pipe(photo, **found.sliders, generator=generator, output_type="grid").grids
    assert torch.allclose(again.coefficients, found.grid.coefficients, atol=1e-4)
    assert found.after <= found.middle and found.closed == 1 - found.after / found.before > 0.1


def test_a_photo_that_is_the_example_stays_as_it_is(pipe):
    photo = example("horses")
    found = match_look(pipe, photo, photo)
    assert found.before == 0 and found.after < 0.01 and found.strength == 0 and found.closed == 1
    assert np.abs(found.grid.apply(photo).astype(int) - photo).max() <= 1


def test_what_no_expert_would_do_is_told_and_not_done(pipe):
    found = match_look(pipe, example("bee"), example("cinema"))
    assert found.after < 0.8 * found.before
    assert found.after > 10 and "not near: no expert goes that far; it stays " in found.summary


def test_a_black_and_white_photo_is_given_no_colour(pipe):
    grey = np.repeat(example("horses").mean(2, keepdims=True).astype(np.uint8), 3, axis=2)
    found = match_look(pipe, grey, example("cinema"))
    made = found.grid.apply(grey)
    assert found.sliders["colorfulness"] == found.sliders["temperature"] == 0
    assert (made == made[..., :1]).all() and found.after < found.before


@pytest.mark.parametrize("kind", REFUSED)
def test_a_reference_without_tones_is_refused(pipe, kind):
    picture, sentence = REFUSED[kind]
    with pytest.raises(ValueError, match=f"^`reference` has to .*{sentence}"):
        match_look(pipe, example("horses"), picture)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.jpg")), ids=lambda path: path.stem)
def test_a_photo_is_taken_for_none_of_these(pipe, path):
    reference_tones(pipe, open_photo(path).model_view())


# ---------------------------------------------------------------- the command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("horses", "photo"):
        PIL.Image.fromarray(example(name)).save(tmp_path / f"{name}.jpg")
    for kind, (picture, _) in REFUSED.items():
        PIL.Image.fromarray(picture).save(tmp_path / f"{kind}.png")
    (tmp_path / "text.jpg").write_text("no photo")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_retouches_and_says_how_near_it_came(folder, capsys):
    arguments = ["match", "photo.jpg", "horses.jpg", "-o", "out.png", "--save-look", "near.safetensors"]
    assert main([*arguments, "--report", "report.jsonl"]) == 0
    told = capsys.readouterr()
    assert told.out.split() == ["out.png", "near.safetensors"]
    assert "diffretouch: horses.jpg: matched by colorfulness " in told.err and "Delta E apart" in told.err
    record = json.loads((folder / "report.jsonl").read_text())
    assert record["match"]["delta_e"]["after"] < record["match"]["delta_e"]["before"]
    assert record["settings"]["match"] == "photo.jpg" and len(record["settings"]["fingerprints"]) == 2
    assert main(["retouch", "horses.jpg", "-o", "again.png", "--look", "near.safetensors"]) == 0
    assert (open_photo("again.png").pixels == open_photo("out.png").pixels).all()


@pytest.mark.parametrize(
    ("reference", "line"),
    [
        ("white.png", "cannot match white.png: `reference` has to be a photo, got a picture of which 100%"),
        ("page.png", "cannot match page.png: `reference` has to be a photo, got a page or drawing"),
        ("tiny.png", "cannot match tiny.png: `reference` has to have at least 32 pixels on a side, got 16 x 40."),
        ("text.jpg", "cannot match text.jpg: cannot open text.jpg"),
        ("missing.jpg", "cannot match missing.jpg: cannot open missing.jpg"),
    ],
)
def test_a_bad_reference_is_one_line_and_nothing_is_written(folder, capsys, reference, line):
    before = sorted(folder.iterdir())
    assert main(["match", reference, "horses.jpg", "photo.jpg", "-o", "out"]) == 2
    shown = [text.split("\r")[-1] for text in capsys.readouterr().err.split("\n")]  # a bar erases itself
    told = [text for text in shown if text.strip()]
    assert len(told) == 1 and told[0].startswith(f"diffretouch: {line}")
    assert sorted(folder.iterdir()) == before
