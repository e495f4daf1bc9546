"""modeling_affine_grid.py: the grid means what REFERENCE says, at any size, and neither pixels nor looks get lost."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffretouch.model import modeling_affine_grid
from diffretouch.model.modeling_affine_grid import (
    AffineGrid,
    AffineGridHead,
    AffineGridHeadOutput,
    GuideCurve,
    apply_affine,
    identity_coefficients,
    slice_affine_grid,
    smoothed,
)

LOOK = {"format": "diffretouch-look", "version": "1"}


# ---------------------------------------------------------------- the slow reference, in plain loops and float64


def hat_weights(position: float, cells: int) -> list[float]:
    """Linear interpolation at `position` in [0, 1] between cell centres at (k + 0.5) / cells, border held."""
    place = min(max(position * cells - 0.5, 0.0), cells - 1.0)
    return [max(0.0, 1.0 - abs(place - k)) for k in range(cells)]


def guide_of_pixel(rgb: list[float], curve: dict[str, np.ndarray]) -> float:
    total = 0.0
    for c in range(3):
        mixed = sum(rgb[d] * curve["matrix"][d, c] for d in range(3)) + curve["matrix_bias"][c]
        for k in range(curve["thresholds"].shape[1]):
            total += curve["slopes"][c, k] * max(0.0, mixed - curve["thresholds"][c, k])
    return min(max(total / 3 + float(curve["bias"]), 0.0), 1.0)


def sliced_by_loops(coefficients: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """coefficients (12, D, Gh, Gw), guide (H, W) -> (12, H, W)."""
    _, depth, grid_height, grid_width = coefficients.shape
    height, width = guide.shape
    out = np.zeros((12, height, width))
    for i in range(height):
        rows = hat_weights(i / (height - 1) if height > 1 else 0.5, grid_height)
        for j in range(width):
            columns = hat_weights(j / (width - 1) if width > 1 else 0.5, grid_width)
            bins = hat_weights(float(guide[i, j]), depth)
            for k, y, x in np.ndindex(depth, grid_height, grid_width):
                out[:, i, j] += bins[k] * rows[y] * columns[x] * coefficients[:, k, y, x]
    return out


def retouched_by_loops(coefficients: np.ndarray, curve: dict[str, np.ndarray], photo: np.ndarray) -> np.ndarray:
    """photo (3, H, W) in [-1, 1] -> (3, H, W), not clamped."""
    _, height, width = photo.shape
    guide = np.array([[guide_of_pixel(list(photo[:, i, j]), curve) for j in range(width)] for i in range(height)])
    affine = sliced_by_loops(coefficients, guide)
    out = np.zeros_like(photo)
    for r, i, j in np.ndindex(*photo.shape):
        a = affine[4 * r : 4 * r + 4, i, j]
        out[r, i, j] = a[0] * photo[0, i, j] + a[1] * photo[1, i, j] + a[2] * photo[2, i, j] + a[3]
    return out


# ---------------------------------------------------------------- things to retouch and retouches


def random_curve(seed: int = 0, knots: int = 5) -> GuideCurve:
    """A guide of no symmetry that bends within the photo's range and stays mostly inside [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    curve = GuideCurve(knots)
    with torch.no_grad():
        for parameter in curve.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return curve


def random_coefficients(*shape: int, seed: int = 0) -> torch.Tensor:
    """(..., 12, D, Gh, Gw) around the identity, every number different."""
    noise = 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return noise + identity_coefficients(*shape[-3:])


def random_grid(depth: int = 4, height: int = 3, width: int = 5, seed: int = 0) -> AffineGrid:
    return AffineGrid(random_coefficients(12, depth, height, width, seed=seed), random_curve(seed))


