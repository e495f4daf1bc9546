"""The affine bilateral grid: predicted by `AffineGridHead`, carried and applied to photos by `AffineGrid`.

This file travels with every model on the Hub, so it imports nothing of the package.
"""

from __future__ import annotations

import functools
import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, overload

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import nn

# Pixels per tile of `AffineGrid.apply_tiled`: large enough to hide the cost of a call, small enough (about 10 MB of
# temporaries, 300 MB on a device, where calls cost more than pixels) that memory does not grow with the photo.
_TILE_PIXELS = 1 << 17
_DEVICE_TILE_PIXELS = 1 << 22

# Smaller photos are done before the compiled function is imported. By size alone, so that results repeat.
_COMPILED_FROM_PIXELS = 1 << 18
COMPILED_APPLY = "diffretouch.compiled_apply"
"""Entry point group of functions that may stand in for `AffineGrid.apply_tiled` on CPUs, see `compiled_apply`."""

_LOOK_FORMAT = "diffretouch-look"
_LOOK_VERSION = "1"


class GuideCurve(nn.Module):
    """The learned guide map: a colour mix, one piecewise-linear curve per channel, their mean.

    guide = clamp(mean_c(sum_k slopes[c, k] * relu(v_c - thresholds[c, k])) + bias, 0, 1), with v = rgb @ matrix +
    matrix_bias (bilateral grid's third coordinate; HDRNet, Gharbi et al. 2017, eq. 7).

    Args:
        num_knots: knots per channel curve.
        threshold_range: where the knots start out, on the scale of the photo. (-1, 1) covers the whole photo;
            the published models started from (0, 1), which leaves everything under mid-grey flat.
    """

    def __init__(self, num_knots: int = 16, threshold_range: tuple[float, float] = (-1.0, 1.0)):
        super().__init__()
        low, high = threshold_range
        self.matrix = nn.Parameter(torch.eye(3))
        self.matrix_bias = nn.Parameter(torch.zeros(3))
        self.thresholds = nn.Parameter(torch.linspace(low, high, num_knots + 1)[:-1].repeat(3, 1))
        self.slopes = nn.Parameter(torch.zeros(3, num_knots))
        self.bias = nn.Parameter(torch.zeros(()))
        with torch.no_grad():
            self.slopes[:, 0] = 1 / (high - low)

    def forward(self, photo: torch.Tensor) -> torch.Tensor:
        """Photo (B, 3, H, W) in [-1, 1] -> guide (B, 1, H, W) in [0, 1]."""
        mixed = torch.einsum("bchw,cd->bdhw", photo, self.matrix) + self.matrix_bias.view(3, 1, 1)
        curve = torch.zeros_like(mixed)
        # One knot at a time: all of them at once would hold 16 copies of the photo.
        for threshold, slope in zip(self.thresholds.unbind(1), self.slopes.unbind(1), strict=True):
            curve = curve + slope.view(3, 1, 1) * F.relu(mixed - threshold.view(3, 1, 1))
        return (curve.mean(1, keepdim=True) + self.bias).clamp(0, 1)


def slice_affine_grid(
    coefficients: torch.Tensor, guide: torch.Tensor, rows: tuple[int, int] | None = None, height: int | None = None
) -> torch.Tensor:
    """Slice an affine bilateral grid at the pixels of a guide map (bilateral slicing; HDRNet, eq. 4).

    Trilinear with x = 2j/(W-1)-1, y = 2i/(H-1)-1, z = 2g-1, cell centres at half positions and border padding.
    A side of one pixel reads the middle of the grid. Works in at least float32: half floats cannot hold the position
    of a pixel.

    Args:
        coefficients: (B, 12, D, Gh, Gw), affine index slowest.
        guide: (B, 1, H, W) in [0, 1], or the band of rows `rows` of it.
        rows: first and last + 1 row that `guide` covers when it is a band of a picture of `height` rows.
        height: rows of the whole picture.

    Returns:
        (B, 12, H, W): per pixel the 3 x 4 transform, row-major.
    """
    dtype = torch.promote_types(guide.dtype, torch.float32)
    coefficients, guide = coefficients.to(dtype), guide.to(dtype)
    first, last = rows if rows is not None else (0, guide.shape[2])
    y = _axis(height if height is not None else guide.shape[2], guide)[first:last]
    x = _axis(guide.shape[3], guide)
    where = torch.stack(
        torch.broadcast_tensors(x, y[:, None], 2 * guide[:, 0] - 1),  # each (B, H, W)
        dim=-1,
    )
    sliced = F.grid_sample(
        coefficients, where[:, None], mode="bilinear", padding_mode="border", align_corners=False
    )  # (B, 12, 1, H, W)
    return sliced[:, :, 0]


