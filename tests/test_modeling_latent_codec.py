"""modeling_latent_codec.py: latents say what a retouch decides, through the interface of `AutoencoderKL`."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from diffretouch.model.modeling_latent_codec import FixedLatentCodec

# Unit opponent axes as they are defined: the sum, red against blue, green against magenta.
AXES = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])


def random_pictures(batch: int = 2, height: int = 16, width: int = 24, seed: int = 0) -> torch.Tensor:
    """(B, 3, H, W) in [-1, 1]."""
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def latents_by_loops(codec: FixedLatentCodec, picture: np.ndarray) -> np.ndarray:
    """picture (3, H, W) in [-1, 1], float64 -> latents (4, h, w), patch by patch."""
    patch = codec.config.patch_size
    height, width = picture.shape[1] // patch, picture.shape[2] // patch
    latents = np.zeros((4, height, width))
    for i, j in np.ndindex(height, width):
        pixels = picture[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch].reshape(3, -1)
        detail = 0.5 * np.log(pixels.var(axis=1).mean() + 1e-4)
        raw = np.array([*(AXES @ pixels.mean(axis=1)), detail])
        latents[:, i, j] = (raw - codec.config.shift) / codec.config.scale
    return latents


@pytest.mark.parametrize(
    "config", [{}, {"patch_size": 4, "shift": (0.1, 0.2, 0.3, 0.4), "scale": (1.0, 2.0, 3.0, 4.0)}]
)
def test_latents_are_mean_colours_and_detail_per_patch(config: dict[str, Any]) -> None:
    codec, pictures = FixedLatentCodec(**config), random_pictures()
    latents = codec.encode(pictures).latent_dist.mode()
    assert latents.shape == (2, 4, 16 // codec.config.patch_size, 24 // codec.config.patch_size)
    for picture, encoded in zip(pictures, latents, strict=True):
        expected = latents_by_loops(codec, picture.double().numpy())
        np.testing.assert_allclose(encoded.numpy(), expected, rtol=0, atol=1e-4)


def test_encoding_has_no_spread() -> None:
    latent_dist = FixedLatentCodec().encode(random_pictures()).latent_dist
    assert torch.equal(latent_dist.sample(generator=torch.Generator().manual_seed(0)), latent_dist.mode())
    assert latent_dist.std.abs().max() == 0


def test_more_detail_moves_the_fourth_latent_alone() -> None:
    pictures = random_pictures()
    flat = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(pictures, 8), scale_factor=8)
    calm, lively = (FixedLatentCodec().encode(p).latent_dist.mode() for p in (flat, flat + (pictures - flat) / 2))
    torch.testing.assert_close(calm[:, :3], lively[:, :3], rtol=0, atol=1e-4)
    assert (lively[:, 3] > calm[:, 3] + 1).all()
    assert torch.isfinite(calm).all(), "a patch without any detail has a latent too"


@pytest.mark.parametrize(("axis", "rgb"), [(0, (0.3, 0.3, 0.3)), (1, (0.3, 0.0, -0.3)), (2, (-0.2, 0.4, -0.2))])
def test_each_opponent_axis_moves_its_own_latent(axis: int, rgb: tuple[float, float, float]) -> None:
    codec = FixedLatentCodec()
    grey = torch.zeros(1, 3, 8, 8)
    tinted = grey + torch.tensor(rgb).view(3, 1, 1)
    moved = (codec.encode(tinted).latent_dist.mode() - codec.encode(grey).latent_dist.mode())[0, :, 0, 0]
    assert moved[axis] > 0.5
    assert all(abs(moved[other]) < 1e-3 for other in range(4) if other != axis)


def test_decoding_returns_the_mean_colours() -> None:
    codec = FixedLatentCodec()
    tiles = random_pictures(2, 1, 1).expand(2, 3, 16, 24).contiguous()
    decoded = codec.decode(codec.encode(tiles).latent_dist.mode()).sample
    assert decoded.shape == tiles.shape
    torch.testing.assert_close(decoded, tiles, rtol=0, atol=1e-4)


def test_the_call_encodes_and_decodes_with_the_signatures_of_autoencoder_kl() -> None:
    codec, pictures = FixedLatentCodec(), random_pictures()
    (posterior,) = codec.encode(pictures, return_dict=False)
    (decoded,) = codec.decode(posterior.mode(), return_dict=False)
    assert torch.equal(codec.decode(posterior.mode()).sample, decoded)
    assert torch.equal(codec(pictures).sample, decoded)
    drawn = codec(pictures, sample_posterior=True, return_dict=False, generator=torch.Generator().manual_seed(0))
    assert isinstance(drawn, tuple) and torch.equal(drawn[0], decoded)
    for name in ("forward", "encode", "decode"):
        wanted, ours = (signature(getattr(model, name)).parameters for model in (AutoencoderKL, FixedLatentCodec))
        assert [(one.name, one.default) for one in ours.values()] == [(o.name, o.default) for o in wanted.values()]


def test_decoding_blurs_but_keeps_the_place_of_colours() -> None:
    codec = FixedLatentCodec()
    picture = torch.full((1, 3, 16, 32), -0.5)
    picture[:, 0, :, 16:] = 0.5
    decoded = codec.decode(codec.encode(picture).latent_dist.mode()).sample
    torch.testing.assert_close(decoded[..., :10], picture[..., :10], rtol=0, atol=1e-3)
    torch.testing.assert_close(decoded[..., 22:], picture[..., 22:], rtol=0, atol=1e-3)


def test_decoded_pictures_stay_in_range_whatever_the_latents() -> None:
    latents = 20 * torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    decoded = FixedLatentCodec().decode(latents).sample
    assert decoded.shape == (1, 3, 24, 40)
    assert decoded.min() == -1 and decoded.max() == 1


def test_encoding_and_decoding_pass_gradients() -> None:
    codec = FixedLatentCodec(patch_size=2).double()
    picture = random_pictures(1, 4, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: codec.encode(x).latent_dist.mode(), picture)
    latents = (0.3 * torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0)).double()).requires_grad_()
    decoded = codec.decode(latents).sample
    assert decoded.abs().max() < 1, "clamped pixels have no gradient to check"
    assert torch.autograd.gradcheck(lambda z: codec.decode(z).sample, latents)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_detail_of_smooth_patches(dtype: torch.dtype) -> None:
    """A difference of squares would leave nothing but rounding of the small deviations from a bright mean."""
    pictures = (0.8 + 0.03 * random_pictures()).to(dtype)
    codec = FixedLatentCodec()
    expected = codec.encode(pictures.float()).latent_dist.mode()
    latents = FixedLatentCodec().to(dtype).encode(pictures).latent_dist.mode()
    assert latents.dtype == dtype
    torch.testing.assert_close(latents.float(), expected, rtol=0, atol=0.08)


def test_a_saved_codec_comes_back_with_config_and_numbers(tmp_path: Path) -> None:
    codec = FixedLatentCodec(patch_size=4, shift=(0.1, 0.2, 0.3, 0.4), scale=(1.0, 2.0, 3.0, 4.0), scaling_factor=0.5)
    codec.save_pretrained(tmp_path)
    loaded = FixedLatentCodec.from_pretrained(tmp_path)
    assert loaded.config.patch_size == 4 and loaded.config.scaling_factor == 0.5
    pictures = random_pictures()
    assert torch.equal(loaded.encode(pictures).latent_dist.mode(), codec.encode(pictures).latent_dist.mode())
    assert not any(parameter.requires_grad for parameter in loaded.parameters()), "nothing is learned"


def test_the_interface_is_that_of_the_stock_autoencoder() -> None:
    stock = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    codec, picture = FixedLatentCodec(patch_size=1), random_pictures(1, 8, 8)
    for vae in (stock, codec):
        latents = vae.encode(picture).latent_dist.sample(generator=torch.Generator().manual_seed(0))
        assert latents.shape == (1, 4, 8, 8)
        assert vae.decode(latents).sample.shape == picture.shape
        assert isinstance(vae.config.scaling_factor, float) and vae.config.latent_channels == 4
        assert vae.dtype == torch.float32


@pytest.mark.parametrize("switch", ["slicing", "tiling"])
def test_slices_and_bands_give_the_same_and_no_more_than_one_is_worked_on(switch: str, monkeypatch) -> None:
    """As for `AutoencoderKL`; a picture of 150 rows of latents is two bands and a rest."""
    codec, pictures = FixedLatentCodec(patch_size=2), random_pictures(3, 300, 6)
    latents = codec.encode(pictures).latent_dist.mode()
    decoded = codec.decode(latents).sample
    getattr(codec, f"enable_{switch}")()
    seen: list[torch.Size] = []
    for name in ("_encode", "_decode"):
        work = getattr(codec, name)
        monkeypatch.setattr(codec, name, lambda maps, work=work: (seen.append(maps.shape), work(maps))[1])
    torch.testing.assert_close(codec.encode(pictures).latent_dist.mode(), latents, rtol=0, atol=1e-5)
    torch.testing.assert_close(codec.decode(latents).sample, decoded, rtol=0, atol=1e-5)
    if switch == "slicing":
        assert seen == [(1, 3, 300, 6)] * 3 + [(1, 4, 150, 3)] * 3
    else:
        assert [shape[2] for shape in seen] == [128, 128, 44, 65, 66, 23]
    getattr(codec, f"disable_{switch}")()
    seen.clear()
    codec.encode(pictures)
    assert seen == [(3, 3, 300, 6)]


@pytest.mark.parametrize(
    "shape", [(3, 16, 16), (1, 4, 16, 16), (1, 16, 16, 3), (1, 3, 12, 16), (1, 3, 16, 20), (1, 3, 0, 16), (0, 3, 8, 8)]
)
def test_other_pictures_are_refused_in_one_sentence(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`x` has to be of shape \(B, 3, H, W\) with sides .* of 8, got \("):
        FixedLatentCodec().encode(torch.zeros(shape))
