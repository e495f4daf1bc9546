"""`DiffRetouchPipeline`: photo and sliders in, retouched photo at full resolution out.

This file travels with every model on the Hub, so it imports nothing of the package but its neighbours; and all of
them, because diffusers brings along what this file itself names.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from .adapter_file_diffretouch import ADAPTER_FILE  # noqa: F401 (brought along for lora_diffretouch.py)
from .adapter_layers_diffretouch import AdapterLayersMixin  # noqa: F401
from .adapter_look_diffretouch import AdapterLook, features_at_rest
from .checks_diffretouch import (
    attention_arguments,
    check_callback,
    check_components,
    check_count,
    check_generator,
    check_latents,
    check_number,
    check_output,
    check_prediction_type,
    check_saved_settings,
    check_slider,
    check_timesteps,
    is_number,
)
from .folder_diffretouch import SelfContainedFolderMixin, of_the_package
from .lora_diffretouch import DiffRetouchLoraLoaderMixin
from .photo_statistics_diffretouch import class_labels
from .pictures_diffretouch import as_float, as_output, is_grey, model_view, planes
from .sampling_diffretouch import are_middle, one_generator_each, set_timesteps, step_arguments
from .sampling_diffretouch import truncated_timesteps as truncated_timesteps  # imported from here too

ATTRIBUTES = ("colorfulness", "brightness", "contrast", "temperature")


@dataclass
class DiffRetouchPipelineOutput(BaseOutput):
    """Output of `DiffRetouchPipeline`.

    Args:
        images: one retouched picture per photo and variant, photo-major: `images[i]` has the size of photo
            i // num_variants. A list of PIL pictures ("pil"); float32 in [0, 1], (N, H, W, 3) ("np") or (N, 3, H, W)
            ("pt") if all are of one size, else a list of (H, W, 3) or (3, H, W); the list of grids ("grid"); the
            loop's last latents (N, 4, h, w) ("latent").
        grids: the `AffineGrid` of every image: applies to any other photo, at any strength.
    """

    images: Any
    grids: list[Any]


class DiffRetouchPipeline(SelfContainedFolderMixin, DiffusionPipeline, DiffRetouchLoraLoaderMixin):
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

    # That of diffusers has no types, so what it gives would be anything, and `mypy --strict` complains.
    if TYPE_CHECKING:

        @classmethod
        def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self: ...

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
        check_components(unet, scheduler, grid_head)
        check_count("min_timestep", min_timestep, 0, scheduler.config.num_train_timesteps - 1)
        check_count("conditioning_size", conditioning_size, 1, None)
        check_number("noise_offset", noise_offset, 0, 10)
        check_saved_settings(conditioning_resize, provenance, fast_timesteps)
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

    @overload
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
        return_dict: Literal[True] = True,
        callback_on_step_end: Callable[[Any, int, int, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> DiffRetouchPipelineOutput: ...

    @overload
    def __call__(
        self, image: Any, *arguments: Any, return_dict: Literal[False], **options: Any
    ) -> tuple[Any, list[Any]]: ...

    @torch.no_grad()  # type: ignore[misc]  # for tuples, the options are those of the first overload
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
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> DiffRetouchPipelineOutput | tuple[Any, list[Any]]:
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
            generator: source of all noise, None = one seeded with 0. One is the style of every photo: a batch equals
                single calls, the first variant the call without variants. A list holds one per output image. One that
                was seeded with 0 gives the middle of the styles, `noise_offset` left out, as its first variant.
            latents: the initial noise (N, 4, h, w) instead of drawn one; taken as it is, without `noise_offset`.
            output_type: "pil" | "np" | "pt" | "grid" | "latent", see `DiffRetouchPipelineOutput`.
            base: "photo" applies the grid to the photo (the method); "decoded" returns the VAE-decoded z_0 at the
                photo's size instead (the paper's ablation without the grid; distorts texture, and shows rest noise
                with schedulers that neither accept timesteps nor report `pred_original_sample`).
            return_dict: False returns the tuple (images, grids).
            callback_on_step_end: called as (pipe, step, timestep, tensors) after each step; returns the tensors, which
                it may have replaced.
            callback_on_step_end_tensor_inputs: which of `_callback_tensor_inputs` it is given.
            cross_attention_kwargs: for the UNet's attention processors; of it, "scale" is a further factor on the
                weights of the active LoRA adapters (fused ones stay as they are).

        Raises:
            TypeError, ValueError: naming the parameter, what is allowed and what came.
        """
        # 1. Check and unpack the inputs.
        photos = self._photos(image)
        steps = self.config.default_num_inference_steps if num_inference_steps is None else num_inference_steps
        sliders = dict(zip(ATTRIBUTES, (colorfulness, brightness, contrast, temperature), strict=True))
        callback = (callback_on_step_end, callback_on_step_end_tensor_inputs)
        self.check_inputs(
            photos, sliders, strength, num_variants, steps, timesteps, generator, latents, output_type, base, *callback
        )
        lora_scale, attention = attention_arguments(cross_attention_kwargs)
        device, dtype = self._execution_device, self.unet.dtype
        batch_size = len(photos) * num_variants
        generator = one_generator_each(generator, len(photos), num_variants)

        # 2. Conditioning: the photo concatenated, the sliders as a cross-attention token, statistics as class labels.
        views = [self.photo_view(photo)[0] for photo in photos]  # each (3, S, S), its own view
        photo_latents = torch.cat([self.encode_photo(view).to(device, dtype) for view in views])  # (P, 3, h, w)
        photo_latents = photo_latents.repeat_interleave(num_variants, 0)  # (N, 3, h, w)
        condition = self.encode_sliders(sliders, len(photos))  # (P, 1, 4)
        condition = condition.repeat_interleave(num_variants, 0).to(device, dtype)  # (N, 1, 4)

        # 3. The schedule and the initial noise.
        start = partial(set_timesteps, self.scheduler, steps, timesteps, self.config.min_timestep, device)
        self._num_timesteps = len(start())
        noise = self.prepare_latents(batch_size, dtype, device, generator, latents, num_variants)  # (N, 4, h, w)

        # 4. Denoise; the affine features of the last call carry the retouch.
        look, step_kwargs = self.look_in_effect(lora_scale), step_arguments(self.scheduler, generator)
        denoise = partial(self._denoise, start, noise, photo_latents, views, attention, step_kwargs)
        with self._at_lora_scale(lora_scale):
            latents, features = denoise(condition, *callback)
            at_rest = features_at_rest(look, features, condition, denoise)
            grids = self._grids(features, views, condition, look, at_rest)

        # 5. Apply the grids to the photos at their own size.
        images: Any = {"latent": latents, "grid": grids}.get(output_type)
        if images is None:
            images = self._pictures(photos, grids, latents, strength, num_variants, output_type, base)

        self.maybe_free_model_hooks()
        return DiffRetouchPipelineOutput(images=images, grids=grids) if return_dict else (images, grids)

    def _denoise(
        self,
        start: Callable[[], torch.Tensor],
        latents: torch.Tensor,
        photo_latents: torch.Tensor,
        views: list[torch.Tensor],
        attention: dict[str, Any],
        step_kwargs: dict[str, Any],
        condition: torch.Tensor,
        callback_on_step_end: Callable[[Any, int, int, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = (),
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise (N, 4, h, w), photos (N, 3, h, w), their views, c (N, 1, 4) -> the last latents, and the affine
        features (N, C, h, w) of the UNet's last call. `start` sets the scheduler's timesteps."""
        schedule, labels = start(), self.class_labels(views, condition)  # labels (N, 142) or None
        with self.progress_bar(total=len(schedule)) as progress_bar:
            for i, t in enumerate(schedule):
                unet_input = torch.cat([self.scheduler.scale_model_input(latents, t), photo_latents], dim=1)
                prediction = self.unet(
                    unet_input, t, condition, class_labels=labels, cross_attention_kwargs=attention or None
                ).sample  # (N, 8, h, w)
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
        return latents, features

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
            check_slider(name, value, len(photos))
        self.grid_head.check_strength(strength)
        check_count("num_variants", num_variants, 1, None)
        check_prediction_type(self.scheduler)
        most = self.scheduler.config.num_train_timesteps
        check_count("num_inference_steps", num_inference_steps, 1, most - self.config.min_timestep)
        if timesteps is not None:
            check_timesteps(self.scheduler, timesteps)
        batch_size = len(photos) * num_variants
        check_generator(generator, batch_size)
        if latents is not None:
            check_latents(latents, self._latent_shape(batch_size))
        check_output(output_type, base, self.vae)
        check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)

    def _photos(self, image: Any) -> list[Any]:
        """Split `image` into single photos: PIL, np (H, W, 3) or torch (3, H, W), each checked."""
        photos: list[Any] = []
        for entry in image if isinstance(image, (list, tuple)) else [image]:
            is_batch = isinstance(entry, (np.ndarray, torch.Tensor)) and entry.ndim == 4
            photos.extend(entry if is_batch else [entry])
        if not photos:
            raise ValueError("`image` has to hold at least one photo, got none.")
        for photo in photos:
            self.grid_head.check_photo("image", photo)
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
        return model_view(planes(photo), self.config.conditioning_size).clamp(0, 1)

    def class_labels(self, photos: list[Any], condition: torch.Tensor) -> torch.Tensor | None:
        """P photos, c (N, 1, 4) -> class labels (N, 142) of the UNet, N a multiple of P; None if it takes none."""
        if self.unet.config.class_embed_type is None:
            return None
        return class_labels(torch.cat([self.photo_view(photo) for photo in photos]) * 2 - 1, condition[:, 0])

    def encode_sliders(self, sliders: dict[str, Any], num_photos: int) -> torch.Tensor:
        """Sliders, one number or one per photo -> context tokens (P, 1, 4) in the checkpoint's order."""
        columns = []
        for name in self.config.attributes:
            value = sliders[name]
            columns.append([float(value)] * num_photos if is_number(value) else [float(v) for v in value])
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
                common[are_middle(generator, batch_size, num_variants)] = 0
                latents = latents + self.config.noise_offset * common
        return latents.to(device, dtype) * self.scheduler.init_noise_sigma

    def _latent_shape(self, batch_size: int) -> tuple[int, int, int, int]:
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return (batch_size, self.unet.config.in_channels - 3, height, width)

    def _grids(
        self,
        features: torch.Tensor,
        views: list[torch.Tensor],
        condition: torch.Tensor,
        look: AdapterLook | None,
        at_rest: torch.Tensor,
    ) -> list[Any]:
        """Affine features (N, C, h, w) of the last call, and at c = 0, -> N grids, with the look of the adapters.

        Black-and-white photos, by their views (3, S, S), stay so exactly, unless c (N, 1, 4) asks for warmth or
        colour, or the look gives them some.
        """
        head = self.grid_head
        # Components can differ in dtype, and in device when only some are offloaded; a head on "meta" has hooks that
        # fetch it to its input.
        device = features.device if head.device.type == "meta" else head.device
        coefficients = head(features.to(device, head.dtype))
        if look is not None and look.share != 1:
            coefficients = look.kept(coefficients, head(at_rest.to(device, head.dtype)))
        grids = head.grids(coefficients)
        toning = [self.config.attributes.index(name) for name in ("colorfulness", "temperature")]
        toned = (condition[:, 0, toning] != 0).any(1).tolist()
        views = [view for view in views for _ in range(len(grids) // len(views))]
        grids = [
            grid.neutral() if is_grey(view) and not asked else grid
            for grid, view, asked in zip(grids, views, toned, strict=True)
        ]
        return grids if look is None else [look.after(*pair) for pair in zip(grids, views, strict=True)]

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
                pictures.append(as_output(self._blend_decoded(photo, latents[i : i + 1], strength), output_type))
            elif output_type == "pil" and isinstance(photo, PIL.Image.Image):
                pictures.append(grid.apply(photo, strength))
            else:
                pictures.append(as_output(grid.apply(as_float(photo), strength), output_type))
        if output_type != "pil" and len({picture.shape for picture in pictures}) == 1:
            return np.stack(pictures) if output_type == "np" else torch.stack(pictures)
        return pictures

    def _blend_decoded(self, photo: Any, latents: torch.Tensor, strength: float) -> np.ndarray:
        """The picture that decoding z_0 (1, 4, h, w) gives, at the photo's size: (H, W, 3) in [0, 1]."""
        pixels = as_float(photo)
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
        `diffretouch.pipeline_from_stable_diffusion`.
        """
        return of_the_package("pipeline_from_stable_diffusion")(source, **options)
