"""DiffRetouch: expert-quality photo retouching with diffusion, steered by four sliders, at full resolution."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import moved as _moved
from .model import BUNDLED_MODEL

if TYPE_CHECKING:
    from .attributes import ATTRIBUTES, attribute_scores
    from .data.look_pairs import fit_look
    from .hub.stable_diffusion import pipeline_from_stable_diffusion
    from .hub.upload import export, push
    from .look.look import Look
    from .look.match import match_look
    from .model.modeling_affine_grid import AffineGrid, AffineGridHead
    from .model.modeling_latent_codec import FixedLatentCodec
    from .model.pipeline_diffretouch import DiffRetouchPipeline, DiffRetouchPipelineOutput
    from .photo import Photo, PhotoError, Signer, open_photo, save_photo

__version__ = "0.1.0"

# Imported on first use: torch and diffusers take seconds, which a mistyped command should not cost.
_HOMES = {
    "ATTRIBUTES": "attributes",
    "attribute_scores": "attributes",
    "AffineGrid": "model.modeling_affine_grid",
    "AffineGridHead": "model.modeling_affine_grid",
    "FixedLatentCodec": "model.modeling_latent_codec",
    "Photo": "photo",
    "PhotoError": "photo",
    "Signer": "photo",
    "open_photo": "photo",
    "save_photo": "photo",
    "DiffRetouchPipeline": "model.pipeline_diffretouch",
    "DiffRetouchPipelineOutput": "model.pipeline_diffretouch",
    "export": "hub.upload",
    "Look": "look.look",
    "fit_look": "data.look_pairs",
    "match_look": "look.match",
    "pipeline_from_stable_diffusion": "hub.stable_diffusion",
    "push": "hub.upload",
}

__all__ = [
    "ATTRIBUTES",
    "BUNDLED_MODEL",
    "AffineGrid",
    "AffineGridHead",
    "DiffRetouchPipeline",
    "DiffRetouchPipelineOutput",
    "FixedLatentCodec",
    "Look",
    "Photo",
    "PhotoError",
    "Signer",
    "attribute_scores",
    "export",
    "fit_look",
    "match_look",
    "open_photo",
    "pipeline_from_stable_diffusion",
    "push",
    "save_photo",
]

_moved.serve_old_names()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