def random_photo(*shape: int, seed: int = 0) -> torch.Tensor:
    """In [0, 1], float32."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def random_pixels(height: int, width: int, dtype: type = np.uint8, channels: int = 3, seed: int = 0) -> np.ndarray:
    top = int(np.iinfo(dtype).max) + 1
    return np.random.default_rng(seed).integers(0, top, (height, width, channels)).astype(dtype)


def every_value(dtype: type) -> np.ndarray:
    """(H, W, 3) in which each channel takes every value of the type, never all three the same one."""
    values = np.arange(int(np.iinfo(dtype).max) + 1, dtype=dtype)
    side = int(len(values) ** 0.5)
    return np.stack([values, values[::-1], np.roll(values, 77)], axis=-1).reshape(side, side, 3)


def numbers_of(curve: GuideCurve) -> dict[str, np.ndarray]:
    return {name: tensor.detach().double().numpy() for name, tensor in curve.state_dict().items()}


# ---------------------------------------------------------------- slice, apply and guide against the reference


@pytest.mark.parametrize(
    ("grid", "size"),
    [
        ((4, 3, 5), (7, 6)),
        ((2, 5, 3), (5, 9)),
        ((3, 2, 4), (1, 6)),
        ((3, 4, 2), (6, 1)),
        ((3, 2, 3), (1, 1)),
        ((1, 1, 1), (3, 4)),
        ((5, 6, 7), (2, 2)),
    ],
)
def test_slicing_equals_the_loops_on_any_grid_and_size(grid: tuple[int, ...], size: tuple[int, int]) -> None:
    coefficients = random_coefficients(2, 12, *grid).double()
    guide = random_photo(2, 1, *size).double()
    guide[0, 0, 0, 0], guide[1, 0, -1, -1] = 0, 1
    sliced = slice_affine_grid(coefficients, guide)
    for number in range(2):
        expected = sliced_by_loops(coefficients[number].numpy(), guide[number, 0].numpy())
        np.testing.assert_allclose(sliced[number].numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(5, 8), (9, 4), (1, 7), (6, 1)])
def test_a_whole_retouch_equals_the_loops(size: tuple[int, int]) -> None:
    head = AffineGridHead(grid_depth=3, guide_knots=5).double()
    head.guide.load_state_dict(random_curve(seed=3).state_dict())
    coefficients = random_coefficients(2, 12, 3, 4, 2).double()
    photo = random_photo(2, 3, *size).double() * 2 - 1
    retouched = head.retouch(coefficients, photo)
    for number in range(2):
        expected = retouched_by_loops(coefficients[number].numpy(), numbers_of(head.guide), photo[number].numpy())
        np.testing.assert_allclose(retouched[number].detach().numpy(), expected, rtol=0, atol=1e-12)


def test_apply_equals_the_loops_on_the_photos_scale() -> None:
    grid = random_grid()
    photo = random_photo(3, 6, 9)
    expected = retouched_by_loops(
        grid.coefficients.double().numpy(), numbers_of(grid.guide), photo.double().numpy() * 2 - 1
    )
    expected = np.clip((expected + 1) / 2, 0, 1)
    assert 0.02 < (expected % 1 == 0).mean() < 0.5, "the case has to hit the clamp, and not everywhere"
    np.testing.assert_allclose(grid.apply(photo).numpy(), expected, rtol=0, atol=2e-6)


def test_the_guide_equals_the_loops_and_clamps_at_both_ends() -> None:
    curve = random_curve(seed=5, knots=7).double()
    with torch.no_grad():
        curve.slopes.mul_(4)
        curve.bias.sub_(1.5)
    photo = random_photo(2, 3, 5, 6).double() * 2 - 1
    guide = curve(photo)
    expected = [
        [[guide_of_pixel(list(picture[:, i, j]), numbers_of(curve)) for j in range(6)] for i in range(5)]
        for picture in photo.numpy()
    ]
    assert guide.min() == 0 and guide.max() == 1
    np.testing.assert_allclose(guide[:, 0].detach().numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("column", range(4))
def test_coefficient_4r_plus_c_carries_input_c_to_output_r(row: int, column: int) -> None:
    affine = torch.zeros(1, 12, 2, 2)
    affine[0, 4 * row + column] = 10
    photo = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    expected = torch.zeros(1, 3, 2, 2)
    expected[0, row] = (1.0, 2.0, 3.0, 10.0)[column]
    torch.testing.assert_close(apply_affine(affine, photo), expected)


def test_the_guide_matrix_multiplies_from_the_right() -> None:
    curve = GuideCurve(1, (0.0, 1.0))
    with torch.no_grad():
        curve.matrix.copy_(torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
        curve.slopes.copy_(torch.tensor([[0.0], [0.0], [3.0]]))
    photo = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    assert curve(photo).item() == pytest.approx(0.1), "red alone reaches the blue curve"


@pytest.mark.parametrize("axis", ["depth", "rows", "columns"])
def test_the_grids_axes_are_depth_rows_columns(axis: str) -> None:
    coefficients = torch.zeros(1, 12, 2, 3, 5)
    number = {"depth": 2, "rows": 3, "columns": 4}[axis]
    coefficients += torch.arange(float(coefficients.shape[number])).view([-1 if n == number else 1 for n in range(5)])
    guide = torch.linspace(0, 1, 4).view(1, 1, 4, 1, 1).expand(1, 1, 4, 6, 7)
    sliced = torch.stack([slice_affine_grid(coefficients, guide[:, :, k]) for k in range(4)])[:, 0, 0]  # (4, 6, 7)
    varies = [bool((sliced.diff(dim=d) > 0.1).any()) for d in range(3)]
    assert varies == [axis == "depth", axis == "rows", axis == "columns"]


def test_a_swapped_photo_under_a_swapped_retouch_is_the_swapped_result() -> None:
    """RGB order reaches the guide, the inputs and the outputs alike."""
    grid, photo, order = random_grid(), random_pixels(5, 7), [2, 0, 1]
    swapped = AffineGrid(grid.coefficients, grid.guide)
    rows = grid.coefficients.unflatten(0, (3, 4))
    swapped.coefficients = rows[order][:, [*order, 3]].flatten(0, 1)
    swapped.guide.matrix.data = grid.guide.matrix[order]
    np.testing.assert_array_equal(swapped.apply(photo[..., order]), grid.apply(photo)[..., order])


# ---------------------------------------------------------------- gradients


def away_from_kinks(values: torch.Tensor, kinks: torch.Tensor, margin: float = 1e-4) -> bool:
    return bool((values[..., None] - kinks).abs().min() > margin)


def test_gradients_of_slicing_reach_grid_and_guide() -> None:
    coefficients = random_coefficients(2, 12, 3, 2, 3).double().requires_grad_()
    guide = random_photo(2, 1, 3, 4).double().requires_grad_()
    assert away_from_kinks(guide.detach() * 3 - 0.5, torch.arange(3.0))
    assert torch.autograd.gradcheck(slice_affine_grid, (coefficients, guide))


def test_gradients_of_applying_reach_transforms_and_photo() -> None:
    affine = random_coefficients(2, 12, 1, 3, 4)[:, :, 0].double().requires_grad_()
    photo = (random_photo(2, 3, 3, 4).double() * 2 - 1).requires_grad_()
    assert torch.autograd.gradcheck(apply_affine, (affine, photo))


def test_gradients_of_the_guide_reach_photo_and_every_parameter() -> None:
    curve = random_curve(seed=1).double()
    photo = (random_photo(2, 3, 2, 3).double() * 1.6 - 0.8).requires_grad_()
    mixed = torch.einsum("bchw,cd->bhwd", photo, curve.matrix) + curve.matrix_bias
    assert away_from_kinks(mixed.detach(), curve.thresholds.detach().flatten())
    guide = curve(photo).detach()
    assert guide.min() > 0 and guide.max() < 1, "clamped pixels have no gradient to check"
    names = [name for name, _ in curve.named_parameters()]

    def guide_of(photo: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(curve, dict(zip(names, parameters, strict=True)), photo)

    assert torch.autograd.gradcheck(guide_of, (photo, *curve.parameters()))


def test_gradients_of_a_whole_retouch_reach_features_and_photo() -> None:
    torch.manual_seed(0)
    head = AffineGridHead(hidden_channels=(3,), mid_channels=4, grid_depth=2, guide_knots=4).double()
    features = torch.randn(1, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    photo = (random_photo(1, 3, 2, 3, seed=2).double() * 1.8 - 0.9).requires_grad_()
    assert away_from_kinks(photo.detach(), head.guide.thresholds.detach().flatten())
    assert away_from_kinks(head.guide(photo).detach() * 2 - 0.5, torch.arange(2.0))
    assert torch.autograd.gradcheck(lambda f, p: head.retouch(head(f), p), (features, photo))


def test_training_gradients_survive_pixels_beyond_the_photo_range() -> None:
    head = AffineGridHead()
    coefficients = (4 * identity_coefficients(8, 2, 2))[None].requires_grad_()
    head.retouch(coefficients, torch.full((1, 3, 2, 2), 0.9)).sum().backward()
    assert coefficients.grad is not None and coefficients.grad.abs().sum() > 0


# ---------------------------------------------------------------- tiles and memory


@pytest.mark.parametrize("tile_pixels", [1, 7, 40, 90])
@pytest.mark.parametrize("size", [(13, 20), (1, 33), (29, 1)])
def test_bands_of_rows_equal_the_whole(
    tile_pixels: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, photo = random_grid(), random_photo(2, 3, *size)
    array = photo[0].permute(1, 2, 0).numpy()
    whole, whole_array = grid.apply(photo), grid.apply(array)
    monkeypatch.setattr(modeling_affine_grid, "_TILE_PIXELS", tile_pixels)
    assert len(grid._bands(*size)) == -(-size[0] // max(1, tile_pixels // size[1]))
    torch.testing.assert_close(grid.apply(photo), whole, rtol=0, atol=1e-6)
    np.testing.assert_allclose(grid.apply(array), whole_array, rtol=0, atol=1e-6)


def test_a_photo_of_several_tiles_equals_one_pass() -> None:
    grid, photo = random_grid(8, 16, 16), random_photo(1, 3, 451, 601)
    assert len(grid._bands(451, 601)) == 3
    signed = photo * 2 - 1
    affine = slice_affine_grid(grid.coefficients[None], grid.guide(signed))
    expected = ((apply_affine(affine, signed) + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(grid.apply_tiled(photo), expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(grid.apply(photo), expected, rtol=0, atol=5e-6)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_beyond_input_and_output_does_not_grow_with_the_photo() -> None:
    """Peaks of a process of its own: this one is past its own. All transforms at once would take 229 MB."""
    code = """
        import re
        import numpy as np, torch
        from diffretouch.model.modeling_affine_grid import AffineGrid

        def peak():
            return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

        grid = AffineGrid.identity()
        grid.apply_tiled(np.zeros((400, 2000, 3), np.uint8), 0.5)
        for photo in (np.zeros((2500, 2000, 3), np.uint8), torch.zeros(3, 2500, 2000, dtype=torch.float16)):
            photo += 1
            output = photo.nbytes / 2**20
            before = peak()
            grid.apply_tiled(photo, 0.5)
            print(peak() - before - output)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=500
    )
    extras = [float(line) for line in run.stdout.split()]
    assert len(extras) == 2 and max(extras) < 40, f"MB beyond the output, of uint8 and float16: {extras}"


