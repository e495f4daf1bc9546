"""`DiffRetouchPipeline`: photo and sliders in, retouched photo at full resolution out.

This file travels with every model on the Hub, so it imports nothing of the package but its neighbour
lora_diffretouch.py.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

from .lora_diffretouch import DiffRetouchLoraLoaderMixin

logger = logging.getLogger(__name__)

ATTRIBUTES = ("colorfulness", "brightness", "contrast", "temperature")
SLIDER_RANGE = 1.5
OUTPUT_TYPES = ("pil", "np", "pt", "grid", "latent")
BASES = ("photo", "decoded")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
CONDITIONING_RESIZES = ("nearest", "area")

_ROWS = 64  # of a photo converted at once, so that the intermediate result stays in the cache
_NUMPY_DTYPES = (np.uint8, np.uint16, np.float16, np.float32, np.float64)

# Modules of components whose code travels with a saved model, in the component's folder.
_REMOTE_MODULES = ("modeling_affine_grid", "modeling_latent_codec")

_HUB_OPTIONS = ("repo_id", "private", "token", "commit_message", "create_pr")


@dataclass
class DiffRetouchPipelineOutput(BaseOutput):
    """Output of `DiffRetouchPipeline`.

    Args:
        images: one retouched picture per photo and variant, photo-major: `images[i]` has the size of photo
            i // num_variants. A list of PIL pictures ("pil"); float32 in [0, 1], (N, H, W, 3) ("np") or (N, 3, H, W)
            ("pt") if all are of one size, else a list of (H, W, 3) or (3, H, W); the list of grids ("grid"); the
            loop's last latents (N, 4, h, w) ("latent").
        grids: the `AffineGrid` of every image: applies to any other photo, at any strength. None for "latent".
    """

    images: Any
    grids: list[Any] | None


def _are_middle(
    generator: torch.Generator | list[torch.Generator] | None, count: int, num_variants: int
) -> list[bool]:
    """Which of `count` pictures get the middle of the styles: the user has asked for no style in particular."""
    if isinstance(generator, list):
        return [one.initial_seed() == 0 for one in generator]
    first = generator is None or generator.initial_seed() == 0
    return [first and number % num_variants == 0 for number in range(count)]


def truncated_timesteps(num_inference_steps: int, first: int = 200, last: int = 999) -> list[int]:
    """The method's sampling timesteps, descending: `num_inference_steps` from `last` down to `first`.

    The chain never goes below `first`: the picture comes from the features of the last UNet call, and at low noise
    they carry no more style. One step means `first` alone. (Sampling section of the paper; published code.)

    Example:
        >>> truncated_timesteps(5)
        [999, 799, 600, 400, 200]
    """
    if num_inference_steps == 1:
        return [first]
    stride = (last - first) / (num_inference_steps - 1)
    timesteps, position = [], 0.0
    for _ in range(num_inference_steps):
        # The running float sum is the published rounding; a multiplication differs by one now and then.
        timesteps.append(first + round(position))
        position += stride
    return timesteps[::-1]


class DiffRetouchPipeline(DiffusionPipeline, DiffRetouchLoraLoaderMixin):
    """Expert retouching by diffusion, applied as an affine bilateral grid (DiffRetouch, arXiv 2407.03757).

    Args:
        unet: maps cat([z_t (4), photo (3)]) to the noise (4; or v, as the scheduler's `prediction_type` says) and the
            affine features (as many as the head reads, 4 as published), with c as one context token.
        scheduler: stock diffusers scheduler over the training timesteps; another one may be swapped in at any time.
        grid_head: `AffineGridHead`.
        vae: latent codec of the `AutoencoderKL` interface; only training and `base="decoded"` need it.
        default_num_inference_steps: what `num_inference_steps=None` means for this checkpoint.
        min_timestep: the lowest timestep that sampling visits, see `truncated_timesteps`.
        conditioning_size: side of the antialiased square view of the photo that the model sees.
        conditioning_resize: how that view becomes latent-sized, "nearest" or "area".
        attributes: order of the sliders in the context token, a list or names joined by commas; None = `ATTRIBUTES`.
        fast_timesteps: the timesteps of `fast_sampling`, descending, joined by commas; None = a fifth of the steps.
        noise_offset: how much of the initial noise is common to the whole picture, on top of the independent part, per
            latent channel. What a style does to a whole picture averages out in independent noise, so that few steps
            sample neighbours; this spreads seeds over more of the experts. 0 = as the method samples. Seed 0 goes
            without, see `generator`.
        provenance: what the weights were made from, for the model card and its licence: any of `source`, `base_model`,
            `license`, `license_name`, `license_link`, `notice`. None = trained from scratch with this project.

    Raises:
        TypeError, ValueError: if a component other than `vae` is missing, the parts do not fit together, or a default
            is not allowed.

    Example:
        >>> from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline, open_photo
        >>> pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL)
        >>> pipe.set_progress_bar_config(disable=True)
        >>> photo = open_photo("photo.jpg")
        >>> grid = pipe(photo.model_view(), brightness=0.5, output_type="grid").grids[0]
        >>> photo.retouch(grid, strength=0.8).pixels.shape
        (1080, 1920, 3)
    """

    model_cpu_offload_seq = "unet->grid_head->vae"
    _optional_components = ["vae"]
    _callback_tensor_inputs = ["latents"]

    unet: UNet2DConditionModel
    scheduler: SchedulerMixin
    # The class itself is not imported: remote code would load it twice and break isinstance checks.
    grid_head: Any
    vae: Any

    def __init__(
        self,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        grid_head: ModelMixin,
        vae: ModelMixin | None = None,
        default_num_inference_steps: int = 20,
        min_timestep: int = 200,
        conditioning_size: int = 512,
        conditioning_resize: str = "nearest",
        attributes: list | str | None = None,
        provenance: dict | None = None,
        fast_timesteps: str | None = None,
        noise_offset: float = 0.0,
    ):
        super().__init__()
        attributes = attributes.split(",") if isinstance(attributes, str) else list(attributes or ATTRIBUTES)
        _check_components(unet, scheduler, grid_head)
        _check_count("min_timestep", min_timestep, 0, scheduler.config.num_train_timesteps - 1)
        _check_count("conditioning_size", conditioning_size, 1, None)
        _check_number("noise_offset", noise_offset, 0, 10)
        if conditioning_resize not in CONDITIONING_RESIZES:
            raise ValueError(
                f"`conditioning_resize` has to be one of {CONDITIONING_RESIZES}, got {conditioning_resize!r}."
            )
        if not all(isinstance(text, str) for pair in (provenance or {}).items() for text in pair):
            raise ValueError(f"`provenance` has to be None or a dict of strings, got {provenance}.")
        named = isinstance(fast_timesteps, str) and re.fullmatch(r"\d+(,\d+)*", fast_timesteps)
        if fast_timesteps is not None and not named:
            raise ValueError(
                f"`fast_timesteps` has to be None or a string of integers joined by commas, got {fast_timesteps!r}."
            )
        if sorted(attributes) != sorted(ATTRIBUTES):
            raise ValueError(f"`attributes` has to be {ATTRIBUTES} in any order, got {attributes}.")
        self.register_modules(unet=unet, scheduler=scheduler, grid_head=grid_head, vae=vae)
        self.register_to_config(
            default_num_inference_steps=default_num_inference_steps,
            min_timestep=min_timestep,
            conditioning_size=conditioning_size,
            conditioning_resize=conditioning_resize,
            attributes=attributes,
            provenance=provenance,
            fast_timesteps=fast_timesteps,
            noise_offset=noise_offset,
        )

    @property
    def num_timesteps(self) -> int:
        """UNet calls of the last run."""
        return self._num_timesteps

    def fast_sampling(self) -> dict[str, Any]:
        """Arguments of a call for those who wait for it: `pipe(photo, **pipe.fast_sampling())`.

        With a checkpoint's `fast_timesteps` what they lose was measured before they were written into it; a fifth of
        the default steps, as any other checkpoint takes, was not.
        """
        if self.config.fast_timesteps is None:
            return {"num_inference_steps": math.ceil(self.config.default_num_inference_steps / 5)}
        return {"timesteps": [int(t) for t in self.config.fast_timesteps.split(",")]}

    @torch.no_grad()
    def __call__(
        self,
        image: Any,
        colorfulness: float | Sequence[float] = 0.0,
        brightness: float | Sequence[float] = 0.0,
        contrast: float | Sequence[float] = 0.0,
        temperature: float | Sequence[float] = 0.0,
        strength: float = 1.0,
        num_variants: int = 1,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        base: str = "photo",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, int, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> DiffRetouchPipelineOutput | tuple[Any, ...]:
        """Retouch photos; each keeps its own size.

        Args:
            image: PIL (8 bits per channel) | np (H, W, 3) or (B, H, W, 3), uint8, uint16 or float in [0, 1] | torch
                (3, H, W) or (B, 3, H, W) float in [0, 1] | a list of these, where a batch counts as its photos.
            colorfulness, brightness, contrast, temperature: what to ask of the expert, in [-1.5, 1.5]; the model is
                trained on [-1, 1], 0 asks for nothing in particular. One number, or a list or 1-D array of one per
                photo.
            strength: in [0, 2]: 0 = the photo itself, 1 = the full retouch; blends the grid with the identity.
            num_variants: different noise = different expert styles, per photo.
            num_inference_steps: UNet calls (a scheduler of second order makes 2 N - 1); None = this checkpoint's
                default.
            timesteps: explicit descending timesteps instead, for schedulers that accept them.
            generator: source of all noise. A list holds one per output image, and makes a batch equal single calls.
                One that was seeded with 0 gives the middle of the styles, `noise_offset` left out, as its first
                variant; so does none at all.
            latents: the initial noise (N, 4, h, w) instead of drawn one; taken as it is, without `noise_offset`.
            output_type: "pil" | "np" | "pt" | "grid" | "latent", see `DiffRetouchPipelineOutput`.
            base: "photo" applies the grid to the photo (the method); "decoded" returns the VAE-decoded z_0 at the
                photo's size instead (the paper's ablation without the grid; distorts texture, and shows rest noise
                with schedulers that neither accept timesteps nor report `pred_original_sample`).
            return_dict: False returns the tuple (images, grids).
            callback_on_step_end: called as (pipe, step, timestep, tensors) after each step; returns the tensors, which
                it may have replaced.
            callback_on_step_end_tensor_inputs: which of `_callback_tensor_inputs` it is given.

        Raises:
            TypeError, ValueError: naming the parameter, what is allowed and what came.
        """
        # 1. Check and unpack the inputs.
        photos = self._photos(image)
        steps = self.config.default_num_inference_steps if num_inference_steps is None else num_inference_steps
        sliders = {
            "colorfulness": colorfulness,
            "brightness": brightness,
            "contrast": contrast,
            "temperature": temperature,
        }
        self.check_inputs(
            photos,
            sliders,
            strength,
            num_variants,
            steps,
            timesteps,
            generator,
            latents,
            output_type,
            base,
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
        )
        device, dtype = self._execution_device, self.unet.dtype
        batch_size = len(photos) * num_variants

        # 2. What the UNet is told: the photo at latent size and the sliders as one context token.
        photo_latents = torch.cat([self.encode_photo(photo).to(device, dtype) for photo in photos])  # (P, 3, h, w)
        photo_latents = photo_latents.repeat_interleave(num_variants, 0)  # (N, 3, h, w)
        condition = self.encode_sliders(sliders, len(photos))  # (P, 1, 4)
        condition = condition.repeat_interleave(num_variants, 0).to(device, dtype)  # (N, 1, 4)

        # 3. The schedule and the initial noise.
        schedule = self._set_timesteps(steps, timesteps, device)
        latents = self.prepare_latents(batch_size, dtype, device, generator, latents, num_variants)  # (N, 4, h, w)

        # 4. Denoise; the affine features of the last call carry the retouch.
        step_kwargs = self._step_kwargs(generator)
        with self.progress_bar(total=len(schedule)) as progress_bar:
            for i, t in enumerate(schedule):
                unet_input = torch.cat([self.scheduler.scale_model_input(latents, t), photo_latents], dim=1)
                prediction = self.unet(unet_input, t, encoder_hidden_states=condition).sample  # (N, 8, h, w)
                output, features = prediction.split([latents.shape[1], prediction.shape[1] - latents.shape[1]], 1)
                step = self.scheduler.step(output, t, latents, **step_kwargs)
                latents = step.prev_sample
                if i == len(schedule) - 1:
                    # The chain ends here although t > 0: no further noise, and nothing left to remove.
                    latents = getattr(step, "pred_original_sample", latents)
                if callback_on_step_end is not None:
                    tensors = {"latents": latents}
                    chosen = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    latents = callback_on_step_end(self, i, t, chosen).pop("latents", latents)
                progress_bar.update()

        # 5. Predict the grids and apply them to the photos at their own size.
        grids = None
        if output_type == "latent":
            images: Any = latents
        else:
            grids = self._grids(features, unet_input, t, condition)
            if output_type == "grid":
                images = grids
            else:
                images = self._pictures(photos, grids, latents, strength, num_variants, output_type, base)

        self.maybe_free_model_hooks()
        if not return_dict:
            return (images, grids)
        return DiffRetouchPipelineOutput(images=images, grids=grids)

    def check_inputs(
        self,
        photos: list[Any],
        sliders: dict[str, Any],
        strength: float,
        num_variants: int,
        num_inference_steps: int,
        timesteps: Sequence[int] | None,
        generator: Any,
        latents: Any,
        output_type: str,
        base: str,
        callback_on_step_end: Any,
        callback_on_step_end_tensor_inputs: Sequence[str],
    ) -> None:
        """Raise TypeError or ValueError on the first argument of a call that is not allowed."""
        for name, value in sliders.items():
            _check_slider(name, value, len(photos))
        _check_number("strength", strength, 0, 2)
        _check_count("num_variants", num_variants, 1, None)
        prediction_type = getattr(self.scheduler.config, "prediction_type", None)
        if prediction_type not in PREDICTION_TYPES:
            kind = type(self.scheduler).__name__
            raise ValueError(
                f"`scheduler` has to predict one of {PREDICTION_TYPES}, got {kind} that predicts {prediction_type}."
            )
        most = self.scheduler.config.num_train_timesteps
        _check_count("num_inference_steps", num_inference_steps, 1, most - self.config.min_timestep)
        if timesteps is not None:
            self._check_timesteps(timesteps, most)
        batch_size = len(photos) * num_variants
        _check_generator(generator, batch_size)
        if latents is not None:
            shape = self._latent_shape(batch_size)
            if not isinstance(latents, torch.Tensor):
                raise TypeError(f"`latents` has to be a torch.Tensor, got {type(latents).__name__}.")
            if latents.shape != shape:
                raise ValueError(f"`latents` has to be of shape {shape}, got {tuple(latents.shape)}.")
            if not torch.isfinite(latents).all():
                raise ValueError("`latents` has to be finite, got NaN or infinite values.")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"`output_type` has to be one of {OUTPUT_TYPES}, got {output_type!r}.")
        if base not in BASES:
            raise ValueError(f"`base` has to be one of {BASES}, got {base!r}.")
        if base == "decoded" and self.vae is None:
            raise ValueError('`base` has to be "photo" for a pipeline without a `vae`, got "decoded".')
        if callback_on_step_end is not None and not callable(callback_on_step_end):
            kind = type(callback_on_step_end).__name__
            raise TypeError(f"`callback_on_step_end` has to be None or callable, got {kind}.")
        names = callback_on_step_end_tensor_inputs
        if not isinstance(names, (list, tuple)) or any(name not in self._callback_tensor_inputs for name in names):
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` has to be a list from {self._callback_tensor_inputs}, "
                f"got {names!r}."
            )

    def _check_timesteps(self, timesteps: Sequence[int], most: int) -> None:
        if "timesteps" not in inspect.signature(self.scheduler.set_timesteps).parameters:
            raise ValueError(
                f"`timesteps` has to be None for {type(self.scheduler).__name__}, which has a fixed spacing."
            )
        if not isinstance(timesteps, (list, tuple, np.ndarray, range)):
            raise TypeError(f"`timesteps` has to be a list of integers, got {type(timesteps).__name__}.")
        values = list(timesteps)
        integers = all(isinstance(t, (int, np.integer)) and not isinstance(t, bool) for t in values)
        inside = integers and values and all(0 <= t < most for t in values)
        if not inside or any(a <= b for a, b in zip(values[:-1], values[1:], strict=True)):
            raise ValueError(f"`timesteps` has to be descending integers in [0, {most - 1}], got {values}.")

    @staticmethod
    def _photos(image: Any) -> list[Any]:
        """Split `image` into single photos: PIL, np (H, W, 3) or torch (3, H, W), each checked."""
        photos: list[Any] = []
        for entry in image if isinstance(image, (list, tuple)) else [image]:
            is_batch = isinstance(entry, (np.ndarray, torch.Tensor)) and entry.ndim == 4
            photos.extend(entry if is_batch else [entry])
        if not photos:
            raise ValueError("`image` has to hold at least one photo, got none.")
        for photo in photos:
            _check_photo(photo)
        return photos

    def encode_photo(self, photo: Any) -> torch.Tensor:
        """One photo -> what the UNet sees of it, (1, 3, h, w) in [-1, 1]: the `photo_view` brought to latent size by
        `conditioning_resize`."""
        view = self.photo_view(photo)
        return F.interpolate(view, self._latent_shape(1)[2:], mode=self.config.conditioning_resize) * 2 - 1

    def photo_view(self, photo: Any) -> torch.Tensor:
        """One photo squashed to the antialiased square of `conditioning_size`, (1, 3, S, S) in [0, 1].

        As `image` it gives the grid of the photo itself: keep it instead of the photo to try other sliders and seeds.
        """
        return _view(_planes(photo), self.config.conditioning_size).clamp(0, 1)

    def encode_sliders(self, sliders: dict[str, Any], num_photos: int) -> torch.Tensor:
        """Sliders, one number or one per photo -> context tokens (P, 1, 4) in the checkpoint's order."""
        columns = []
        for name in self.config.attributes:
            value = sliders[name]
            columns.append([float(value)] * num_photos if _is_number(value) else [float(v) for v in value])
        return torch.tensor(columns).T[:, None]

    def prepare_latents(
        self,
        batch_size: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: torch.Tensor | None = None,
        num_variants: int = 1,
    ) -> torch.Tensor:
        """Initial noise (N, 4, h, w) on the scheduler's scale; arguments as of a call."""
        if latents is None:
            shape = self._latent_shape(batch_size)
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
            if self.config.noise_offset:
                common = randn_tensor((*shape[:2], 1, 1), generator=generator, device=device, dtype=dtype)
                common[_are_middle(generator, batch_size, num_variants)] = 0
                latents = latents + self.config.noise_offset * common
        return latents.to(device, dtype) * self.scheduler.init_noise_sigma

    def _latent_shape(self, batch_size: int) -> tuple[int, int, int, int]:
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return (batch_size, self.unet.config.in_channels - 3, height, width)

    def _set_timesteps(self, steps: int, timesteps: Sequence[int] | None, device: torch.device) -> torch.Tensor:
        most = self.scheduler.config.num_train_timesteps
        first = self.config.min_timestep
        if "timesteps" in inspect.signature(self.scheduler.set_timesteps).parameters:
            chosen = truncated_timesteps(steps, first, most - 1) if timesteps is None else [int(t) for t in timesteps]
            self.scheduler.set_timesteps(timesteps=chosen, device=device)
            chosen_timesteps = self.scheduler.timesteps
        else:
            chosen_timesteps = self._spaced_timesteps(steps, first, most, device)
        self._num_timesteps = len(chosen_timesteps)
        return chosen_timesteps

    def _spaced_timesteps(self, steps: int, first: int, most: int, device: torch.device) -> torch.Tensor:
        """The truncated chain for a scheduler that only knows its own spacing: the coarsest spacing of which `steps`
        stay at or above `first`, stopped there."""
        calls = (steps - 1) * self.scheduler.order + 1
        for spacing in range(steps, most + 1):
            self.scheduler.set_timesteps(spacing, device=device)
            visited = self.scheduler.timesteps[:calls]
            # Linear spacings are fractions: 199.8 is 200.
            if len(visited) == calls and round(float(visited[-1])) >= first:
                return visited
        kind = type(self.scheduler).__name__
        raise ValueError(f"`scheduler` has to visit {steps} training timesteps of at least {first}, {kind} does not.")

    def _step_kwargs(self, generator: Any) -> dict[str, Any]:
        accepted = inspect.signature(self.scheduler.step).parameters
        return {"generator": generator} if "generator" in accepted else {}

    def _grids(
        self, features: torch.Tensor, unet_input: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor
    ) -> list[Any]:
        """Affine features (N, C, h, w), the last call's input (N, 7, h, w) and timestep (), c (N, 1, 4) -> N grids."""
        head = self.grid_head
        # Components can differ in dtype, and in device when only some are offloaded; a head on "meta" has hooks that
        # fetch it to its input.
        device = features.device if head.device.type == "meta" else head.device
        inputs = (features, unet_input, timestep.expand(len(features)), condition[:, 0])
        return head.grids(head(*(tensor.to(device, head.dtype) for tensor in inputs)))

    def _pictures(
        self,
        photos: list[Any],
        grids: list[Any],
        latents: torch.Tensor,
        strength: float,
        num_variants: int,
        output_type: str,
        base: str,
    ) -> Any:
        pictures = []
        for i, grid in enumerate(grids):
            photo = photos[i // num_variants]
            if base == "decoded":
                pictures.append(_as_output(self._blend_decoded(photo, latents[i : i + 1], strength), output_type))
            elif output_type == "pil" and isinstance(photo, PIL.Image.Image):
                pictures.append(grid.apply(photo, strength))
            else:
                pictures.append(_as_output(grid.apply(_as_float(photo), strength), output_type))
        if output_type != "pil" and len({picture.shape for picture in pictures}) == 1:
            return np.stack(pictures) if output_type == "np" else torch.stack(pictures)
        return pictures

    def _blend_decoded(self, photo: Any, latents: torch.Tensor, strength: float) -> np.ndarray:
        """The picture that decoding z_0 (1, 4, h, w) gives, at the photo's size: (H, W, 3) in [0, 1]."""
        pixels = _as_float(photo)
        decoded = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor).sample  # (1, 3, h', w')
        resized = F.interpolate(decoded.float(), pixels.shape[:2], mode="bilinear", antialias=True)
        retouched = ((resized[0] + 1) / 2).permute(1, 2, 0).cpu().numpy()
        return np.clip(pixels + strength * (retouched - pixels), 0, 1)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Any:
        """As in diffusers: a pipeline over the components of another, without loading them again."""
        # diffusers hands a model on only where its very class is annotated, which this file cannot name.
        unnamed = {name: pipeline.components[name] for name in ("grid_head", "vae") if name in pipeline.components}
        return super().from_pipe(pipeline, **{**unnamed, **kwargs})

    @classmethod
    def from_stable_diffusion(cls, source: str | os.PathLike, **options: Any) -> DiffRetouchPipeline:
        """An untrained DiffRetouch made from a Stable Diffusion 1.x or 2.x folder or Hub id.

        Needs the installed package, not only the files beside a model. Options and details:
        `diffretouch.hub.convert.pipeline_from_stable_diffusion`.
        """
        # Not a relative import: diffusers would look for the module beside every model that travels with this file.
        return importlib.import_module("diffretouch.hub.convert").pipeline_from_stable_diffusion(source, **options)

    # The folder written by `save_pretrained` is self-contained: `model_index.json` names the code files that lie
    # beside the weights, so that diffusers alone loads it with `trust_remote_code=True`; with this package installed,
    # the same names are mapped back to the package's classes and no remote code runs.

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """As in diffusers; with `push_to_hub`, the folder is pushed with our model card, as by `push_to_hub`.

        Raises:
            ValueError: while adapters are loaded, whose layers would not load again.
        """
        self._check_unloaded()
        saving = {"safe_serialization": safe_serialization, "variant": variant}
        with_our_card = push_to_hub and _installed_package() is not None
        if with_our_card:
            pushing = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
        super().save_pretrained(
            str(save_directory),
            max_shard_size=max_shard_size,
            push_to_hub=push_to_hub and not with_our_card,
            **saving,
            **kwargs,
        )
        if with_our_card:
            repo_id = pushing.pop("repo_id", Path(save_directory).resolve().name)
            self.push_to_hub(repo_id, **saving, **pushing)

    def save_config(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)
        index = Path(save_directory) / self.config_name
        config = json.loads(index.read_text())
        config["_class_name"] = [__name__.rpartition(".")[2], type(self).__name__]
        # By Hub id, diffusers takes every list for the address of a component.
        config["attributes"] = ",".join(config["attributes"])
        for code in (type(self), DiffRetouchLoraLoaderMixin):
            _copy_code(code, Path(save_directory))
        for name, component in self.components.items():
            module = type(component).__module__.rpartition(".")[2]
            if module in _REMOTE_MODULES:
                config[name] = [module, type(component).__name__]
                _copy_code(type(component), Path(save_directory) / name)
        index.write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        loaded = super().load_config(*args, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        package = _installed_package()
        if package is None:
            return loaded  # diffusers finds the modules beside the weights
        if args and os.path.isdir(args[0]):
            _warn_of_other_code(Path(args[0]))
        for name, value in config.items():
            if isinstance(value, (list, tuple)) and value and value[0] in _REMOTE_MODULES:
                # Imported here because diffusers looks a component's library up among the imported modules.
                module = importlib.import_module(f"{package}.{value[0]}")
                config[name] = [module.__name__, value[1]]
        return loaded

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        config = super()._dict_from_json_file(json_file)
        if isinstance(config.get("_class_name"), list):
            config["_class_name"] = config["_class_name"][1]
        return config

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str | os.PathLike:
        """As in diffusers, and the root's code files too: the snapshot is then complete, also for diffusers alone."""
        try:
            folder = super().download(pretrained_model_name, **kwargs)
        except OSError as error:
            # Not being allowed to see a repository is reported as a failed connection, several causes deep.
            if isinstance(error.__cause__, RepositoryNotFoundError):
                raise OSError(
                    f"The Hub shows no model {pretrained_model_name} to this user: if it is private, log in with "
                    "`hf auth login` or pass `token`."
                ) from error
            raise
        where = {name: kwargs[name] for name in ("cache_dir", "token", "local_files_only") if name in kwargs}
        for code in (__file__, inspect.getfile(DiffRetouchLoraLoaderMixin)):
            with contextlib.suppress(EntryNotFoundError):
                hf_hub_download(pretrained_model_name, Path(code).name, revision=Path(folder).name, **where)
        return folder

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Push the self-contained folder with its model card; arguments as in diffusers, errors in one sentence."""
        package = _installed_package()
        if package is None:
            return super().push_to_hub(repo_id, **kwargs)
        return importlib.import_module("diffretouch.hub.upload").push(self, repo_id, **kwargs)


def _installed_package() -> str | None:
    """The package this file belongs to; None where it runs as a model's remote code."""
    package = __name__.rpartition(".")[0]
    return None if package.startswith("diffusers_modules") else package


def _warn_of_other_code(folder: Path) -> None:
    """Say so when the code that travels with a model is not the code that is about to run."""
    installed = Path(__file__).parent
    carried = [path for pattern in ("*.py", "*/*.py") for path in sorted(folder.glob(pattern))]
    differing = [
        str(path.relative_to(folder))
        for path in carried
        if (installed / path.name).is_file() and path.read_bytes() != (installed / path.name).read_bytes()
    ]
    if differing:
        logger.warning(
            "%s of the model in %s differ from the installed package, whose code is used: results may differ from its "
            "author's.",
            ", ".join(differing),
            folder,
        )


def _copy_code(cls: type, folder: Path) -> None:
    source = Path(inspect.getfile(cls))
    target = folder / source.name
    folder.mkdir(exist_ok=True)
    if not (target.exists() and target.samefile(source)):
        shutil.copyfile(source, target)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if not _is_number(value):
        raise TypeError(f"`{name}` has to be a number in [{low:g}, {high:g}], got {type(value).__name__}.")
    if not low <= value <= high:
        raise ValueError(f"`{name}` has to be a number in [{low:g}, {high:g}], got {value}.")


def _check_components(unet: Any, scheduler: Any, grid_head: Any) -> None:
    for name, component in (("unet", unet), ("scheduler", scheduler), ("grid_head", grid_head)):
        if component is None:
            raise ValueError(f"`{name}` has to be given, only `vae` is optional, got None.")
    channels = (unet.config.in_channels, unet.config.out_channels)
    latent_channels = channels[0] - 3
    allowed = (channels[0], latent_channels + grid_head.config.in_channels)
    if latent_channels < 1 or channels != allowed:
        raise ValueError(
            "`unet` has to take the latents and 3 photo channels and to return the latents and the grid head's "
            f"{grid_head.config.in_channels} features, got {channels[0]} channels in and {channels[1]} out."
        )


def _check_slider(name: str, value: Any, num_photos: int) -> None:
    if not isinstance(value, (list, tuple)) and not (isinstance(value, np.ndarray) and value.ndim == 1):
        _check_number(name, value, -SLIDER_RANGE, SLIDER_RANGE)
        return
    if len(value) != num_photos:
        raise ValueError(f"`{name}` has to be a number or one per photo ({num_photos}), got {len(value)} of them.")
    for entry in value:
        _check_number(name, entry, -SLIDER_RANGE, SLIDER_RANGE)


def _check_count(name: str, value: Any, least: int, most: int | None) -> None:
    allowed = f"an integer of at least {least}" if most is None else f"an integer in [{least}, {most}]"
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"`{name}` has to be {allowed}, got {type(value).__name__}.")
    if value < least or (most is not None and value > most):
        raise ValueError(f"`{name}` has to be {allowed}, got {value}.")


