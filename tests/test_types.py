"""The package's types as a user sees them: a program of theirs passes `mypy --strict`, or is told what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import diffretouch

PROGRAM = """
import torch
from diffretouch import BUNDLED_MODEL, AffineGrid, AffineGridHead, DiffRetouchPipeline, open_photo, save_photo


def better(source: str, target: str) -> None:
    pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL)
    photo = open_photo(source)
    grid: AffineGrid = pipe(photo.model_view(), temperature=0.5, output_type="grid").grids[0]
    save_photo(photo.retouch(grid, strength=0.8), target)
    images, grids = pipe(photo.model_view(), 0.5, output_type="np", return_dict=False)
    grids[0].save("a.safetensors")
    pipe.load_lora_weights("me/my-style", adapter_name="mine")
    pipe.set_adapters(["mine"], [{"unet": {"down": 0.5}}])
    AffineGridHead()(torch.zeros(1, 4, 64, 64))
"""


def strict(program: str, folder: Path) -> str:
    (folder / "program.py").write_text(program, encoding="utf-8")
    where = {**os.environ, "MYPYPATH": str(Path(diffretouch.__file__).parents[1])}
    # Kept between runs: torch and diffusers alone take a minute.
    cache = Path(__file__).parents[1] / ".mypy_cache" / "of-a-user"
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), "program.py"]
    done = subprocess.run(command, cwd=folder, env=where, capture_output=True, text=True, timeout=900)
    return done.stdout + done.stderr


def test_a_users_program_passes_mypy_strict_and_a_wrong_one_does_not(tmp_path):
    assert "Success" in strict(PROGRAM, tmp_path)
    wrong = strict(PROGRAM.replace("temperature=0.5", "temprature=0.5"), tmp_path)
    assert "program.py:10: error" in wrong and "temprature" in wrong, wrong
