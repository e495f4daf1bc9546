"""What was saved before the package had rooms still loads: a model folder with its code of then, and a look.

Both were written by version 0.1.0 as it was before its modules moved: the folder by `export`, the look from `RAMP`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from diffretouch import AffineGrid, DiffRetouchPipeline

SAVED = Path(__file__).with_name("before_the_rooms")
RED, GREEN = np.meshgrid(np.linspace(0, 1, 24, dtype=np.float32), np.linspace(1, 0, 16, dtype=np.float32))
RAMP = np.stack([RED, GREEN, np.full_like(RED, 0.5)], axis=-1)


def test_a_model_folder_of_then_loads_with_the_package_and_gives_the_look_of_then():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        pipe = DiffRetouchPipeline.from_pretrained(SAVED / "model")
    generator = torch.Generator().manual_seed(3)
    grid = pipe(RAMP, temperature=0.7, generator=generator, output_type="grid").grids[0]
    then = AffineGrid.load(SAVED / "look.safetensors")
    torch.testing.assert_close(grid.coefficients, then.coefficients, rtol=0, atol=1e-5)
    np.testing.assert_allclose(grid.apply(RAMP), then.apply(RAMP), rtol=0, atol=1e-5)


def test_a_model_folder_of_then_loads_with_diffusers_alone_and_runs_the_code_that_lies_in_it(tmp_path):
    program = f"""
import json, sys
sys.modules["diffretouch"] = None  # as if it was not installed
import numpy as np, torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained({str(SAVED / "model")!r}, trust_remote_code=True)
photo = np.load({str(tmp_path / "ramp.npy")!r})
grid = pipe(photo, temperature=0.7, generator=torch.Generator().manual_seed(3), output_type="grid").grids[0]
np.save({str(tmp_path / "retouched.npy")!r}, grid.apply(photo))
print(json.dumps([type(pipe).__module__, type(pipe.grid_head).__module__]))
"""
    np.save(tmp_path / "ramp.npy", RAMP)
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stdout.splitlines()[-1])
    assert all(module.startswith("diffusers_modules.") for module in modules), modules
    then = AffineGrid.load(SAVED / "look.safetensors")
    np.testing.assert_allclose(np.load(tmp_path / "retouched.npy"), then.apply(RAMP), rtol=0, atol=1e-5)