def _check_generator(generator: Any, batch_size: int) -> None:
    if generator is None:
        return
    for entry in generator if isinstance(generator, list) else [generator]:
        if not isinstance(entry, torch.Generator):
            kind = type(entry).__name__
            raise TypeError(f"`generator` has to be None, a torch.Generator or a list of them, got {kind}.")
    if isinstance(generator, list) and len(generator) != batch_size:
        raise ValueError(f"`generator` has to be one, or one per output image ({batch_size}), got {len(generator)}.")


def _check_photo(photo: Any) -> None:
    if isinstance(photo, PIL.Image.Image):
        if 0 in photo.size:
            raise ValueError(f"`image` has to be at least 1 x 1 pixels, got {photo.width} x {photo.height}.")
        if photo.mode[0] in "IF":  # Pillow would clip these to 8 bits without scaling
            raise ValueError(
                f"`image` has to be a PIL image of 8 bits per channel, got mode {photo.mode}: pass an array instead."
            )
        return
    if isinstance(photo, np.ndarray):
        allowed, shape = "(H, W, 3)", photo.ndim == 3 and photo.shape[-1] == 3
        kind = photo.dtype in _NUMPY_DTYPES
    elif isinstance(photo, torch.Tensor):
        allowed, shape = "(3, H, W)", photo.ndim == 3 and photo.shape[0] == 3
        kind = photo.is_floating_point()
    else:
        raise TypeError(
            "`image` has to be a PIL image, a numpy array, a torch tensor or a list of them, "
            f"got {type(photo).__name__}."
        )
    if not shape or 0 in photo.shape:
        raise ValueError(f"`image` has to be of shape {allowed}, or a batch of these, got {tuple(photo.shape)}.")
    if not kind:
        raise TypeError(f"`image` has to be uint8, uint16 (both numpy only) or float in [0, 1], got {photo.dtype}.")
    if isinstance(photo, torch.Tensor) or photo.dtype.kind == "f":
        low, high = float(photo.min()), float(photo.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("`image` has to be finite, got NaN or infinite values.")
        if low < 0 or high > 1:
            raise ValueError(f"`image` has to hold float values in [0, 1], got [{low:g}, {high:g}].")


def _planes(photo: Any) -> torch.Tensor:
    """A photo as a (1, 3, H, W) view in its own type."""
    if isinstance(photo, PIL.Image.Image):
        photo = np.array(photo if photo.mode == "RGB" else photo.convert("RGB"))
    if isinstance(photo, np.ndarray):
        # Torch cannot hold mirrored views, and warns of read-only ones.
        is_plain = photo.flags.writeable and min(photo.strides) >= 0
        photo = torch.from_numpy(photo if is_plain else photo.copy()).permute(2, 0, 1)
    return photo[None]


def _view(photo: torch.Tensor, size: int) -> torch.Tensor:
    """A photo (1, 3, H, W) squashed to the antialiased square that the model sees: (1, 3, size, size) in [0, 1]."""
    if not photo.is_floating_point() and min(photo.shape[2:]) >= 2 * size:
        # 40 times faster than in floats; the same but for the rounding of each pixel of the view to 8 bits.
        return _squashed(_as_8_bit(photo), size).float() / 255
    # One channel at a time: a whole float copy of a large photo would dominate peak memory.
    top = 1 if photo.is_floating_point() else torch.iinfo(photo.dtype).max
    return torch.cat([_squashed(channel[:, None].float() / top, size) for channel in photo.unbind(1)], dim=1)


def _squashed(pixels: torch.Tensor, size: int) -> torch.Tensor:
    if pixels.shape[-2:] == (size, size):
        return pixels
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)