# ---------------------------------------------------------------- identity and strength


@pytest.mark.parametrize("strength", [0, 0.5, 1, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_identity_keeps_every_value_of_an_integer_photo(dtype: type, strength: float) -> None:
    photo = every_value(dtype)
    retouched = AffineGrid.identity().apply(photo, strength)
    assert retouched.dtype == dtype
    np.testing.assert_array_equal(retouched, photo)


@pytest.mark.parametrize("size", [(1, 1, 1), (5, 3, 7)])
def test_the_identity_of_any_grid_size_keeps_a_float_photo(size: tuple[int, int, int]) -> None:
    photo = random_photo(3, 11, 8)
    identity = AffineGrid.identity(*size)
    assert identity.coefficients.shape == (12, *size)
    torch.testing.assert_close(identity.apply(photo), photo, rtol=0, atol=1e-7)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_the_identity_keeps_every_kind_of_pil_image(mode: str) -> None:
    picture = PIL.Image.fromarray(random_pixels(7, 9, channels=4 if mode in ("LA", "RGBA") else 3)).convert(mode)
    retouched = AffineGrid.identity().apply(picture)
    assert retouched.mode == ("RGBA" if mode in ("RGBA", "LA") else "RGB")
    assert retouched.size == (9, 7)
    np.testing.assert_array_equal(np.asarray(retouched), np.asarray(picture.convert(retouched.mode)))


def test_alpha_comes_back_untouched_under_a_strong_retouch() -> None:
    pixels = random_pixels(6, 8, channels=4)
    retouched = np.asarray(random_grid().apply(PIL.Image.fromarray(pixels)))
    np.testing.assert_array_equal(retouched[..., 3], pixels[..., 3])
    np.testing.assert_array_equal(retouched[..., :3], random_grid().apply(pixels[..., :3]))


def test_a_palette_with_a_transparent_colour_keeps_its_transparency() -> None:
    picture = PIL.Image.fromarray(random_pixels(6, 8)).quantize(4)
    picture.info["transparency"] = 2
    retouched = random_grid().apply(picture)
    assert retouched.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(retouched)[..., 3] == 0, np.asarray(picture) == 2)


def test_a_pil_image_keeps_its_colour_profile() -> None:
    picture = PIL.Image.fromarray(random_pixels(4, 5))
    picture.info["icc_profile"] = b"a profile"
    assert random_grid().apply(picture).info["icc_profile"] == b"a profile"


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float16", "float32", "float64", "torch", "torch batch", "PIL"])
def test_strength_zero_returns_the_photo_itself_bit_for_bit(kind: str) -> None:
    pixels = random_pixels(6, 9, np.uint16)
    photo: Any = {
        "uint8": lambda: pixels.astype(np.uint8),
        "uint16": lambda: pixels,
        "torch": lambda: random_photo(3, 6, 9).double() / 3,
        "torch batch": lambda: random_photo(2, 3, 6, 9),
        "PIL": lambda: PIL.Image.fromarray(pixels.astype(np.uint8)),
    }.get(kind, lambda: (pixels / 65535).astype(kind))()
    returned = random_grid().apply(photo, 0)
    assert type(returned) is type(photo) and returned is not photo
    np.testing.assert_array_equal(np.asarray(returned), np.asarray(photo))


def test_strength_zero_returns_a_copy_not_the_callers_array() -> None:
    array, tensor = random_pixels(3, 4), random_photo(3, 3, 4)
    returned, returned_tensor = random_grid().apply(array, 0), random_grid().apply(tensor, 0)
    returned += 1
    returned_tensor += 1
    np.testing.assert_array_equal(array, random_pixels(3, 4))
    torch.testing.assert_close(tensor, random_photo(3, 3, 4))


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0, 1.5, 2.0])
def test_strength_blends_the_transforms_with_the_identity(strength: float) -> None:
    grid, photo = random_grid(), random_photo(3, 9, 12)
    neutral = identity_coefficients(*grid.coefficients.shape[1:])
    blended = AffineGrid(neutral + strength * (grid.coefficients - neutral), grid.guide)
    torch.testing.assert_close(grid.apply(photo, strength), blended.apply(photo), rtol=0, atol=2e-6)


