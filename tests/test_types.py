"""The package's types as a user's `mypy --strict` sees them: their program passes, or is told what is wrong.

Other packages are left out, so that it takes seconds, not minutes; whatever comes from them is anything then.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import diffretouch

CONFIG = "[mypy]\nstrict = true\nfollow_imports = skip\n[mypy-diffretouch.*]\nfollow_imports = silent\n"
PROGRAM = """
from diffretouch import BUNDLED_MODEL, AffineGridHead, DiffRetouchPipeline, open_photo, save_photo

pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL)
photo = open_photo("photo.jpg")
grid = pipe(photo.model_view(), temperature=0.5, output_type="grid").grids[0]
save_photo(photo.retouch(grid, strength=0.8), "better.jpg")
images, grids = pipe(photo.model_view(), 0.5, output_type="np", return_dict=False)
pipe.load_lora_weights("me/my-style", adapter_name="mine")
pipe.set_adapters(["mine"], [{"unet": {"down": 0.5}}])
AffineGridHead()(grids)
"""
WRONG = """
pipe(photo.model_view(), temprature=0.5)
pipe(photo.model_view(), return_dict=False).grids
DiffRetouchPipeline.from_pretrained(3)
open_photo(3)
"""


def test_a_users_program_passes_mypy_strict_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text(CONFIG)
    (tmp_path / "right.py").write_text(PROGRAM)
    (tmp_path / "wrong.py").write_text(PROGRAM + WRONG)
    where = {**os.environ, "MYPYPATH": str(Path(diffretouch.__file__).parents[1])}
    command = [sys.executable, "-m", "mypy", "right.py", "wrong.py"]
    done = subprocess.run(command, cwd=tmp_path, env=where, capture_output=True, text=True, timeout=600)
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    first = len(PROGRAM.splitlines()) + 2
    assert [line.partition(": ")[0] for line in errors] == [f"wrong.py:{first + number}" for number in range(4)], done