def _axis(length: int, like: torch.Tensor) -> torch.Tensor:
    if length == 1:
        return like.new_zeros(1)
    return torch.arange(length, dtype=like.dtype, device=like.device) * (2 / (length - 1)) - 1


def apply_affine(affine: torch.Tensor, photo: torch.Tensor) -> torch.Tensor:
    """Per-pixel transforms (B, 12, H, W) on a photo (B, 3, H, W) in [-1, 1] -> (B, 3, H, W), not clamped.

    Row r of the result is affine[4r : 4r + 3] . rgb + affine[4r + 3].
    """
    rows = affine.unflatten(1, (3, 4))  # (B, 3, 4, H, W)
    # Sum of products per input channel: a broadcast (B, 3, 3, H, W) product would triple the memory.
    retouched = rows[:, :, 3]
    for channel in range(3):
        retouched = torch.addcmul(retouched, rows[:, :, channel], photo[:, channel : channel + 1])
    return retouched


@dataclass
class AffineGridHeadOutput(BaseOutput):
    """Output of `AffineGridHead`.

    Args:
        coefficients: (B, 12, depth, Gh, Gw), one affine bilateral grid per picture.
    """

    coefficients: torch.Tensor


class AffineGridHead(ModelMixin, ConfigMixin):
    """Predicts the affine bilateral grid from the UNet's affine features and owns the guide curve.

    Args:
        in_channels: channels of the affine features.
        hidden_channels: widths of the stride-2 convolutions, one each: two halve twice (64 -> 16).
        mid_channels: width of the 1 x 1 bottleneck.
        grid_depth: luminance bins of the grid.
        smoothing: standard deviation, in cells, of the Gaussian that the grid is smoothed with over places: what an
            expert does is nearly the same everywhere, and patches of colour show. 0 = as published.
        bias: whether the convolutions have one, as published. Without, features of zero are no retouch: all that the
            picture is made of comes from the UNet.
        guide_knots: knots per channel of the guide curve.
        guide_threshold_range: initial span of the knots, see `GuideCurve`.

    Example:
        >>> import torch
        >>> from diffretouch import AffineGridHead
        >>> head = AffineGridHead(in_channels=4)
        >>> coefficients = head(torch.zeros(1, 4, 64, 64))
        >>> coefficients.shape
        torch.Size([1, 12, 8, 16, 16])
        >>> head.grids(coefficients)[0]
        AffineGrid(12x8x16x16, device=cpu)
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        hidden_channels: Sequence[int] = (16, 32),
        mid_channels: int = 64,
        grid_depth: int = 8,
        smoothing: float = 0.0,
        bias: bool = True,
        guide_knots: int = 16,
        guide_threshold_range: tuple[float, float] = (-1.0, 1.0),
    ):
        super().__init__()
        widths = [in_channels, *hidden_channels]
        self.down = nn.ModuleList(
            nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=bias)
            for narrow, wide in zip(widths[:-1], widths[1:], strict=True)
        )
        self.mid = nn.Conv2d(widths[-1], mid_channels, 1, bias=bias)
        self.out = nn.Conv2d(mid_channels, 12 * grid_depth, 1, bias=bias)
        self.guide = GuideCurve(guide_knots, (guide_threshold_range[0], guide_threshold_range[1]))
        self._start_near_identity()

    @torch.no_grad()
    def _start_near_identity(self) -> None:
        """An untrained head returns nearly the photo itself, so training starts from a picture, not from black."""
        self.out.weight.mul_(0.1)
        if self.config.bias:
            self.out.bias = nn.Parameter(identity_coefficients(self.config.grid_depth, 1, 1).flatten())

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in diffusers.

        Raises:
            ValueError: if the model is one of version 0.1 whose head made the picture from the photo's statistics,
                past the UNet: its weights have no place here.
        """
        if config_dict.get("global_channels"):
            raise ValueError(
                "`grid_head` has a global path (`global_channels`), which this version does not have: load the model "
                "with the code it carries, `DiffusionPipeline.from_pretrained(..., trust_remote_code=True)`, or with "
                "diffretouch 0.1."
            )
        return super().extract_init_dict(config_dict, **kwargs)

    @overload
    def forward(self, features: torch.Tensor, return_dict: None = None) -> torch.Tensor: ...

    @overload
    def forward(self, features: torch.Tensor, return_dict: bool) -> AffineGridHeadOutput | tuple[torch.Tensor]: ...

    def forward(
        self, features: torch.Tensor, return_dict: bool | None = None
    ) -> torch.Tensor | AffineGridHeadOutput | tuple[torch.Tensor]:
        """Affine features of the UNet's last call (B, in_channels, h, w) -> coefficients (B, 12, depth, Gh, Gw).

        Args:
            features: of the type and on the device of the head.
            return_dict: None = the coefficients themselves; True and False as for models of diffusers: an
                `AffineGridHeadOutput`, or a tuple.
        """
        for conv in self.down:
            features = F.relu(conv(features))
        coefficients = self.out(self.mid(features))  # (B, 12 depth, Gh, Gw)
        if self.config.smoothing:
            coefficients = smoothed(coefficients, self.config.smoothing)
        coefficients = coefficients.unflatten(1, (12, self.config.grid_depth))
        if not self.config.bias:
            coefficients = coefficients + identity_coefficients(self.config.grid_depth, 1, 1).to(coefficients)
        if return_dict is None:
            return coefficients
        return AffineGridHeadOutput(coefficients=coefficients) if return_dict else (coefficients,)

    def retouch(self, coefficients: torch.Tensor, photo: torch.Tensor) -> torch.Tensor:
        """Differentiable guide, slice and apply: coefficients (B, 12, D, Gh, Gw) on photos (B, 3, H, W) in [-1, 1].

        Returns:
            (B, 3, H, W) around [-1, 1], not clamped, so that every pixel keeps its gradient in training.
        """
        return apply_affine(slice_affine_grid(coefficients, self.guide(photo)), photo)

    @staticmethod
    def check_photo(name: str, photo: Any) -> None:
        """Raise TypeError or ValueError unless an `AffineGrid` applies to `photo`; `name` is its parameter.

        Here and not beside the pipeline: this file is the only code that diffusers fetches for a component.
        """
        check_photo(name, photo)

    @staticmethod
    def check_strength(strength: float) -> None:
        """Raise TypeError or ValueError unless `strength` is a number in [0, 2]."""
        check_strength(strength)

    def grids(self, coefficients: torch.Tensor) -> list[AffineGrid]:
        """One self-contained float32 `AffineGrid` per batch entry; later changes of the head do not reach them."""
        # Sequential offload keeps the guide's numbers away from the module until its hook fetches them.
        hook = getattr(self.guide, "_hf_hook", None)
        if hook is None:
            return [AffineGrid(grid, self.guide) for grid in coefficients]
        hook.pre_forward(self.guide)
        try:
            return [AffineGrid(grid, self.guide) for grid in coefficients]
        finally:
            hook.post_forward(self.guide, None)


