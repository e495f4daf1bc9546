"""Modules by the names they had before the package had rooms: each still imports, with one DeprecationWarning.

    from diffretouch.lut import grid_to_lut     # warns, and gives diffretouch.look.lut's

All of this goes with version 0.2, but for `convert`: pipelines that run as remote code of models saved before reach
`from_stable_diffusion` by that name. Otherwise saved models and looks name no module of the package.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

_ROOT = __package__ or "diffretouch"

# Old module -> where its names are now; the first of them is the one to use.
MOVED: dict[str, tuple[str, ...]] = {
    "baselines": ("evaluation.baselines", "tables"),
    "card": ("hub.card", "hub.folders", "hub.curve"),
    "cli": ("commands.cli", "commands.arguments"),
    "convert": (
        "hub.convert",
        "hub.stable_diffusion",
        "hub.checkpoint_files",
        "hub.architecture",
        "hub.published_layout",
    ),
    "data.commands": ("commands.dataset",),
    "engine_ray": ("batch.engine_ray",),
    "evaluation_report": ("evaluation.report",),
    "fast_apply": ("look.fast_apply",),
    "fast_gamut": ("photo.fast_gamut",),
    "lora_diffretouch": ("model.lora_diffretouch",),
    "lut": ("look.lut",),
    "metrics": ("evaluation.metrics",),
    "modeling_affine_grid": ("model.modeling_affine_grid",),
    "modeling_latent_codec": ("model.modeling_latent_codec",),
    "niqe": ("evaluation.niqe",),
    "pipeline_diffretouch": ("model.pipeline_diffretouch",),
    "plan": ("batch.plan",),
    "quick_start": ("commands.quick_start",),
    "sheets": ("batch.sheets",),
}

# Modules that are rooms now -> the names they had, and where each is.
MOVED_NAMES: dict[str, dict[str, str]] = {
    "batch": {
        "COMPARE_SIZE": "batch.retouch",
        "Record": "batch.report",
        "Records": "batch.loop",
        "Report": "batch.report",
        "Retoucher": "batch.retouch",
        "Settings": "batch.settings",
        "Stopped": "batch.retouch",
        "first_line": "batch.delivery",
        "load_pipeline": "batch.retouch",
        "retouch_files": "batch.loop",
        "retouch_photo": "batch.retouch",
        "run_threads": "batch.loop",
        "stamp": "batch.report",
        "torch_threads": "batch.loop",
    },
    "evaluation": {
        "BOOTSTRAP_SAMPLES": "evaluation.summarise",
        "COLUMNS": "evaluation.photos",
        "DEAD_SLIDER": "evaluation.summarise",
        "DEFAULT_SEED": "evaluation.one_photo",
        "MONOTONE_TOLERANCE": "evaluation.summarise",
        "NUM_DIVERSITY_SEEDS": "evaluation.one_photo",
        "NUM_SHOWN": "evaluation.measure",
        "NUM_VARIANTS": "evaluation.one_photo",
        "POSITIONS": "evaluation.one_photo",
        "SHOWN_SIDE": "evaluation.one_photo",
        "SPEED_REPEATS": "evaluation.one_photo",
        "SPEED_SIDE": "evaluation.one_photo",
        "TEXT": "evaluation.measure",
        "TITLES": "tables",
        "Table": "tables",
        "WORSE": "tables",
        "describe": "tables",
        "evaluate": "evaluation.measure",
        "evenly_spaced": "evaluation.measure",
        "format_table": "tables",
        "is_monotone": "evaluation.summarise",
        "notes": "tables",
        "predict_grids": "evaluation.one_photo",
        "save_json": "files",
        "spearman": "evaluation.summarise",
        "tables": "tables",
        "text_pictures": "evaluation.one_photo",
        "variant_seeds": "evaluation.one_photo",
        "view_scores": "evaluation.one_photo",
    },
    "hub": {
        "HubError": "hub.upload",
        "export": "hub.upload",
        "model_card": "hub.card",
        "push": "hub.upload",
        "write_model_card": "hub.card",
    },
}


def serve_old_names() -> None:
    """Let `import` find the modules of `MOVED`; asked last, so that it costs nothing else anything."""
    sys.meta_path.append(_OldModules)  # type: ignore[arg-type]


def old_names(room: str) -> Callable[[str], Any]:
    """`__getattr__` for a room that was a module: gives the names it had."""
    names = MOVED_NAMES[room.removeprefix(f"{_ROOT}.")]

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        home = f"{_ROOT}.{names[name]}"
        found = getattr(import_module(home), name)
        _warn(f"{room}.{name}", f"{home}.{name}")
        setattr(sys.modules[room], name, found)  # `from ... import` asks twice
        return found

    return find


class _OldModules:
    """Finder and loader of the modules of `MOVED`."""

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        known = name.startswith(f"{_ROOT}.") and name.removeprefix(f"{_ROOT}.") in MOVED
        return ModuleSpec(name, cls) if known else None  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType | None:
        return None

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        homes = [f"{_ROOT}.{home}" for home in MOVED[module.__name__.removeprefix(f"{_ROOT}.")]]
        _warn(module.__name__, homes[0])

        def find(name: str) -> Any:
            if name == "__all__":
                return [known for home in homes for known in vars(import_module(home)) if not known.startswith("_")]
            for home in () if name.startswith("__") else homes:
                if hasattr(import_module(home), name):
                    return getattr(import_module(home), name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__getattr__ = find  # type: ignore[method-assign]

    @staticmethod
    def get_code(name: str) -> CodeType:
        """What `python -m` of an old name runs."""
        home = f"{_ROOT}.{MOVED[name.removeprefix(f'{_ROOT}.')][0]}"
        _warn(name, home)
        return compile(f"import runpy; runpy.run_module({home!r}, run_name='__main__', alter_sys=True)", name, "exec")


def _warn(old: str, new: str) -> None:
    import warnings

    # The caller's caller: Python leaves out its own frames of an import.
    warnings.warn(f"{old} is {new} now; the old name goes with version 0.2.", DeprecationWarning, stacklevel=3)
