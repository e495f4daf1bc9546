"""The command line's quick start: what it leaves out stays out, what a retouch needs is all there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PHOTO = Path(__file__).parents[1] / "examples" / "photo.jpg"
HEAVY = ("peft", "scipy", "transformers", "sympy", "torch._dynamo")


def run(code: str) -> str:
    """What a fresh Python prints: an import is never undone, so this process cannot show it."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def quick() -> list[str]:
    """Lines printed by one process that starts quickly, retouches, and then goes on to other things."""
    code = f"""
import sys
from diffretouch.commands.quick_start import import_quickly
import_quickly("model.pipeline_diffretouch")
import numpy as np, torch
from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline
pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL)
pipe.set_progress_bar_config(disable=True)
pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
photo = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)
grid = pipe(photo, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="grid").grids[0]
print(grid.coefficients.double().sum().item())
print([name for name in {HEAVY} if name in sys.modules])
import scipy.stats, transformers
compiled = torch.compile(torch.nn.Linear(2, 2), backend="eager")
compiled(torch.ones(1, 2))
from diffusers.utils.torch_utils import is_compiled_module
print(is_compiled_module(compiled), is_compiled_module(torch.nn.Linear(2, 2)), torch._dynamo.__file__ is not None)
"""
    return run(code).splitlines()


def test_what_a_retouch_never_uses_is_not_imported(quick):
    assert quick[1] == "[]"


def test_the_retouch_is_the_same(quick):
    import numpy as np
    import torch

    from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline

    pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL)
    pipe.set_progress_bar_config(disable=True)
    photo = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)
    grid = pipe(photo, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="grid").grids[0]
    assert float(quick[0]) == pytest.approx(grid.coefficients.double().sum().item(), rel=1e-5)


def test_everything_left_out_can_still_be_imported_and_compiling_still_works(quick):
    assert quick[2] == "True False True"


def test_a_process_that_has_diffusers_keeps_its_adapters():
    code = """
import diffusers.utils
from diffretouch.commands.quick_start import import_quickly
import_quickly("model.pipeline_diffretouch")
import sys
print(diffusers.utils.is_peft_available(), "torch._dynamo" in sys.modules, None in sys.modules.values())
"""
    assert run(code) == "True True False\n"


def test_the_program_starts_quickly_and_a_caller_of_main_does_not(tmp_path):
    """Whether diffusers knows of peft after a run: not in a program of ours, but where another's process calls."""
    code = f"""
import sys
from diffretouch.commands.cli import main
output = {str(tmp_path / "sheet.jpg")!r}
arguments = ["variants", {str(PHOTO)!r}, "-o", output, "--steps", "1", "--width", "64"]
main(arguments)
import diffusers.utils
print(diffusers.utils.is_peft_available())
"""
    assert run(code).splitlines()[-1] == "True"
    code = code.replace("main(arguments)", "sys.argv[1:] = [*arguments, '--overwrite']\nmain()")
    assert run(code).splitlines()[-1] == "False"