@pytest.mark.parametrize("strength", [1, np.float32(0.5), np.float64(0.5), np.int64(2)])
def test_strength_may_be_any_real_number(strength: Any) -> None:
    photo = random_pixels(4, 5)
    np.testing.assert_array_equal(random_grid().apply(photo, strength), random_grid().apply(photo, float(strength)))


# ---------------------------------------------------------------- every kind of photo


def test_numpy_pil_and_torch_agree() -> None:
    grid, pixels = random_grid(), random_pixels(10, 7)
    retouched = grid.apply(pixels)
    np.testing.assert_array_equal(np.asarray(grid.apply(PIL.Image.fromarray(pixels))), retouched)
    tensor = grid.apply(torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    np.testing.assert_array_equal((tensor * 255).round().byte().permute(1, 2, 0).numpy(), retouched)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.dtype(">f4")])
def test_float_arrays_come_back_in_their_own_type(dtype: Any) -> None:
    photo = random_photo(8, 5, 3).numpy().astype(dtype)
    retouched = random_grid().apply(photo)
    assert retouched.dtype == dtype
    expected = random_grid().apply(photo.astype(np.float32))
    np.testing.assert_allclose(retouched, expected, rtol=0, atol=5e-4 if dtype == np.float16 else 1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_float_tensors_come_back_in_their_own_type(dtype: torch.dtype) -> None:
    photo = random_photo(3, 8, 5).to(dtype)
    retouched = random_grid().apply(photo)
    assert retouched.dtype == dtype
    expected = random_grid().apply(photo.float())
    torch.testing.assert_close(retouched, expected.to(dtype), rtol=0, atol=0)


def test_a_batch_of_tensors_equals_single_ones() -> None:
    grid, photos = random_grid(), random_photo(3, 3, 8, 5)
    batch = grid.apply(photos)
    assert batch.shape == photos.shape
    for photo, retouched in zip(photos, batch, strict=True):
        torch.testing.assert_close(grid.apply(photo), retouched, rtol=0, atol=0)


def test_sixteen_bits_are_finer_than_eight() -> None:
    ramp = np.linspace(20000, 21000, 200).astype(np.uint16).reshape(1, 200, 1).repeat(3, axis=2)
    assert len(np.unique(random_grid().apply(ramp))) > 100


def test_memory_layout_of_the_photo_does_not_matter() -> None:
    grid, pixels, tensor = random_grid(), random_pixels(6, 8), random_photo(2, 3, 6, 8)
    mirrored = pixels[::-1, :, ::-1]
    np.testing.assert_array_equal(grid.apply(mirrored), grid.apply(mirrored.copy()))
    read_only = pixels.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(grid.apply(read_only), grid.apply(pixels))
    channels_last = tensor.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(grid.apply(channels_last), grid.apply(tensor), rtol=0, atol=1e-6)
    expanded = tensor[:1].expand(2, 3, 6, 8)
    torch.testing.assert_close(grid.apply(expanded), grid.apply(expanded.clone()), rtol=0, atol=1e-6)


def test_the_photo_is_never_written_to_and_carries_no_graph() -> None:
    grid, pixels = random_grid(), random_pixels(6, 8)
    tensor = random_photo(3, 6, 8).requires_grad_()
    assert not grid.apply(tensor).requires_grad
    grid.apply(pixels)
    np.testing.assert_array_equal(pixels, random_pixels(6, 8))
    torch.testing.assert_close(tensor.detach(), random_photo(3, 6, 8), rtol=0, atol=0)


# ---------------------------------------------------------------- refused at the border


@pytest.mark.parametrize(
    ("photo", "error", "said"),
    [
        (np.zeros((4, 5, 3), np.int32), TypeError, "int32"),
        (np.zeros((4, 5, 3), np.int8), TypeError, "int8"),
        (np.zeros((4, 5, 3), bool), TypeError, "bool"),
        (np.zeros((4, 5, 3), np.complex64), TypeError, "complex64"),
        (np.zeros((4, 5, 3), object), TypeError, "object"),
        (np.zeros((4, 5), np.uint8), ValueError, r"\(4, 5\)"),
        (np.zeros((4, 5, 1), np.uint8), ValueError, r"\(4, 5, 1\)"),
        (np.zeros((4, 5, 4), np.uint8), ValueError, r"\(4, 5, 4\)"),
        (np.zeros((3, 4, 5), np.uint8), ValueError, r"\(3, 4, 5\)"),
        (np.zeros((1, 4, 5, 3), np.uint8), ValueError, r"\(1, 4, 5, 3\)"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, r"\(0, 5, 3\)"),
        (np.zeros((4, 0, 3), np.float32), ValueError, r"\(4, 0, 3\)"),
        (np.full((4, 5, 3), np.nan), ValueError, "NaN"),
        (np.full((4, 5, 3), np.inf, np.float16), ValueError, "infinite"),
        (np.full((4, 5, 3), 1.5), ValueError, r"\[0, 1\].*1\.5"),
        (np.full((4, 5, 3), -0.25, np.float16), ValueError, r"\[0, 1\].*-0\.25"),
        (torch.zeros(3, 4, 5, dtype=torch.uint8), TypeError, "uint8"),
        (torch.zeros(3, 4, 5, dtype=torch.int32), TypeError, "int32"),
        (torch.zeros(3, 4, 5, dtype=torch.bool), TypeError, "bool"),
        (torch.zeros(4, 5), ValueError, r"\(4, 5\)"),
        (torch.zeros(4, 5, 3), ValueError, r"\(4, 5, 3\)"),
        (torch.zeros(2, 1, 4, 5), ValueError, r"\(2, 1, 4, 5\)"),
        (torch.zeros(0, 3, 4, 5), ValueError, r"\(0, 3, 4, 5\)"),
        (torch.zeros(3, 4, 0), ValueError, r"\(3, 4, 0\)"),
        (torch.full((3, 4, 5), torch.nan), ValueError, "NaN"),
        (torch.full((3, 4, 5), 255.0), ValueError, r"\[0, 1\].*255"),
        (torch.full((3, 4, 5), -1.0, dtype=torch.bfloat16), ValueError, r"\[0, 1\].*-1"),
        (PIL.Image.new("RGB", (0, 4)), ValueError, "0 x 4"),
        (PIL.Image.new("I;16", (4, 4)), ValueError, "8 bits per channel.*I;16"),
        (PIL.Image.new("F", (4, 4)), ValueError, "8 bits per channel.*F"),
        (PIL.Image.new("I", (4, 4)), ValueError, "8 bits per channel.*I"),
        ([[0.5, 0.5, 0.5]], TypeError, "list"),
        ("photo.jpg", TypeError, "str"),
        (None, TypeError, "NoneType"),
    ],
)
def test_other_photos_are_refused_in_one_sentence(photo: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match="`photo` has to (be|hold) .*got") as raised:
        AffineGrid.identity().apply(photo)
    assert raised.match(said)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("strength", "error"),
    [
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (-1, ValueError),
        (-1e-9, ValueError),
        (2.0001, ValueError),
        (3, ValueError),
        (10**400, ValueError),
        (np.float32(np.nan), ValueError),
        ("a", TypeError),
        ("1", TypeError),
        (True, TypeError),
        (None, TypeError),
        ([0.5], TypeError),
        (1j, TypeError),
    ],
)
def test_other_strengths_are_refused_in_one_sentence(strength: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"`strength` has to be a number in \[0, 2\], got "):
        AffineGrid.identity().apply(np.zeros((2, 2, 3), np.uint8), strength)


