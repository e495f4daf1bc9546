"""benchmarks/fuzz.py, corpus.py and the worker they share: mutants can be made again, and what goes wrong is found."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import makers
import numpy as np
import pytest
import tifffile

from diffretouch.photo import Photo, open_photo

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def loaded(name: str):
    spec = spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def worker(seconds: float, does: str):
    """A worker that does this with each request."""
    script = f"import json, os, sys, time\nfor line in sys.stdin:\n    request = json.loads(line)\n    {does}\n"
    return loaded("limits").Worker([sys.executable, "-S", "-c", script], seconds)


def test_a_worker_that_crashes_or_hangs_costs_one_request():
    answers = "print(json.dumps(request * 2), flush=True)"
    half = "print('[1', end='', flush=True) or sys.exit()"
    for does, outcome in (("os.abort()", "crashed"), ("time.sleep(600)", "hung"), (half, "crashed")):
        asked = worker(10, f"{does} if request == 'bad' else {answers}")
        assert asked.ask("good") == "goodgood"
        with pytest.raises(Exception, match=outcome):
            asked.ask("bad")
        assert asked.ask("good") == "goodgood"
        asked.close()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".heic", ".avif", ".jxl", ".dng"])
def test_mutants_are_made_again_by_their_number_and_most_differ(tmp_path, suffix):
    fuzz = loaded("fuzz")
    whole = fuzz._whole(suffix, tmp_path)
    assert fuzz.mutant(whole, 7) == fuzz.mutant(whole, 7)
    assert len({fuzz.mutant(whole, number) for number in range(20)}) > 15
    (tmp_path / f"whole{suffix}").write_bytes(whole)
    assert open_photo(tmp_path / f"whole{suffix}").pixels.shape == (32, 48, 3)


def test_the_fuzzer_tells_another_exception_from_a_refusal(tmp_path, monkeypatch):
    fuzz = loaded("fuzz")
    assert fuzz._tried(".tif", 0, tmp_path)[0] in ("opened", "refused")

    def broken(*_, **__):
        raise KeyError("a way out that is none")

    monkeypatch.setattr(fuzz, "open_photo", broken)
    assert fuzz._tried(".tif", 0, tmp_path)[0] == "KeyError"


def test_no_library_speaks_on_the_terminal_of_a_file_it_doubts(tmp_path):
    """In a process of its own: pytest takes what is logged or warned of."""
    picture = makers.png(np.asarray(makers.scene(1, 40, 30)))
    (tmp_path / "a.png").write_bytes(picture[:-20] + bytes([picture[-20] ^ 1]) + picture[-19:])
    cut = makers.exif(more={282: (5, 300), 283: (5, 300)})[:-40]
    (tmp_path / "b.jpg").write_bytes(makers.jpeg(makers.scene(1, 40, 30), exif=cut))
    script = """
import sys
from diffretouch.photo import PhotoError, open_photo
for name in sys.argv[1:]:
    try:
        open_photo(name)
    except PhotoError:
        print("refused", name[-5:])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.png"), str(tmp_path / "b.jpg")],
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("refused a.png\n", "")


def test_a_jpeg_of_a_camera_tells_its_resolution_by_exif(tmp_path):
    block = makers.exif(more={282: (5, 300), 283: (5, 150), 296: (3, 2)})
    (tmp_path / "a.jpg").write_bytes(makers.jpeg(makers.scene(1, 40, 30), exif=block))
    assert open_photo(tmp_path / "a.jpg").dpi == (300.0, 150.0)


def test_the_corpus_runner_finds_what_differs_and_counts_what_is_said(tmp_path, monkeypatch):
    corpus = loaded("corpus")
    pixels = np.asarray(makers.scene(1, 40, 30))
    (tmp_path / "a.jpg").write_bytes(makers.jpeg(makers.scene(1, 40, 30)))
    tifffile.imwrite(tmp_path / "b.tif", np.dstack((pixels, pixels[..., :1])), photometric="rgb", extrasamples=[0])
    (tmp_path / "c.png").write_bytes(b"no photo")
    outcomes = {
        name: corpus._one(str(tmp_path / name), str(tmp_path / f"{name}.png"))[0]
        for name in ("a.jpg", "b.tif", "c.png")
    }
    assert outcomes == {"a.jpg": "kept", "b.tif": "said", "c.png": "refused"}
    monkeypatch.setattr(corpus, "open_photo", lambda path: Photo(255 - open_photo(path).pixels, format="JPEG"))
    assert corpus._one(str(tmp_path / "a.jpg"), str(tmp_path / "d.png"))[0] == "differs"
