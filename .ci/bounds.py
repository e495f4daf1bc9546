"""Prove both ends of what pyproject.toml allows: `pip install .` without our pins, on every Python at hand.

python .ci/bounds.py                                    # Python 3.11, 3.12 and 3.13, lowest and highest
python .ci/bounds.py --python 3.11 --resolution lowest

Each end gets an environment of its own (uv resolves it: the lowest versions that pyproject.toml names, or the newest
of everything), does what the README promises, and is deleted. What was resolved is printed, so a bound that no
installer can reach shows. PyTorch from PyPI brings CUDA on Linux: an end takes up to 7 GB until it is deleted;
`UV_TORCH_BACKEND=cpu` takes PyTorch's CPU builds where their index can be reached. Not part of `make test`: it needs
an index, and its answer may change without a change of ours.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
ENDS = {"lowest": "lowest-direct", "highest": "highest"}
# What one machine can show: no cluster, no page, no opencv.
EXTRAS = ("c2pa", "fast", "jxl", "lora", "looks", "raw", "train")

# Photo files of every kind that is written, through the installed package.
FILES = """
import sys
import numpy as np
from diffretouch import BUNDLED_MODEL, AffineGrid, DiffRetouchPipeline, open_photo, save_photo

pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL)
photo = open_photo(sys.argv[1])
grid = pipe(photo.model_view(), temperature=0.5, contrast=0.3, output_type="grid").grids[0]
grid.save("again.safetensors")
assert np.array_equal(AffineGrid.load("again.safetensors").apply(photo.pixels), grid.apply(photo.pixels))
for suffix in ("jpg", "png", "webp", "tif", "avif", "heic", "jxl"):
    save_photo(photo.retouch(grid, strength=0.8), f"photo.{suffix}")
    assert open_photo(f"photo.{suffix}").pixels.shape == photo.pixels.shape, suffix
"""

# Content credentials, by a certificate of the tests' making.
SIGNED = """
import json
import sys
from pathlib import Path
sys.path.append(sys.argv[2])
import c2pa
from certificates import certificate, ec, write_signer
from diffretouch import Signer, open_photo, save_photo

authority = ec.generate_private_key(ec.SECP256R1())
root = certificate("Root", authority, "Root", authority, ca=True)
signer = Signer(*map(str, write_signer(Path(), authority, root)))
save_photo(open_photo(sys.argv[1]), "signed.jpg", signer=signer, source=sys.argv[1], done="nothing")
with open("signed.jpg", "rb") as file, c2pa.Reader("image/jpeg", file) as reader:
    assert json.loads(reader.json())["active_manifest"]
"""


def steps(python: Path) -> dict[str, list[str | Path]]:
    """What has to work, as command lines, in a folder of its own."""
    command, photo = python.with_name("diffretouch"), ROOT / "examples" / "photo.jpg"
    trainer = ROOT / "train_lora"
    return {
        "a retouch, its look and its .cube": [
            *(command, "retouch", photo, "-o", "better.jpg", "--overwrite"),
            *("--save-look", "look.safetensors", "--cube", "look.cube"),
        ],
        "the library, every file format": [python, "-c", FILES, photo],
        "content credentials": [python, "-c", SIGNED, photo, ROOT / "tests"],
        "a data set": [
            *(command, "dataset", "synthetic", ROOT / "examples", "-o", "data", "--num-inputs", "1"),
            *("--long-side", "96", "--validation", "0.2", "--test", "0.2", "--conditions", "linear"),
        ],
        "training": [
            *(python, trainer / "train_full.py", "--recipe", "smoke", "dataset=data", "output_dir=model"),
            *("max_train_steps=4", "checkpointing_steps=2", "validation_steps=4", "num_validation_photos=1"),
        ],
        "training a LoRA adapter": [
            *(python, trainer / "train_lora.py", "--recipe", "my_style", "dataset=data", "output_dir=style"),
            *("max_train_steps=4", "checkpointing_steps=2", "validation_steps=4", "num_validation_photos=1"),
        ],
        "a retouch with it": [command, "retouch", photo, "-o", "mine.jpg", "--lora", "style/final"],
    }


def run(line: list[str | Path], folder: Path, log: Path) -> bool:
    """Whether a command succeeds; what it says goes to `log`."""
    settings = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "2000"} | os.environ
    settings.pop("PYTHONPATH", None)  # the installed package is what is proved, not the checkout
    with log.open("a") as file:
        print("\n$", *line, file=file, flush=True)
        return subprocess.run(line, cwd=folder, env=settings, stdout=file, stderr=file).returncode == 0


def resolved(uv: str, python: Path) -> str:
    """The versions that came of it, of what pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(one for extra in EXTRAS for one in project["optional-dependencies"][extra])]
    names = {Requirement(one).name.lower().replace("_", "-") for one in named}
    listed = subprocess.run([uv, "pip", "freeze", "--python", python], capture_output=True, text=True, check=True)
    lines = (line for line in listed.stdout.splitlines() if line.partition("==")[0].lower() in names)
    return ", ".join(line.replace("==", " ") for line in lines)