@pytest.mark.parametrize(
    ("coefficients", "error", "said"),
    [
        (np.zeros((12, 8, 16, 16)), TypeError, "ndarray"),
        (torch.zeros(12, 8, 16, 16, dtype=torch.int64), TypeError, "int64"),
        (torch.zeros(12, 8, 16, 16, dtype=torch.complex64), TypeError, "complex64"),
        (torch.zeros(12, 8, 16), ValueError, r"\(12, 8, 16\)"),
        (torch.zeros(1, 12, 8, 16, 16), ValueError, r"\(1, 12, 8, 16, 16\)"),
        (torch.zeros(8, 12, 16, 16), ValueError, r"\(8, 12, 16, 16\)"),
        (torch.zeros(12, 0, 16, 16), ValueError, r"\(12, 0, 16, 16\)"),
        (torch.full((12, 1, 1, 1), torch.nan), ValueError, "NaN"),
        (torch.full((12, 1, 1, 1), 1e300, dtype=torch.float64), ValueError, "infinite"),
    ],
)
def test_other_coefficients_are_refused_in_one_sentence(coefficients: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=rf"`coefficients` has to be .*got.*{said}"):
        AffineGrid(coefficients, GuideCurve())


def test_other_guides_are_refused_in_one_sentence() -> None:
    with pytest.raises(TypeError, match="`guide` has to be a GuideCurve, got dict"):
        AffineGrid(identity_coefficients(1, 1, 1), {})
    broken = GuideCurve().requires_grad_(False)
    broken.slopes[1, 2] = torch.nan
    with pytest.raises(ValueError, match="`guide` has to be finite"):
        AffineGrid(identity_coefficients(1, 1, 1), broken)


# ---------------------------------------------------------------- look files


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.view(torch.int32), other.view(torch.int32))


@pytest.mark.parametrize("knots", [1, 5, 16])
def test_a_look_comes_back_bit_for_bit(knots: int, tmp_path: Path) -> None:
    grid = AffineGrid(random_coefficients(12, 2, 3, 4), random_curve(knots=knots))
    grid.coefficients[0, 0, 0, :3] = torch.tensor([-0.0, 1e-45, 3e38])
    grid.save(tmp_path / "look.safetensors")
    loaded = AffineGrid.load(str(tmp_path / "look.safetensors"))
    assert same_bits(loaded.coefficients, grid.coefficients)
    state = grid.guide.state_dict()
    assert {name: tensor.shape for name, tensor in loaded.guide.state_dict().items()} == {
        name: tensor.shape for name, tensor in state.items()
    }
    assert all(same_bits(tensor, state[name]) for name, tensor in loaded.guide.state_dict().items())