def smoothed(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """Maps (B, C, h, w) under a Gaussian of standard deviation `sigma` in cells, cut at three; the border is held."""
    radius = math.ceil(3 * sigma)
    places = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = kernel / kernel.sum()
    planes = F.pad(maps.flatten(0, 1)[:, None], (radius,) * 4, mode="replicate")  # (B C, 1, h + 2 r, w + 2 r)
    planes = F.conv2d(F.conv2d(planes, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return planes.view_as(maps)


def identity_coefficients(depth: int, height: int, width: int) -> torch.Tensor:
    """(12, depth, height, width) of the transform that changes nothing: channels 0, 5 and 10 are one."""
    coefficients = torch.zeros(12, depth, height, width)
    coefficients[[0, 5, 10]] = 1
    return coefficients


def _detached_copy(guide: GuideCurve) -> GuideCurve:
    """The same curve in float32, without the gradients and the offload hooks of its owner."""
    fresh = GuideCurve(num_knots=guide.thresholds.shape[-1])
    fresh.load_state_dict(guide.state_dict())
    return fresh.requires_grad_(False)


@functools.cache
def compiled_apply() -> Callable[..., np.ndarray] | None:
    """A compiled function for `AffineGrid.apply`, if one is installed.

    Found by the entry point group `COMPILED_APPLY`, not by a package's name: so this file needs no package, and the
    installed one speeds up the copies of this file that come as remote code. The function takes (photo, coefficients,
    guide parameters by name, strength, threads, out, rows) as numpy arrays: photo and out (H, W, 3), any strides;
    writes and returns out, or a new array where out is None. `rows` is as in `AffineGrid.apply`.
    """
    for entry in entry_points(group=COMPILED_APPLY):
        try:
            return entry.load()
        except ImportError:  # of an optional dependency
            continue
    return None


class AffineGrid:
    """One retouch: an affine bilateral grid with the guide curve it is sliced by. Applies to a photo of any size.

    Args:
        coefficients: (12, depth, height, width) float, finite; identity = channels 0, 5 and 10 equal to one.
        guide: the curve that maps a photo to the grid's depth. Copied.

    Raises:
        TypeError, ValueError: if the coefficients are not such a tensor, or the guide is not such a curve.

    Example:
        >>> import numpy as np
        >>> from diffretouch import AffineGrid
        >>> grid = AffineGrid.identity()
        >>> grid
        AffineGrid(12x8x16x16, device=cpu)
        >>> grid.coefficients[3] += 0.4  # more red everywhere, on a scale of [-1, 1]
        >>> grey = np.full((1, 1, 3), 100, np.uint8)
        >>> grid.apply(grey).tolist(), grid.apply(grey, strength=2).tolist()
        ([[[151, 100, 100]]], [[[202, 100, 100]]])
        >>> grid.save("warm.safetensors")
        >>> AffineGrid.load("warm.safetensors").apply(grey).tolist()
        [[[151, 100, 100]]]
    """

    def __init__(self, coefficients: torch.Tensor, guide: GuideCurve):
        if not isinstance(coefficients, torch.Tensor) or not coefficients.is_floating_point():
            kind = coefficients.dtype if isinstance(coefficients, torch.Tensor) else type(coefficients).__name__
            raise TypeError(f"`coefficients` has to be a float torch.Tensor, got {kind}.")
        if coefficients.ndim != 4 or coefficients.shape[0] != 12 or 0 in coefficients.shape:
            raise ValueError(
                f"`coefficients` has to be of shape (12, depth, height, width), got {tuple(coefficients.shape)}."
            )
        # By a part's name, not by class: remote code may hold this class a second time.
        if not hasattr(guide, "thresholds"):
            raise TypeError(f"`guide` has to be a GuideCurve, got {type(guide).__name__}.")
        self.coefficients = coefficients.detach().float().clone()
        self.guide = _detached_copy(guide).to(coefficients.device)
        if not torch.isfinite(self.coefficients).all():
            raise ValueError("`coefficients` has to be finite, got NaN or infinite values.")
        if not all(torch.isfinite(parameter).all() for parameter in self.guide.parameters()):
            raise ValueError("`guide` has to be finite, got NaN or infinite values.")

    def __repr__(self) -> str:
        return f"AffineGrid({'x'.join(map(str, self.coefficients.shape))}, device={self.coefficients.device})"

    @classmethod
    def identity(cls, depth: int = 8, height: int = 16, width: int = 16) -> AffineGrid:
        """The retouch that returns every photo unchanged."""
        return cls(identity_coefficients(depth, height, width), GuideCurve())

    def to(self, device: str | torch.device) -> AffineGrid:
        """The same retouch on another device."""
        return AffineGrid(self.coefficients.to(device), self.guide)

    def neutral(self) -> AffineGrid:
        """The same retouch in black-and-white: every photo comes out grey, exactly, as light as its luma did.

        All three rows of each transform become their mean by Rec. 601's weights.
        """
        rows = self.coefficients.unflatten(0, (3, 4))  # (3, 4, D, h, w)
        weights = rows.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1, 1)
        return AffineGrid((weights * rows).sum(0).repeat(3, 1, 1, 1), self.guide)

    @torch.no_grad()
    def apply(self, photo: Any, strength: float = 1.0, rows: tuple[int, int] | None = None) -> Any:
        """Retouch a photo at its own resolution; returns the same kind, size and depth as given.

        Memory beyond input and output stays constant: `compiled_apply` works through rows where it is installed and
        photo and grid are on the CPU, `apply_tiled` through bands of rows elsewhere. Both agree within rounding.

        Args:
            photo: PIL image of 8 bits per channel (returned as RGB, or as RGBA with its alpha untouched) |
                np (H, W, 3) uint8, uint16 or float in [0, 1] | torch (3, H, W) or (B, 3, H, W) float in [0, 1].
                Computed in float32, whatever the float type.
            strength: in [0, 2]; 0 returns the photo, 1 the retouch, between and beyond blends the transforms with
                the identity.
            rows: (first, height) where an np photo is a band of a picture of `height` rows, `first` being its first.

        Raises:
            TypeError, ValueError: on any other photo or strength.
        """
        check_strength(strength)
        if isinstance(photo, PIL.Image.Image):
            return self._apply_pil(photo, strength)
        if isinstance(photo, np.ndarray):
            return self._apply_numpy(photo, strength, rows)
        if isinstance(photo, torch.Tensor):
            return self._apply_torch(photo, strength)
        raise TypeError(f"`photo` has to be a PIL image, a numpy array or a torch tensor, got {type(photo).__name__}.")

    def _apply_pil(self, photo: PIL.Image.Image, strength: float) -> PIL.Image.Image:
        check_photo_pil("photo", photo)
        pixels = np.asarray(photo if photo.mode == "RGB" else photo.convert("RGB"))
        retouched = PIL.Image.fromarray(self._apply_numpy(pixels, strength))
        if photo.mode in ("RGB", "RGBA", "P") and "icc_profile" in photo.info:
            retouched.info["icc_profile"] = photo.info["icc_profile"]
        if photo.has_transparency_data:
            retouched.putalpha(photo.convert("RGBA").getchannel("A"))
        return retouched

    def _apply_numpy(self, photo: np.ndarray, strength: float, rows: tuple[int, int] | None = None) -> np.ndarray:
        check_photo_array("photo", photo)
        _check_rows(rows, len(photo))
        if strength == 0:
            return photo.copy()  # exact for float64 too, which float32 would round
        whole_height = rows[1] if rows else photo.shape[0]
        compiled = self._compiled_for(whole_height, photo.shape[1])
        out = compiled(photo, strength, None, rows) if compiled else self._tile_numpy(photo, strength, rows)
        if strength == 1 and self.is_neutral:
            out[..., 1:] = out[..., :1]  # each channel is rounded by itself
        return out

    def _apply_torch(self, photo: torch.Tensor, strength: float) -> torch.Tensor:
        check_photo_tensor("photo", photo)
        if strength == 0:
            return photo.clone()
        compiled = self._compiled_for(*photo.shape[-2:])
        if not compiled or photo.device.type != "cpu" or photo.dtype == torch.bfloat16:  # numpy knows no bfloat16
            return self._tile_torch(photo, strength)
        out = torch.empty_like(photo)
        for source, target in zip(photo.view(-1, *photo.shape[-3:]), out.view(-1, *photo.shape[-3:]), strict=True):
            compiled(source.detach().permute(1, 2, 0).numpy(), strength, target.permute(1, 2, 0).numpy(), None)
        if strength == 1 and self.is_neutral:
            out[..., 1:, :, :] = out[..., :1, :, :]
        return out

    @property
    def is_neutral(self) -> bool:
        """Whether every photo comes out grey, exactly: the three rows of each transform are one."""
        rows = self.coefficients.unflatten(0, (3, 4))
        return torch.equal(rows[0], rows[1]) and torch.equal(rows[0], rows[2])

    def _compiled_for(self, height: int, width: int) -> Callable[..., np.ndarray] | None:
        """(photo, strength, out, rows) -> out, if a photo of that size is to be retouched by `compiled_apply`."""
        if height * width < _COMPILED_FROM_PIXELS or self.coefficients.device.type != "cpu":
            return None
        compiled = compiled_apply()
        if compiled is None:
            return None
        guide = {name: tensor.numpy() for name, tensor in self.guide.state_dict().items()}
        return lambda photo, strength, out, rows: compiled(
            photo, self.coefficients.numpy(), guide, strength, torch.get_num_threads(), out, rows
        )

    @torch.no_grad()
    def apply_tiled(self, photo: Any, strength: float = 1.0) -> Any:
        """What `apply` does to np and torch photos, by torch operations alone and on the grid's device."""
        check_strength(strength)
        if isinstance(photo, np.ndarray):
            check_photo_array("photo", photo)
            return self._tile_numpy(photo, strength)
        check_photo_tensor("photo", photo)
        return self._tile_torch(photo, strength)

    def _tile_numpy(self, photo: np.ndarray, strength: float, rows: tuple[int, int] | None = None) -> np.ndarray:
        height, width, _ = photo.shape
        top_row, whole_height = rows or (0, height)
        top = np.iinfo(photo.dtype).max if photo.dtype.kind == "u" else None
        kind = np.uint8 if photo.dtype == np.uint8 else np.float32  # bytes go to a device as bytes
        out = np.empty_like(photo)
        for band in self._bands(height, width):
            source = torch.from_numpy(np.array(photo[band], kind))
            pixels = source.to(self.coefficients.device).permute(2, 0, 1)
            place = slice(top_row + band.start, top_row + band.stop)
            values = self._apply_band(pixels / top if top else pixels, place, whole_height, strength)
            values = (values * top).round_() if top else values
            out[band] = values.permute(1, 2, 0).to(source.dtype).cpu().numpy()
        return out

    def _tile_torch(self, photo: torch.Tensor, strength: float) -> torch.Tensor:
        batch = photo if photo.ndim == 4 else photo[None]
        out = torch.empty_like(batch)
        for source, target in zip(batch, out, strict=True):
            for band in self._bands(*source.shape[1:]):
                pixels = source[:, band].to(self.coefficients.device, torch.float32)
                target[:, band] = self._apply_band(pixels, band, source.shape[1], strength)
        return out.reshape(photo.shape)

    def _bands(self, height: int, width: int) -> list[slice]:
        pixels = _TILE_PIXELS if self.coefficients.device.type == "cpu" else _DEVICE_TILE_PIXELS
        rows = max(1, pixels // width)
        return [slice(first, min(height, first + rows)) for first in range(0, height, rows)]

    def _apply_band(self, photo: torch.Tensor, band: slice, height: int, strength: float) -> torch.Tensor:
        """Rows `band` (3, h, W) of a photo of `height` rows, float32 in [0, 1] -> the same, retouched and clamped."""
        pixels = photo[None]
        signed = pixels * 2 - 1
        affine = slice_affine_grid(self.coefficients[None], self.guide(signed), (band.start, band.stop), height)
        retouched = (apply_affine(affine, signed) + 1) / 2
        # Blending pictures equals blending the transforms with the identity.
        return torch.lerp(pixels, retouched, strength)[0].clamp(0, 1)

    def save(self, path: str | os.PathLike[str], beside: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write this retouch as one self-contained safetensors file, atomically.

        Args:
            path: of the file.
            beside: further float32 tensors to write by name; `load` passes over them.
        """
        target = Path(path)
        guide = {f"guide.{name}": tensor for name, tensor in self.guide.state_dict().items()}
        tensors = {"coefficients": self.coefficients, **guide, **(beside or {})}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        data = serialize(tensors, metadata={"format": _LOOK_FORMAT, "version": _LOOK_VERSION})
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        try:
            temporary.write_bytes(data)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AffineGrid:
        """Read a retouch written by `save`.

        Raises:
            FileNotFoundError, PermissionError: if there is no such file, or it may not be read.
            ValueError: if the file is not a look, or is damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (FileNotFoundError, PermissionError):
            raise
        except (SafetensorError, OSError) as error:  # OSError: a folder, a device
            raise ValueError(f"`path` has to be a look file (.safetensors), got {path}: {error}.") from error
        if metadata.get("format") != _LOOK_FORMAT or metadata.get("version") != _LOOK_VERSION:
            raise ValueError(
                f"`path` has to be a look of version {_LOOK_VERSION}, got {path} with metadata {metadata}."
            )
        for name, tensor in tensors.items():
            if tensor.dtype != torch.float32:
                raise ValueError(f"`path` has to hold float32 numbers, got {tensor.dtype} for {name} in {path}.")
        guide_state = {name.removeprefix("guide."): t for name, t in tensors.items() if name.startswith("guide.")}
        num_knots = max([1, *guide_state.get("thresholds", torch.empty(0)).shape[-1:]])
        guide = GuideCurve(num_knots)
        wanted = {name: list(tensor.shape) for name, tensor in guide.state_dict().items()}
        given = {name: list(tensor.shape) for name, tensor in guide_state.items()}
        if given != wanted:
            raise ValueError(f"`path` has to hold a guide curve of shapes {wanted}, got {given} in {path}.")
        guide.load_state_dict(guide_state)
        try:
            return cls(tensors.get("coefficients", torch.empty(0)), guide)
        except ValueError as error:
            raise ValueError(f"`path` has to be an undamaged look, got {path}: {error}") from error


def check_strength(strength: float) -> None:
    """Raise unless `strength` is a number in [0, 2]."""
    if isinstance(strength, bool) or not isinstance(strength, (int, float, np.integer, np.floating)):
        raise TypeError(f"`strength` has to be a number in [0, 2], got {type(strength).__name__}.")
    if not 0 <= strength <= 2:
        raise ValueError(f"`strength` has to be a number in [0, 2], got {strength}.")


def _check_rows(rows: tuple[int, int] | None, band: int) -> None:
    if rows is not None and not 0 <= rows[0] <= rows[1] - band:
        raise ValueError(
            f"`rows` has to be (first, height) of a picture that has room for {band} rows from first, got {rows}."
        )


def check_photo(name: str, photo: Any) -> None:
    """Raise unless `photo` is one of the three kinds below."""
    if isinstance(photo, PIL.Image.Image):
        check_photo_pil(name, photo)
    elif isinstance(photo, np.ndarray):
        check_photo_array(name, photo)
    elif isinstance(photo, torch.Tensor):
        check_photo_tensor(name, photo)
    else:
        raise TypeError(
            f"`{name}` has to be a PIL image, a numpy array or a torch tensor, got {type(photo).__name__}."
        )


def check_photo_pil(name: str, photo: PIL.Image.Image) -> None:
    """Raise unless `photo` is a PIL image of at most 8 bits per channel, not empty."""
    if 0 in photo.size:
        raise ValueError(f"`{name}` has to be at least 1 x 1 pixels, got {photo.width} x {photo.height}.")
    if photo.mode[0] in "IF":  # Pillow would clip these to 8 bits without scaling
        raise ValueError(
            f"`{name}` has to be a PIL image of 8 bits per channel, got mode {photo.mode}: pass more bits as an array."
        )


def check_photo_array(name: str, photo: np.ndarray) -> None:
    """Raise unless `photo` is np (H, W, 3) uint8, uint16 or float in [0, 1], not empty."""
    if photo.ndim != 3 or photo.shape[2] != 3 or 0 in photo.shape:
        raise ValueError(f"`{name}` has to be an array of shape (H, W, 3), got {photo.shape}.")
    if photo.dtype not in (np.uint8, np.uint16) and photo.dtype.kind != "f":
        raise TypeError(f"`{name}` has to be of dtype uint8, uint16 or float, got {photo.dtype}.")
    if photo.dtype.kind == "f":
        _check_unit_range(name, float(photo.min()), float(photo.max()))


def check_photo_tensor(name: str, photo: torch.Tensor) -> None:
    """Raise unless `photo` is torch (3, H, W) or (B, 3, H, W) float in [0, 1], not empty."""
    if photo.ndim not in (3, 4) or photo.shape[-3] != 3 or 0 in photo.shape:
        raise ValueError(f"`{name}` has to be a tensor of shape (3, H, W) or (B, 3, H, W), got {tuple(photo.shape)}.")
    if not photo.is_floating_point():
        raise TypeError(f"`{name}` has to be a float tensor in [0, 1], got {photo.dtype}.")
    _check_unit_range(name, photo.min().item(), photo.max().item())


def _check_unit_range(name: str, low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"`{name}` has to be finite, got NaN or infinite values.")
    if low < 0 or high > 1:
        raise ValueError(f"`{name}` has to hold values in [0, 1], got [{low:g}, {high:g}].")