def _as_8_bit(photo: torch.Tensor) -> torch.Tensor:
    """(1, 3, H, W) of 8 or 16 bits rounded to 8, pixel by pixel in memory."""
    if photo.dtype == torch.uint8:
        return photo
    pixels = photo[0].permute(1, 2, 0).numpy()
    rounded = np.empty(pixels.shape, np.uint8)
    for first in range(0, len(pixels), _ROWS):
        band = pixels[first : first + _ROWS]
        # value / 257 without leaving 16 bits: (value - value / 256 + 128) / 256.
        steps = band >> 8
        np.subtract(band, steps, out=steps)
        steps += 128
        steps >>= 8
        rounded[first : first + _ROWS] = steps
    return torch.from_numpy(rounded).permute(2, 0, 1)[None]


def _as_float(photo: Any) -> np.ndarray:
    """A photo as np (H, W, 3) float32 in [0, 1]."""
    if isinstance(photo, torch.Tensor):
        return photo.float().permute(1, 2, 0).cpu().numpy()
    if isinstance(photo, PIL.Image.Image):
        photo = np.asarray(photo.convert("RGB"))
    top = np.iinfo(photo.dtype).max if photo.dtype.kind == "u" else 1
    return photo.astype(np.float32) / np.float32(top)


def _as_output(picture: np.ndarray, output_type: str) -> Any:
    if output_type == "np":
        return picture
    if output_type == "pt":
        return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
    return PIL.Image.fromarray(np.round(picture * 255).astype(np.uint8))