def test_a_loaded_look_retouches_alike(tmp_path: Path) -> None:
    grid, photo = random_grid(), random_pixels(9, 7, np.uint16)
    grid.save(tmp_path / "look.safetensors")
    np.testing.assert_array_equal(
        AffineGrid.load(tmp_path / "look.safetensors").apply(photo, 0.7), grid.apply(photo, 0.7)
    )


def look_with(tmp_path: Path, metadata: dict[str, str] | None = LOOK, **changes: torch.Tensor | None) -> Path:
    """A saved look whose tensors are replaced, added or (None) removed; `guide_x` names tensor `guide.x`."""
    path = tmp_path / "look.safetensors"
    random_grid().save(path)
    tensors: dict[str, torch.Tensor | None] = dict(load_file(path))
    tensors |= {name.replace("guide_", "guide.", 1): tensor for name, tensor in changes.items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path, metadata)
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"coefficients": None}, "coefficients"),
        ({"coefficients": torch.zeros(12, 8, 16)}, "coefficients"),
        ({"coefficients": torch.zeros(11, 8, 16, 16)}, "coefficients"),
        ({"coefficients": torch.zeros(12, 0, 1, 1)}, "coefficients"),
        ({"coefficients": torch.full((12, 1, 1, 1), torch.nan)}, "finite"),
        ({"coefficients": torch.full((12, 1, 1, 1), torch.inf)}, "finite"),
        ({"coefficients": torch.zeros(12, 1, 1, 1, dtype=torch.int64)}, "float32"),
        ({"coefficients": torch.zeros(12, 1, 1, 1, dtype=torch.float64)}, "float32"),
        ({"coefficients": torch.zeros(12, 1, 1, 1).to(torch.float8_e4m3fn)}, "float32"),
        ({"guide_matrix": None}, "guide"),
        ({"guide_thresholds": None}, "guide"),
        ({"guide_thresholds": torch.zeros(3, 0)}, "guide"),
        ({"guide_thresholds": torch.zeros(0)}, "guide"),
        ({"guide_thresholds": torch.zeros(())}, "guide"),
        ({"guide_slopes": torch.zeros(3, 4)}, "guide"),
        ({"guide_matrix": torch.zeros(9)}, "guide"),
        ({"guide_matrix": torch.full((3, 3), torch.nan)}, "finite"),
        ({"guide_bias": torch.tensor(torch.inf)}, "finite"),
        ({"guide_more": torch.zeros(3)}, "guide"),
    ],
)
def test_a_damaged_look_is_refused_in_one_sentence(
    changes: dict[str, torch.Tensor | None], said: str, tmp_path: Path
) -> None:
    path = look_with(tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"`path` has to .*{said}") as raised:
        AffineGrid.load(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, LOOK | {"version": "2"}, LOOK | {"format": "other"}])
