"""`diffretouch doctor`: what is installed, which extras, which fast paths are on, and what is missing."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from ..extras import MODULES, missing
from ..model import BUNDLED_MODEL

_NEEDED = (
    *(
        "torch",
        "diffusers",
        "accelerate",
        "safetensors",
        "huggingface_hub",
        "numpy",
        "PIL",
        "simplejpeg",
        "tifffile",
        "imagecodecs",
    ),
    "tqdm",
)
_DISTRIBUTIONS = {"PIL": "pillow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_doctor)


def _run_doctor(options: argparse.Namespace) -> int:
    """0, or 1 where something is missing that every retouch needs."""
    version = importlib.import_module("diffretouch").__version__  # by name: no room imports the house
    print(f"diffretouch {version}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    lines = [*_packages(), *_extras(), *_fast_paths()]
    for mark, text in lines:
        print(f"{mark:8}{text}")
    bad = [text for mark, text in lines if mark == "MISSING"]
    print("Everything that a retouch needs is there." if not bad else f"{len(bad)} missing that every retouch needs.")
    return 1 if bad else 0


def _packages() -> Iterator[tuple[str, str]]:
    """What every retouch needs, and the model."""
    for module in _NEEDED:
        name = _DISTRIBUTIONS.get(module, module)
        if missing([module]):
            yield "MISSING", f"{name}: pip install diffretouch"
        else:
            yield "ok", f"{name} {_version(name)}{_out_of_bounds(name)}"
    there = Path(BUNDLED_MODEL, "model_index.json").is_file()
    yield ("ok", "the bundled model") if there else ("MISSING", f"the bundled model: there is none in {BUNDLED_MODEL}")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _out_of_bounds(name: str) -> str:
    """What to say of a version that the package's metadata does not allow."""
    try:
        asked = metadata.requires("diffretouch") or []
        lower = [found[1] for line in asked if (found := re.match(rf"{name}>=([\d.]+)$", line, re.IGNORECASE))]
    except metadata.PackageNotFoundError:
        return ""
    if lower and _numbers(_version(name)) < _numbers(lower[0]):
        return f", older than the {lower[0]} that diffretouch is tested with: pip install -U {name}"
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _extras() -> Iterator[tuple[str, str]]:
    for extra, modules in MODULES.items():
        absent = missing(modules)
        if absent:
            yield "no", f"extra {extra}, without {', '.join(absent)}: pip install 'diffretouch[{extra}]'"
        else:
            yield "ok", f"extra {extra}"


def _fast_paths() -> Iterator[tuple[str, str]]:
    """What makes a retouch fast, on or off."""
    if missing(["torch", "diffusers", "PIL"]):
        return
    import torch
    from PIL import features

    compiled = importlib.import_module("..model.modeling_affine_grid", __package__).compiled_apply() is not None
    yield _switch(compiled, "compiled apply and wide-gamut colours", "pip install 'diffretouch[fast]'")
    yield _switch(bool(features.check_feature("libjpeg_turbo")), "libjpeg-turbo in Pillow", "a Pillow wheel has it")
    yield _switch(bool(features.check("avif")), "AVIF in Pillow", "a Pillow wheel has it")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    gpu = gpu or ("Apple's, by MPS" if torch.backends.mps.is_available() else "")
    yield ("on", f"GPU: {gpu}") if gpu else ("off", "GPU: none that torch can use; a retouch takes none")
    spin = os.environ.get("GOMP_SPINCOUNT", "not set: set it to 2000 on small machines")
    yield "ok", f"{torch.get_num_threads()} threads for torch, GOMP_SPINCOUNT {spin}"


def _switch(is_on: bool, what: str, how: str) -> tuple[str, str]:
    return ("on", what) if is_on else ("off", f"{what}: {how}")