def built(uv: str, work: Path) -> Path:
    """The wheel that the others install, made from a source distribution, as for an index."""
    subprocess.run([uv, "build", "--quiet", "--out-dir", work, ROOT], check=True)
    return next(work.glob("*.whl"))


def prove(uv: str, interpreter: str, end: str, wheel: Path, work: Path) -> bool:
    """Install and try one end on one interpreter; whether all of it works."""
    folder, log = work / f"{interpreter}-{end}", work / f"{interpreter}-{end}.log"
    folder.mkdir()
    python = folder / "env" / "bin" / "python"
    # What pyproject.toml names is asked for directly: for uv the lowest versions are those of direct requirements.
    install: list[str | Path] = [uv, "pip", "install", "--python", python, "--resolution", ENDS[end]]
    install += [wheel, "--requirements", ROOT / "pyproject.toml", *(f"--extra={extra}" for extra in EXTRAS)]
    install += ["--only-binary", ":all:"]  # a bound below the first wheel for a Python asks for a compiler
    started = time.monotonic()
    works = run([uv, "venv", "--python", interpreter, folder / "env"], folder, log) and run(install, folder, log)
    if works:
        print(f"Python {interpreter}, {end}: {resolved(uv, python)}", flush=True)
    failed = [name for name, line in steps(python).items() if not run(line, folder, log)] if works else ["install"]
    shutil.rmtree(folder)
    minutes = (time.monotonic() - started) / 60
    outcome = f"FAILED at {', '.join(failed)}" if failed else "works"
    print(f"Python {interpreter}, {end}: {outcome} ({minutes:.1f} min)", flush=True)
    if failed:
        print(*log.read_text().splitlines()[-25 * len(failed) :], sep="\n", flush=True)
    return not failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=PYTHONS, help="interpreters to try (default: %(default)s)")
    parser.add_argument("--resolution", nargs="+", default=list(ENDS), choices=list(ENDS))
    options = parser.parse_args()
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    if uv is None:
        parser.error("uv is needed: it comes with the extra `dev`")
    results, missing = [], []
    with tempfile.TemporaryDirectory(prefix="diffretouch-bounds-") as folder:
        work = Path(folder)
        wheel = built(uv, work)
        for interpreter in options.python:
            found = subprocess.run([uv, "python", "find", "--no-python-downloads", interpreter], capture_output=True)
            if found.returncode:
                missing.append(interpreter)
                continue
            results += [prove(uv, interpreter, end, wheel, work) for end in options.resolution]
    for interpreter in missing:
        print(f"Python {interpreter}: not on this machine, not tried")
    print(f"{sum(results)} of {len(results)} ends work")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