def test_other_safetensors_files_are_refused(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    path = look_with(tmp_path, metadata)
    with pytest.raises(ValueError, match="`path` has to be a look of version 1, got "):
        AffineGrid.load(path)


@pytest.mark.parametrize("kept", [0, 4, 8, 40, 400, -1])
def test_a_truncated_look_is_refused(kept: int, tmp_path: Path) -> None:
    path = look_with(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="`path` has to be a look file"):
        AffineGrid.load(path)


def test_files_that_are_no_safetensors_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    pickled, picture = tmp_path / "look.pt", tmp_path / "look.png"
    torch.save({"coefficients": Trap()}, pickled)
    PIL.Image.new("RGB", (3, 3)).save(picture)
    for path in (pickled, picture):
        with pytest.raises(ValueError, match="`path` has to be a look file"):
            AffineGrid.load(path)
    assert not (tmp_path / "sprung").exists()


def test_a_folder_is_refused_and_a_missing_file_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`path` has to be a look file"):
        AffineGrid.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing.safetensors"):
        AffineGrid.load(tmp_path / "missing.safetensors")


def test_saving_replaces_the_old_look_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "look.safetensors"
    AffineGrid.identity().save(path)
    random_grid().save(path)
    assert same_bits(AffineGrid.load(path).coefficients, random_grid().coefficients)
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_look_and_no_part_of_the_new(tmp_path: Path) -> None:
    path = tmp_path / "look.safetensors"
    AffineGrid.identity(1, 1, 1).save(path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the kernel refuses to write on, as a full disk does
    try:
        with pytest.raises(OSError):
            random_grid(8, 16, 16).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_target_that_cannot_be_replaced_leaves_no_part(tmp_path: Path) -> None:
    folder = tmp_path / "look.safetensors"
    folder.mkdir()
    with pytest.raises(OSError):
        random_grid().save(folder)
    with pytest.raises(FileNotFoundError):
        random_grid().save(tmp_path / "nowhere" / "look.safetensors")
    assert list(tmp_path.iterdir()) == [folder]


def test_threads_that_save_to_one_path_do_not_trip_over_each_other(tmp_path: Path) -> None:
    path, grids, failures = tmp_path / "look.safetensors", [random_grid(seed=n) for n in range(4)], []

    def save_often(grid: AffineGrid) -> None:
        try:
            for _ in range(25):
                grid.save(path)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=save_often, args=(grid,)) for grid in grids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert any(same_bits(AffineGrid.load(path).coefficients, grid.coefficients) for grid in grids)
    assert list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------- the head


@pytest.mark.parametrize(
    ("config", "features", "shape"),
    [
        ({}, (2, 4, 64, 64), (2, 12, 8, 16, 16)),
        ({}, (1, 4, 32, 48), (1, 12, 8, 8, 12)),
        ({"hidden_channels": (8,), "grid_depth": 5}, (1, 4, 32, 20), (1, 12, 5, 16, 10)),
        ({"hidden_channels": (8, 12, 16), "mid_channels": 7}, (1, 4, 64, 64), (1, 12, 8, 8, 8)),
        ({"hidden_channels": (), "grid_depth": 1}, (1, 4, 6, 5), (1, 12, 1, 6, 5)),
        ({"in_channels": 6, "guide_knots": 3}, (1, 6, 10, 7), (1, 12, 8, 3, 2)),
    ],
)
def test_the_config_decides_the_grids_size(
    config: dict[str, Any], features: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    head = AffineGridHead(**config)
    coefficients = head(torch.randn(features))
    assert coefficients.shape == shape
    assert head.guide.thresholds.shape == head.guide.slopes.shape == (3, config.get("guide_knots", 16))
    photo = random_photo(shape[0], 3, 9, 14) * 2 - 1
    assert head.retouch(coefficients, photo).shape == photo.shape
    assert [grid.coefficients.shape for grid in head.grids(coefficients)] == [shape[1:]] * shape[0]


def test_the_default_head_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in AffineGridHead().parameters()) == 13_693


def test_affine_index_is_slower_than_depth_in_the_heads_output() -> None:
    head = AffineGridHead(grid_depth=3)
    with torch.no_grad():
        head.out.weight.zero_()
        head.out.bias.copy_(torch.arange(36.0))
    coefficients = head(torch.zeros(1, 4, 8, 8))
    torch.testing.assert_close(coefficients[0, :, :, 1, 1], torch.arange(36.0).view(12, 3))


def test_a_head_with_a_global_path_of_version_0_1_is_refused_in_one_line() -> None:
    config = {**AffineGridHead().config, "global_channels": 8}
    with pytest.raises(ValueError, match=r"`grid_head` has a global path .*trust_remote_code=True.*0\.1"):
        AffineGridHead.from_config(config)


@pytest.mark.parametrize("seed", range(3))
def test_an_untrained_head_returns_nearly_the_photo(seed: int) -> None:
    torch.manual_seed(seed)
    head = AffineGridHead()
    with torch.no_grad():
        coefficients = head(torch.randn(2, 4, 64, 64))
        photo = random_photo(2, 3, 40, 30) * 2 - 1
        difference = (head.retouch(coefficients, photo) - photo).abs()
    assert 0 < difference.mean() < 0.1, "on a scale of 2"
    neutral = identity_coefficients(8, 16, 16)
    assert coefficients.std(dim=0).max() > 0, "not stuck at the identity: features have to matter"
    assert (coefficients - neutral).abs().mean() < 0.05


def test_without_a_bias_no_features_are_no_retouch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = AffineGridHead(bias=False, smoothing=2.0)
    neutral = identity_coefficients(8, 16, 16)[None]
    assert torch.equal(head(torch.zeros(1, 4, 64, 64)), neutral)
    assert not torch.equal(head(torch.randn(1, 4, 64, 64)), neutral)
    head.save_pretrained(tmp_path)
    features = torch.randn(1, 4, 64, 64)
    assert torch.equal(AffineGridHead.from_pretrained(tmp_path)(features), head(features))
    assert not torch.equal(AffineGridHead()(torch.zeros(1, 4, 64, 64)), neutral), "as published it has an opinion"


def test_smoothing_spreads_what_one_place_does_and_keeps_what_all_places_do() -> None:
    maps = torch.full((2, 3, 16, 12), 0.7)
    torch.testing.assert_close(smoothed(maps, 2.0), maps)
    maps[0, 1, 8, 6] += 1
    spread = smoothed(maps, 1.5) - 0.7
    assert spread[0, 1].argmax() == 8 * 12 + 6 and 0.05 < spread[0, 1, 8, 6] < 0.09
    assert spread[0, 1].sum().item() == pytest.approx(1, abs=1e-4) and spread[1].abs().max() < 1e-6
    torch.testing.assert_close(spread[0, 1, 8, 3:10], spread[0, 1, 5:12, 6])


def test_a_head_with_smoothing_is_the_same_head_smoothed() -> None:
    torch.manual_seed(0)
    plain, features = AffineGridHead(), torch.randn(1, 4, 64, 64)
    smooth = AffineGridHead(smoothing=2.0)
    smooth.load_state_dict(plain.state_dict())
    expected = smoothed(plain(features).flatten(1, 2), 2.0).view(1, 12, 8, 16, 16)
    torch.testing.assert_close(smooth(features), expected)
    assert smooth(features).diff(dim=-1).abs().mean() < 0.5 * plain(features).diff(dim=-1).abs().mean()


def test_a_neutral_look_makes_every_photo_exactly_grey_and_keeps_a_grey_photos_retouch() -> None:
    torch.manual_seed(0)
    coefficients = identity_coefficients(8, 4, 4) + 0.1 * torch.randn(12, 8, 4, 4)
    neutral = AffineGrid(coefficients, GuideCurve()).neutral()
    coloured = (random_photo(1, 3, 20, 30)[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.ptp(neutral.apply(coloured), axis=2).max() == 0
    large = np.tile(coloured, (40, 30, 1))  # what the compiled apply takes
    assert np.ptp(neutral.apply(large), axis=2).max() == 0
    planes = torch.from_numpy(large).permute(2, 0, 1).float() / 255
    red, green, blue = neutral.apply(planes)
    assert torch.equal(red, green) and torch.equal(red, blue)
    grey = coloured[..., :1].repeat(3, 2)
    luma = AffineGrid(coefficients, GuideCurve()).apply(grey / np.float32(255)) @ np.float32([0.299, 0.587, 0.114])
    inside = (luma > 0.1) & (luma < 0.9)
    assert np.abs(neutral.apply(grey)[..., 0] / 255 - luma)[inside].max() < 0.06
    assert np.abs(neutral.apply(grey)[..., 0] / 255 - luma)[inside].mean() < 0.01


def test_head_and_apply_agree_on_one_retouch() -> None:
    torch.manual_seed(0)
    head = AffineGridHead()
    coefficients, photo = random_coefficients(2, 12, 8, 4, 4), random_photo(2, 3, 11, 6)
    with torch.no_grad():
        expected = ((head.retouch(coefficients, photo * 2 - 1) + 1) / 2).clamp(0, 1)
    for grid, single, wanted in zip(head.grids(coefficients), photo, expected, strict=True):
        torch.testing.assert_close(grid.apply(single), wanted, rtol=0, atol=2e-6)


def test_grids_do_not_follow_later_changes_of_head_or_coefficients() -> None:
    torch.manual_seed(0)
    head = AffineGridHead()
    coefficients, photo = random_coefficients(2, 12, 8, 4, 4), random_pixels(8, 9)
    grids = head.grids(coefficients)
    before = [grid.apply(photo) for grid in grids]
    with torch.no_grad():
        coefficients.zero_()
        for parameter in head.parameters():
            parameter.add_(1)
    for grid, picture in zip(grids, before, strict=True):
        np.testing.assert_array_equal(grid.apply(photo), picture)
    with torch.no_grad():
        grids[0].guide.bias.add_(1)
    np.testing.assert_array_equal(grids[1].apply(photo), before[1])
    assert not any(parameter.requires_grad for parameter in grids[0].guide.parameters())


def test_a_grid_may_live_on_another_device_in_a_copy() -> None:
    grid = random_grid()
    moved = grid.to("cpu")
    moved.coefficients.zero_()
    assert grid.coefficients.abs().sum() > 0 and "4x3x5" in repr(grid)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {
            "in_channels": 5,
            "hidden_channels": (6, 7, 8),
            "mid_channels": 9,
            "grid_depth": 3,
            "guide_knots": 4,
            "guide_threshold_range": (0.0, 1.0),
        },
    ],
)
def test_a_saved_head_comes_back_with_config_and_weights(config: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = AffineGridHead(**config).eval()
    head.guide.load_state_dict(random_curve(knots=head.config.guide_knots).state_dict())
    head.save_pretrained(tmp_path)
    loaded = AffineGridHead.from_pretrained(tmp_path)
    for name in head.config:
        if not name.startswith("_"):
            value, expected = loaded.config[name], head.config[name]
            assert (list(value) if isinstance(expected, tuple) else value) == (
                list(expected) if isinstance(expected, tuple) else expected
            )
    features, photo = torch.randn(1, head.config.in_channels, 16, 16), random_photo(1, 3, 5, 6)
    assert torch.equal(loaded(features), head(features))
    assert torch.equal(loaded.guide(photo), head.guide(photo))


def test_a_head_returns_what_return_dict_asks_for() -> None:
    head, features = AffineGridHead(), torch.randn(1, 4, 64, 64)
    coefficients = head(features)
    output, (alone,) = head(features, return_dict=True), head(features, return_dict=False)
    assert isinstance(output, AffineGridHeadOutput) and output[0] is output.coefficients
    assert torch.equal(output.coefficients, coefficients) and torch.equal(alone, coefficients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_head_gives_float32_grids(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = AffineGridHead()
    head.save_pretrained(tmp_path)
    half = AffineGridHead.from_pretrained(tmp_path, torch_dtype=dtype)
    features, photo = torch.randn(1, 4, 64, 64), random_photo(3, 30, 20)
    coefficients = half(features.to(dtype))
    assert coefficients.dtype == dtype
    (grid,), (exact,) = half.grids(coefficients), head.grids(head(features))
    assert grid.coefficients.dtype == grid.guide.matrix.dtype == torch.float32
    torch.testing.assert_close(grid.apply(photo), exact.apply(photo), rtol=0, atol=2e-2)


def test_half_precision_slicing_still_finds_the_pixels_of_a_wide_photo() -> None:
    """float16 ends at 65504 and bfloat16 counts in steps of four past 512: positions are computed in float32."""
    coefficients = random_coefficients(1, 12, 2, 2, 16)
    for dtype, width in ((torch.float16, 70_000), (torch.bfloat16, 1_000)):
        guide = torch.full((1, 1, 1, width), 0.5)
        sliced = slice_affine_grid(coefficients.to(dtype), guide.to(dtype))
        expected = slice_affine_grid(coefficients.to(dtype).float(), guide)
        torch.testing.assert_close(sliced, expected, rtol=0, atol=1e-6)


def test_a_sequentially_offloaded_head_still_gives_grids() -> None:
    torch.manual_seed(0)
    head, offloaded = AffineGridHead(), AffineGridHead()
    offloaded.load_state_dict(head.state_dict())
    accelerate.cpu_offload(offloaded, torch.device("cpu"))
    features = torch.randn(1, 4, 16, 16)
    (grid,), (expected,) = offloaded.grids(offloaded(features)), head.grids(head(features))
    photo = random_pixels(6, 7)
    np.testing.assert_array_equal(grid.apply(photo), expected.apply(photo))
    assert offloaded.guide.matrix.device.type == "meta", "and the head is offloaded again"


# ---------------------------------------------------------------- the guide at the start of training


@pytest.mark.parametrize("knots", [1, 4, 16])
def test_a_new_guide_rises_everywhere_from_black_to_white(knots: int) -> None:
    ramp = torch.linspace(-1, 1, 401).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    guide = GuideCurve(knots)(ramp)[0, 0, 0].detach()
    assert guide.diff().min() > 0.5 / 400, "nowhere flat"
    assert guide[0] == 0 and guide[-1].item() == pytest.approx(1)


def test_a_new_guide_is_monotone_in_luminance_whatever_the_colour() -> None:
    colours = random_photo(1, 3, 40, 40) * 1.8 - 1
    for channel in range(3):
        brighter = colours.clone()
        brighter[:, channel] += 0.1
        assert (GuideCurve()(brighter) > GuideCurve()(colours)).all()


def test_the_published_knots_leave_everything_under_mid_grey_flat() -> None:
    """The quirk that converted weights rely on; new models start over [-1, 1]."""
    ramp = torch.linspace(-1, 1, 201).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    guide = AffineGridHead(guide_threshold_range=(0.0, 1.0)).guide(ramp)[0, 0, 0]
    assert (guide[:100] == 0).all() and (guide[100:].diff() > 0).all()
