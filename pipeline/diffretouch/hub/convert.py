"""Bridges between this library's pipeline folders and the published checkpoint layout.

    convert_checkpoint_to_folder("official.ckpt", "my-model")        # published layout -> pipeline folder, streaming
    convert_original_checkpoint("official.ckpt")                     # published layout -> pipeline in memory
    revert_to_original("my-model", "for-the-original-code.ckpt")     # and the way back, bit by bit

Converting is strict: every tensor of the file is used exactly once, has the shape the architecture asks for and is
finite, or nothing is converted and one error says what is wrong. Pickled code is never run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import save_file

from ..model.modeling_affine_grid import AffineGridHead
from ..model.pipeline_diffretouch import DiffRetouchPipeline
from .architecture import Shapes, components_from_shapes, hint, shapes_of
from .checkpoint_files import (
    DTYPES,
    PIPELINE_DEFAULTS,
    RECORD,
    VARIANCE_TYPES,
    check_choice,
    check_dtype,
    check_fits,
    file_in_one_piece,
    folder_in_one_piece,
    read_checkpoint,
    some_of,
    types_allowed,
    write_weights,
)
from .published_layout import SD_SCHEDULE, VAE, layout, schedule_buffers

VARIANTS = {"fp16": torch.float16, "bf16": torch.bfloat16}

# What a model card says of weights in a file that this library did not write.
_PUBLISHED = {
    "source": "a checkpoint in the layout of the DiffRetouch release",
    "license": "other",
    "license_name": "diffretouch-release-non-commercial",
    "notice": "The released weights are for non-commercial use only; the same holds for everything made from them.",
}

# The configuration fields that change what a model computes, and that the published layout fixes.
_MATTERS = {
    "unet": (
        "act_fn",
        "addition_embed_type",
        "attention_type",
        "center_input_sample",
        "class_embed_type",
        "cross_attention_norm",
        "dual_cross_attention",
        "flip_sin_to_cos",
        "freq_shift",
        "mid_block_scale_factor",
        "norm_eps",
        "norm_num_groups",
        "only_cross_attention",
        "resnet_skip_time_act",
        "resnet_time_scale_shift",
        "time_embedding_act_fn",
        "time_embedding_type",
        "timestep_post_act",
        "downsample_padding",
        "attention_head_dim",
        "resnet_out_scale_factor",
    ),
    "grid_head": (),
    "vae": ("act_fn", "norm_num_groups", "shift_factor", "latents_mean", "latents_std"),
}


def convert_original_checkpoint(
    path: str | os.PathLike[str],
    *,
    variance_type: str | None = None,
    dtype: torch.dtype | None = None,
    with_vae: bool = True,
    attention_head_dim: int | None = None,
) -> DiffRetouchPipeline:
    """Read a checkpoint of the published layout into a pipeline.

    The architecture (widths, layers, attention levels, context width, grid size, VAE widths) is read from the
    tensors' shapes. The weights stay mapped to the file until they are cast, moved or written to, so do not overwrite
    the file in place while the pipeline lives.

    Args:
        path: a `torch.save` file that holds `{"state_dict": ...}` or the state dict itself, or a .safetensors file.
        variance_type: "fixed_small" (models trained on FiveK) or "fixed_large" (on PPR10K): the variance of the
            ancestral sampler. None: what `revert_to_original` recorded in the file, else "fixed_small".
        dtype: floating type of the pipeline. None: as stored (the widest, where a file mixes them).
        with_vae: False leaves the VAE out, which retouching does not need; its tensors may then be missing.
        attention_head_dim: channels of one attention head, which no shape tells. None: what `revert_to_original`
            recorded, else Stable Diffusion's rule: with linear projections 64 for 320 base channels and base / 2 for
            smaller relatives, with 1x1-convolution projections (SD 1.x) 8 heads.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, needs unsafe unpickling, or does not hold exactly such a model.
    """
    check_choice("variance_type", variance_type, (None, *VARIANCE_TYPES))
    check_dtype(dtype)
    state, record = read_checkpoint(path)
    if not with_vae:
        state = {key: tensor for key, tensor in state.items() if not key.startswith(VAE)}
    components = components_from_shapes(shapes_of(state), record, with_vae, attention_head_dim)
    _fill(components, state, dtype)
    scheduler = _scheduler(variance_type or record.get("variance_type", "fixed_small"))
    settings = {"provenance": _PUBLISHED, **record.get("pipeline", {})}
    return DiffRetouchPipeline(scheduler=scheduler, **components, **settings)


def convert_checkpoint_to_folder(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    variance_type: str | None = None,
    dtype: torch.dtype | None = None,
    with_vae: bool = True,
    attention_head_dim: int | None = None,
    variants: Sequence[str] = (),
    max_shard_size: int | str = "1GB",
) -> None:
    """Convert a checkpoint of the published layout to a pipeline folder without holding a second copy of it.

    Beyond the mapped file at most one shard is in memory. The folder appears whole or not at all.

    Args:
        path, variance_type, dtype, with_vae, attention_head_dim: as in `convert_original_checkpoint`.
        folder: the pipeline folder to make; it must not exist, or be empty.
        variants: further copies of the weights for `from_pretrained(variant=...)`, out of "fp16" and "bf16".
        max_shard_size: bytes per weight file, as an int or like "500MB".

    Raises:
        FileExistsError: if `folder` holds something.
        FileNotFoundError, ValueError: as in `convert_original_checkpoint`.
    """
    for variant in variants:
        check_choice("variants", variant, tuple(VARIANTS))
    check_dtype(dtype)
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"`folder` has to be new or empty, got {target}.")
    pipeline = convert_original_checkpoint(
        path, variance_type=variance_type, with_vae=with_vae, attention_head_dim=attention_head_dim
    )
    with folder_in_one_piece(target) as partial:
        for name, model in _models(pipeline).items():
            model.save_config(partial / name)
            write_weights(model, partial / name, dtype or model.dtype, None, max_shard_size)
            for variant in variants:
                write_weights(model, partial / name, VARIANTS[variant], variant, max_shard_size)
        pipeline.scheduler.save_pretrained(partial / "scheduler")
        pipeline.save_config(partial)


def revert_to_original(
    pipeline: DiffRetouchPipeline | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    with_vae: bool = True,
) -> None:
    """Write a pipeline in the published layout; converting the file again gives the same model bit by bit.

    What the layout's shapes do not tell (heads per level, the VAE's scale, the sampler's variance, the pipeline's
    defaults) is recorded beside the tensors, where this library finds it and the original code does not look.

    Args:
        pipeline: a pipeline, or the folder or Hub id of one.
        path: a name ending in .safetensors gives that format, any other a `torch.save` of `{"state_dict": ...}`.
        dtype: floating type of the weights in the file. None: the pipeline's own; folders are loaded as float32.
        with_vae: False leaves the VAE out.

    Raises:
        ValueError: if the model is not of the published family, so that the layout cannot hold it, or `dtype` is too
            small for a weight.
    """
    check_dtype(dtype)
    source = pipeline if isinstance(pipeline, DiffRetouchPipeline) else DiffRetouchPipeline.from_pretrained(pipeline)
    components = _models(source)
    if not with_vae:
        components.pop("vae", None)
    _check_kinds(components)
    record = _record(source)
    state = {key: slot.tensor.cpu().reshape(slot.shape) for key, slot in layout(components).items()}
    _check_expressible(components, source.scheduler, shapes_of(state), record)
    if dtype is not None:
        check_fits(state, dtype)
        state = {key: tensor.to(dtype) for key, tensor in state.items()}
    state = {key: tensor.contiguous() for key, tensor in (state | schedule_buffers()).items()}
    with file_in_one_piece(Path(path)) as partial:
        if Path(path).suffix == ".safetensors":
            save_file(state, partial, metadata={"format": "pt", RECORD: json.dumps(record)})
        else:
            torch.save({"state_dict": state, RECORD: record}, partial)


def _fill(components: Mapping[str, ModelMixin], state: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> None:
    """Give every model its tensors, once all of them are accounted for."""
    slots = layout(components)
    schedule = schedule_buffers()
    expected = {key: slot.shape for key, slot in slots.items()} | shapes_of(schedule)
    _check_keys(expected, shapes_of(state))
    _check_values(state)
    _check_schedule(schedule, state)
    dtype = dtype or reduce(torch.promote_types, (state[key].dtype for key in slots))
    check_fits(state, dtype)
    for component, model in components.items():
        filled = {
            slot.name: state[key].to(dtype).reshape(slot.tensor.shape)
            for key, slot in slots.items()
            if slot.component == component
        }
        model.load_state_dict(filled, assign=True)
        model.eval()


def _check_keys(expected: Shapes, found: Shapes) -> None:
    misshapen = [
        f"{key} {found[key]} instead of {shape}" for key, shape in expected.items() if found.get(key, shape) != shape
    ]
    problems = {
        "missing": [key for key in expected if key not in found],
        "left over": [key for key in found if key not in expected],
        "of the wrong shape": misshapen,
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(keys)} {kind}: {some_of(keys)}" for kind, keys in problems.items() if keys)
        raise ValueError(
            f"`path` has to hold exactly one DiffRetouch model, got a file with tensors {listed}.{hint(found)}"
        )


def _check_values(state: Mapping[str, torch.Tensor]) -> None:
    others = [f"{key} ({tensor.dtype})" for key, tensor in state.items() if tensor.dtype not in DTYPES]
    if others:
        raise ValueError(f"`path` has to hold tensors of type {types_allowed()}, got {some_of(others)}.")
    broken = [key for key, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"`path` has to hold finite values, got NaN or infinite ones in {some_of(broken)}.")


def _check_schedule(schedule: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
    wrong = []
    for key, known in schedule.items():
        # Files cast to half precision carry their schedule in it, too.
        relative = max(1e-5, 4 * torch.finfo(state[key].dtype).eps)
        if not torch.allclose(state[key].float(), known, rtol=relative, atol=1e-7):
            wrong.append(key)
    if wrong:
        raise ValueError(f"`path` has to hold Stable Diffusion's noise schedule, got another in {some_of(wrong)}.")


def _scheduler(variance_type: str) -> DDPMScheduler:
    return DDPMScheduler(**SD_SCHEDULE, variance_type=variance_type, clip_sample=False)


def _models(pipeline: DiffRetouchPipeline) -> dict[str, Any]:
    return {name: model for name, model in pipeline.components.items() if isinstance(model, torch.nn.Module)}


def _check_kinds(components: Mapping[str, Any]) -> None:
    kinds = {"unet": UNet2DConditionModel, "grid_head": AffineGridHead, "vae": AutoencoderKL}
    for component, model in components.items():
        if not isinstance(model, kinds[component]):
            raise ValueError(
                f"`pipeline` has to have a `{component}` of class {kinds[component].__name__}, got "
                f"{type(model).__name__}.{' `with_vae=False` leaves it out.' if component == 'vae' else ''}"
            )
    if not isinstance(components["unet"].config.layers_per_block, int):
        raise ValueError("`pipeline` has to have a UNet with one number of layers for all levels, got several.")


def _record(pipeline: DiffRetouchPipeline) -> dict[str, Any]:
    config = pipeline.unet.config
    # Swapped in samplers know other variances, or none.
    variance_type = pipeline.scheduler.config.get("variance_type")
    record = {
        "heads": list(_per_level(config.attention_head_dim, config)),
        "sample_size": config.sample_size,
        "variance_type": variance_type if variance_type in VARIANCE_TYPES else "fixed_small",
        "pipeline": {name: pipeline.config[name] for name in PIPELINE_DEFAULTS},
    }
    if isinstance(pipeline.vae, AutoencoderKL):
        record["scaling_factor"] = pipeline.vae.config.scaling_factor
    return record


def _per_level(value: Any, config: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,) * len(config["block_out_channels"])


def _check_expressible(
    components: Mapping[str, Any], scheduler: Any, shapes: Shapes, record: Mapping[str, Any]
) -> None:
    """Raise unless the published layout rebuilds exactly these models."""
    try:
        rebuilt = components_from_shapes(shapes, record, "vae" in components, None)
    except ValueError as error:
        raise ValueError(f"`pipeline` has to be of the published family, got one that is not: {error}") from error
    expected = {key: slot.shape for key, slot in layout(rebuilt).items()}
    differing = [key for key in expected.keys() | shapes.keys() if expected.get(key) != shapes.get(key)]
    differing += [
        f"{component}.{field} = {model.config[field]}"
        for component, model in components.items()
        for field, value in rebuilt[component].config.items()
        if field in _MATTERS[component] and not _same(model.config[field], value, model.config)
    ]
    if scheduler.config.get("prediction_type", "epsilon") != "epsilon":
        differing.append(f"scheduler.prediction_type = {scheduler.config['prediction_type']}")
    known = schedule_buffers()["alphas_cumprod"]
    if scheduler.alphas_cumprod.shape != known.shape or not torch.allclose(
        scheduler.alphas_cumprod.cpu().float(), known, rtol=1e-5
    ):
        differing.append("scheduler with another noise schedule")
    if differing:
        raise ValueError(f"`pipeline` has to be of the published family, got one with {some_of(differing)}.")


def _same(one: Any, other: Any, config: Mapping[str, Any]) -> bool:
    if isinstance(one, (list, tuple)) or isinstance(other, (list, tuple)):
        return _per_level(one, config) == _per_level(other, config)
    return one == other
