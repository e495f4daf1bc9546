"""`DiffRetouchPipeline` with the real classes at tiny size: the call, its borders, and the model folder."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import accelerate
import diffusers
import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel

import diffretouch
from diffretouch import ATTRIBUTES, AffineGridHead, DiffRetouchPipeline
from diffretouch.model.folder_diffretouch import of_the_package
from diffretouch.model.sampling_diffretouch import are_middle, one_generator_each, truncated_timesteps

SCHEDULERS = {
    "ddpm": ("DDPMScheduler", {}),
    "ddpm_large": ("DDPMScheduler", {"variance_type": "fixed_large"}),
    "ddim": ("DDIMScheduler", {}),
    "dpm_1": ("DPMSolverMultistepScheduler", {"solver_order": 1, "algorithm_type": "dpmsolver++"}),
    "dpm_2": ("DPMSolverMultistepScheduler", {"solver_order": 2, "algorithm_type": "dpmsolver++"}),
    "dpm_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}


def seeded(*seeds):
    """One generator for one seed, else the list of them."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators[0] if len(generators) == 1 else generators


def pixels(height, width, seed=0):
    """A made-up 8-bit photo: (height, width, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def tensor(array):
    """(H, W, 3) uint8 -> (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(array).permute(2, 0, 1).float() / 255


def swap_scheduler(pipe, kind):
    name, options = SCHEDULERS[kind]
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **options)
    return pipe


def recorded_calls(module):
    """The (positional arguments, output) of every call of a module from now on."""
    calls = []
    module.register_forward_hook(lambda _, arguments, output: calls.append((arguments, output)))
    return calls


@pytest.fixture(scope="module")
def pipe(tiny_pipeline):
    """Shared by the tests that change nothing in it."""
    return tiny_pipeline()


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    """The pipeline, saved."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    pipe.save_pretrained(path)
    return path


PHOTO = pixels(20, 30)


# --- The call -------------------------------------------------------------------------------------------------------


def test_signature_has_every_documented_argument_in_order_with_its_default():
    parameters = inspect.signature(DiffRetouchPipeline.__call__).parameters
    defaults = {name: p.default for name, p in parameters.items() if name not in ("self", "image")}
    assert list(parameters)[:2] == ["self", "image"]
    assert list(defaults.items()) == [
        *((name, 0.0) for name in ATTRIBUTES),
        ("strength", 1.0),
        ("num_variants", 1),
        ("num_inference_steps", None),
        ("timesteps", None),
        ("generator", None),
        ("latents", None),
        ("output_type", "pil"),
        ("base", "photo"),
        ("return_dict", True),
        ("callback_on_step_end", None),
        ("callback_on_step_end_tensor_inputs", ("latents",)),
        ("cross_attention_kwargs", None),
    ]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_batch_of_three_sizes_equals_three_single_calls(tiny_pipeline, scheduler):
    pipe = swap_scheduler(tiny_pipeline(), scheduler)
    photos = [pixels(20, 30, 1), pixels(33, 17, 2), pixels(8, 8, 3)]
    sliders = {"brightness": [1.0, -1.0, 0.0], "temperature": [0.0, 0.5, -0.5]}
    last_latents = []

    def run(photos, generator, **sliders):
        keep = {"callback_on_step_end": lambda _, i, t, tensors: last_latents.append(tensors["latents"]) or tensors}
        return pipe(photos, **sliders, **keep, generator=generator, output_type="np", num_inference_steps=3).images

    batch = run(photos, seeded(1, 2, 3), **sliders)
    batch_latents = last_latents[-1]
    for i, photo in enumerate(photos):
        single = run(photo, seeded(i + 1), **{name: values[i] for name, values in sliders.items()})
        np.testing.assert_allclose(batch[i], single[0], atol=2e-4)
        torch.testing.assert_close(batch_latents[i], last_latents[-1][0], atol=1e-2, rtol=1e-3)


def test_variants_are_photo_major_and_equal_singles_with_the_same_generators(pipe):
    photos = [pixels(20, 30, 1), pixels(12, 9, 2)]
    out = pipe(photos, contrast=[1.0, -1.0], num_variants=2, generator=seeded(1, 2, 3, 4), output_type="np")
    assert [image.shape[:2] for image in out.images] == [(20, 30), (20, 30), (12, 9), (12, 9)]
    for i, image in enumerate(out.images):
        single = pipe(photos[i // 2], contrast=[1.0, -1.0][i // 2], generator=seeded(i + 1), output_type="np")
        np.testing.assert_allclose(image, single.images[0], atol=2e-4)
    assert np.abs(out.images[0] - out.images[1]).mean() > 1e-3


def test_seed_repeats_and_changes_the_picture(pipe):
    def run(seed):
        return pipe(PHOTO, generator=seeded(seed), output_type="np").images

    np.testing.assert_array_equal(run(5), run(5))
    assert np.abs(run(5) - run(6)).mean() > 1e-3


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_given_generator_is_the_only_source_of_noise(tiny_pipeline, scheduler):
    pipe = swap_scheduler(tiny_pipeline(), scheduler)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = pipe(PHOTO, generator=seeded(1), output_type="np", num_inference_steps=3).images
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1] and random.getstate() == before[2]
    torch.manual_seed(99)
    again = pipe(PHOTO, generator=seeded(1), output_type="np", num_inference_steps=3).images
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_no_generator_is_seed_0_whatever_torch_manual_seed_says(tiny_pipeline, scheduler):
    pipe = swap_scheduler(tiny_pipeline(noise_offset=0.5), scheduler)
    settings = {"output_type": "np", "num_inference_steps": 3}
    expected = pipe(PHOTO, generator=seeded(0), **settings).images
    before = torch.get_rng_state()
    torch.manual_seed(99)
    np.testing.assert_array_equal(pipe(PHOTO, **settings).images, expected)
    torch.set_rng_state(before)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("seed", [None, 0, 5])
def test_one_seed_is_the_style_of_every_photo_and_its_first_variant_the_call_without(tiny_pipeline, scheduler, seed):
    pipe = swap_scheduler(tiny_pipeline(noise_offset=0.5), scheduler)
    photos = [pixels(20, 30, 1), pixels(12, 9, 2)]

    def latents(photos, **arguments):
        generator = None if seed is None else seeded(seed)
        return pipe(photos, generator=generator, num_inference_steps=3, output_type="latent", **arguments).images

    singles = [latents(photo)[0] for photo in photos]
    batch = latents(photos, num_variants=3)
    close = {"atol": 1e-2, "rtol": 1e-3}  # the UNet adds up a batch in another order
    torch.testing.assert_close(batch[0], singles[0], **close)
    torch.testing.assert_close(batch[3], singles[1], **close)
    spread = [(batch[a] - batch[b]).abs().mean() for a, b in ((0, 1), (0, 2), (1, 2), (3, 4), (4, 5))]
    assert min(spread) > 0.05, spread


def test_noise_of_one_picture_is_what_its_generator_draws_and_variants_leave_it_alone(tiny_pipeline):
    pipe, cpu = tiny_pipeline(noise_offset=0.5), torch.device("cpu")
    alone = pipe.prepare_latents(1, torch.float32, cpu, seeded(5))
    one, two = seeded(5), seeded(5)
    each = one_generator_each(one, num_photos=2, num_variants=3)
    noise = pipe.prepare_latents(6, torch.float32, cpu, each, None, 3)
    assert torch.equal(noise[0], alone[0]) and torch.equal(noise[3], alone[0])
    assert torch.equal(noise[1], noise[4]) and not torch.equal(noise[1], noise[2])
    pipe.prepare_latents(1, torch.float32, cpu, two)
    assert torch.equal(one.get_state(), two.get_state())
    used = seeded(5)
    torch.rand(3, generator=used)
    each_of_used = pipe.prepare_latents(2, torch.float32, cpu, one_generator_each(used, 2, 1))
    assert torch.equal(each_of_used[0], each_of_used[1]), "one that has been drawn from is as far for every photo"
    assert are_middle(one_generator_each(None, 2, 2), 4, 2) == [True, False, True, False]
    assert are_middle(each, 6, 3) == [False] * 6


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_each_slider_reaches_its_place_in_the_token_and_the_picture(tiny_pipeline, name):
    pipe = tiny_pipeline()
    token = pipe.encode_sliders({**dict.fromkeys(ATTRIBUTES, 0.0), name: [0.5, -1.5]}, 2)
    assert token.shape == (2, 1, 4)
    expected = torch.zeros(2, 1, 4)
    expected[:, 0, ATTRIBUTES.index(name)] = torch.tensor([0.5, -1.5])
    assert torch.equal(token, expected)
    low, high = (pipe(PHOTO, **{name: c}, generator=seeded(0), output_type="np").images for c in (-1, 1))
    assert np.abs(low - high).mean() > 1e-3


def test_attribute_order_of_the_checkpoint_decides_the_token(tiny_pipeline):
    order = ["temperature", "contrast", "brightness", "colorfulness"]
    token = tiny_pipeline(attributes=order).encode_sliders(dict(zip(ATTRIBUTES, (1, 2, 3, 4), strict=True)), 1)
    assert token.tolist() == [[[4.0, 3.0, 2.0, 1.0]]]


def test_number_list_array_and_numpy_scalar_sliders_agree(pipe):
    runs = [
        pipe([PHOTO, PHOTO], brightness=value, strength=np.float32(1), generator=seeded(1, 2), output_type="np").images
        for value in (0.5, [0.5, 0.5], (0.5, np.float32(0.5)), np.array([0.5, 0.5]), np.float64(0.5))
    ]
    for run in runs[1:]:
        np.testing.assert_array_equal(runs[0], run)


def test_head_runs_once_and_unet_once_per_step(tiny_pipeline):
    pipe = tiny_pipeline()
    unet, head = recorded_calls(pipe.unet), recorded_calls(pipe.grid_head)
    pipe([PHOTO, PHOTO], num_inference_steps=4, generator=seeded(1, 2))
    assert (len(unet), len(head), pipe.num_timesteps) == (4, 1, 4)
    torch.testing.assert_close(head[0][0][0], unet[-1][1].sample[:, 4:])
    pipe(PHOTO, output_type="latent")
    assert len(head) == 2, "the grids come with the latents too"


def test_default_steps_come_from_the_checkpoint(tiny_pipeline):
    pipe = tiny_pipeline(default_num_inference_steps=3)
    pipe(PHOTO)
    assert pipe.num_timesteps == 3
    pipe(PHOTO, num_inference_steps=1)
    assert pipe.num_timesteps == 1


def test_noise_offset_shares_noise_over_the_picture_and_seeds_still_repeat(tiny_pipeline):
    plain, offset = tiny_pipeline(), tiny_pipeline(noise_offset=0.5)
    alike = [seeded(3), seeded(4)]
    latents = [
        p.prepare_latents(2, torch.float32, torch.device("cpu"), [seeded(3), seeded(4)]) for p in (plain, offset)
    ]
    common = latents[1] - latents[0]
    assert torch.allclose(common, common.mean((2, 3), keepdim=True).expand_as(common), atol=1e-6)
    assert common.mean((2, 3)).abs().min() > 1e-4 and not torch.allclose(common[0], common[1])
    (one,) = offset.prepare_latents(1, torch.float32, torch.device("cpu"), alike[1])
    assert torch.equal(one, latents[1][1])
    given = torch.zeros(1, *latents[0].shape[1:])
    assert torch.equal(offset.prepare_latents(1, torch.float32, torch.device("cpu"), None, given), given)


def test_seed_0_and_no_seed_give_the_middle_of_the_styles_and_variants_spread_from_it(tiny_pipeline):
    plain, offset = tiny_pipeline(), tiny_pipeline(noise_offset=0.5)

    def spread(*arguments) -> list[bool]:
        """Which pictures' noise has a part in common."""
        found = []
        for pipe in (plain, offset):
            generator = arguments[1]() if callable(arguments[1]) else None
            torch.manual_seed(5)
            latents = pipe.prepare_latents(arguments[0], torch.float32, torch.device("cpu"), generator, *arguments[2:])
            found.append(latents)
        return (found[1] - found[0]).abs().mean((1, 2, 3)).gt(1e-6).tolist()

    assert spread(3, lambda: [seeded(0), seeded(1), seeded(0)]) == [False, True, False]
    assert spread(4, lambda: seeded(0), None, 2) == [False, True, False, True]
    assert spread(4, lambda: seeded(1), None, 2) == [True] * 4
    assert spread(4, None, None, 2) == [False, True, False, True]


@pytest.mark.parametrize(("fast_timesteps", "visited"), [("999", [999]), ("999,500", [999, 500]), (None, [999, 200])])
def test_fast_sampling_visits_what_the_checkpoint_says_or_a_fifth(tiny_pipeline, tmp_path, fast_timesteps, visited):
    tiny_pipeline(fast_timesteps=fast_timesteps, default_num_inference_steps=8).save_pretrained(tmp_path)
    pipe = DiffRetouchPipeline.from_pretrained(tmp_path)
    calls = recorded_calls(pipe.unet)
    pipe(PHOTO, **pipe.fast_sampling(), output_type="grid")
    assert [int(arguments[1]) for arguments, _ in calls] == visited


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_large_photo_is_seen_as_in_floats_but_for_rounding(tiny_pipeline, dtype):
    pipe = tiny_pipeline(conditioning_size=8)  # equal to the latents: what is compared is the view itself
    photo = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (61, 83, 3), dtype=dtype, endpoint=True)
    for kind in (photo, photo[::-1], photo.transpose(1, 0, 2)):
        in_floats = kind.astype(np.float32) / np.float32(np.iinfo(dtype).max)
        seen, expected = pipe.encode_photo(kind), pipe.encode_photo(in_floats)
        assert (seen - expected).abs().max() <= 2 * 1.1 / 255  # of [-1, 1], where a level of 8 bits is 2 / 255
    assert not torch.equal(seen, expected), "the photo is too small to be seen in 8 bits"


@pytest.mark.parametrize("size", [(16, 16), (16, 500), (500, 16)])
@pytest.mark.parametrize("value", [0, 1, 127, 255])
def test_a_large_flat_photo_is_seen_exactly(tiny_pipeline, size, value):
    pipe = tiny_pipeline(conditioning_size=8)
    for photo in (np.full((*size, 3), value, np.uint8), np.full((*size, 3), value * 257, np.uint16)):
        torch.testing.assert_close(pipe.encode_photo(photo), torch.full((1, 3, 8, 8), value / 127.5 - 1))


def test_given_latents_are_the_initial_noise(pipe):
    noise = torch.randn(1, 4, 8, 8, generator=seeded(7))
    drawn = pipe(PHOTO, generator=seeded(7), num_inference_steps=1, output_type="np").images
    given = pipe(PHOTO, generator=seeded(8), latents=noise, num_inference_steps=1, output_type="np").images
    np.testing.assert_array_equal(drawn, given)


def test_a_call_changes_no_component_but_the_schedulers_timesteps(tiny_pipeline):
    pipe = tiny_pipeline()
    modules = {name: c for name, c in pipe.components.items() if isinstance(c, torch.nn.Module)}
    before = {name: {k: v.clone() for k, v in module.state_dict().items()} for name, module in modules.items()}
    configs = {name: dict(component.config) for name, component in pipe.components.items()}
    own = dict(pipe.config)
    photo = PHOTO.copy()
    pipe(photo, base="decoded", generator=seeded(0), num_variants=2)
    np.testing.assert_array_equal(photo, PHOTO)
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, before[name][key]), f"{name}.{key}"
    assert {name: dict(component.config) for name, component in pipe.components.items()} == configs
    assert dict(pipe.config) == own
    assert all(p.grad is None and p.requires_grad for p in pipe.unet.parameters())


# --- Photos in, pictures out ----------------------------------------------------------------------------------------


def test_all_kinds_of_the_same_photo_agree(pipe):
    kinds = {
        "uint8": PHOTO,
        "uint16": PHOTO.astype(np.uint16) * 257,
        "float16": (PHOTO / 255).astype(np.float16),
        "float32": (PHOTO / 255).astype(np.float32),
        "float64": PHOTO / 255,
        "mirrored view": PHOTO[:, ::-1].copy()[:, ::-1],
        "read-only": np.frombuffer(PHOTO.tobytes(), np.uint8).reshape(PHOTO.shape),
        "batch": PHOTO[None],
        "tensor": tensor(PHOTO),
        "tensor with gradient": tensor(PHOTO).requires_grad_(),
        "bfloat16": tensor(PHOTO).bfloat16(),
        "tensor batch": tensor(PHOTO)[None],
        "list of batch": [tensor(PHOTO)[None]],
        "tuple": (PHOTO,),
        "PIL": PIL.Image.fromarray(PHOTO),
    }
    reference = pipe(PHOTO, generator=seeded(0), output_type="np").images
    assert reference.shape == (1, 20, 30, 3) and reference.dtype == np.float32
    assert np.abs(reference[0] - PHOTO / 255).mean() > 0.01, "the retouch has to be visible"
    for kind, photo in kinds.items():
        image = pipe(photo, generator=seeded(0), output_type="np").images
        tolerance = {"float16": 2e-3, "bfloat16": 2e-2}.get(kind, 1e-5)
        np.testing.assert_allclose(image, reference, atol=tolerance, err_msg=kind)


def test_batches_and_lists_count_their_photos(pipe):
    photos = [pixels(6, 7, seed) for seed in range(4)]
    tensors = torch.stack([tensor(photo) for photo in photos])
    expected = pipe(photos, generator=seeded(0, 1, 2, 3), output_type="np").images
    for image in (np.stack(photos), tensors, [tensors[:3], photos[3]], [photos[0], np.stack(photos[1:])]):
        images = pipe(image, generator=seeded(0, 1, 2, 3), output_type="np").images
        np.testing.assert_allclose(images, expected, atol=1e-5)


def test_pil_modes(pipe):
    rgb = PIL.Image.fromarray(PHOTO)
    grey = rgb.convert("L")
    palette = rgb.quantize(16)
    alpha = PIL.Image.fromarray(pixels(20, 30, 9)[..., 0])
    rgba = rgb.copy()
    rgba.putalpha(alpha)

    def run(photo):
        return pipe(photo, generator=seeded(0)).images[0]

    expected = np.asarray(run(rgb))
    retouched = run(rgba)
    assert retouched.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(retouched.getchannel("A")), np.asarray(alpha))
    np.testing.assert_array_equal(np.asarray(retouched.convert("RGB")), expected)
    for photo in (grey, palette, rgb.convert("CMYK"), grey.convert("1")):
        picture = run(photo)
        assert picture.mode == "RGB" and picture.size == rgb.size
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(run(photo.convert("RGB"))))


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3), (32, 32), (8, 8)])
def test_every_size_keeps_its_size(pipe, size):
    photo = pixels(*size)
    image = pipe(photo, generator=seeded(0)).images[0]
    assert image.size == size[::-1] and image.mode == "RGB"
    array = pipe(photo, generator=seeded(0), output_type="np").images
    assert array.shape == (1, *size, 3) and np.isfinite(array).all()
    np.testing.assert_array_equal(np.asarray(image), np.round(array[0] * 255).astype(np.uint8))


def test_output_types_agree(pipe):
    def run(output_type, photos=PHOTO):
        return pipe(photos, generator=seeded(0), output_type=output_type)

    array, batch, pil = run("np").images, run("pt").images, run("pil").images
    assert array.min() >= 0 and array.max() <= 1
    assert batch.shape == (1, 3, 20, 30) and batch.dtype == torch.float32
    np.testing.assert_array_equal(batch.numpy().transpose(0, 2, 3, 1), array)
    for kind in (PHOTO, PIL.Image.fromarray(PHOTO), tensor(PHOTO)):
        np.testing.assert_array_equal(np.asarray(run("pil", kind).images[0]), np.asarray(pil[0]))
    np.testing.assert_array_equal(np.asarray(pil[0]), np.round(array[0] * 255))

    out = run("grid")
    assert out.images is out.grids and len(out.grids) == 1
    np.testing.assert_array_equal(out.grids[0].apply(PHOTO.astype(np.float32) / np.float32(255)), array[0])
    out = run("latent")
    assert out.images.shape == (1, 4, 8, 8)
    np.testing.assert_array_equal(out.grids[0].apply(PHOTO.astype(np.float32) / np.float32(255)), array[0])


def test_different_sizes_come_back_as_a_list(pipe):
    photos = [pixels(6, 7), pixels(7, 6)]
    images = pipe(photos, output_type="np").images
    assert isinstance(images, list) and [image.shape for image in images] == [(6, 7, 3), (7, 6, 3)]
    images = pipe(photos, output_type="pt").images
    assert isinstance(images, list) and [image.shape for image in images] == [(3, 6, 7), (3, 7, 6)]


def test_tuple_and_dataclass_outputs_agree(pipe):
    out = pipe(PHOTO, generator=seeded(0), output_type="np")
    images, grids = pipe(PHOTO, generator=seeded(0), output_type="np", return_dict=False)
    np.testing.assert_array_equal(out.images, images)
    assert torch.equal(out.grids[0].coefficients, grids[0].coefficients)
    assert out[0] is out.images and out[1] is out.grids


def test_uint16_depth_survives_in_float_outputs(pipe):
    fine = np.arange(16 * 16 * 3, dtype=np.uint16).reshape(16, 16, 3) + 30000  # within three 8-bit levels
    image = pipe(fine, generator=seeded(0), output_type="np", strength=0.5).images[0]
    assert len(np.unique(image[..., 0])) > 200


@pytest.mark.parametrize("base", ["photo", "decoded"])
def test_strength_zero_returns_the_photo(pipe, base):
    arguments = {"strength": 0, "base": base, "generator": seeded(0)}
    np.testing.assert_array_equal(np.asarray(pipe(PHOTO, **arguments).images[0]), PHOTO)
    array = pipe(PHOTO, **arguments, output_type="np").images[0]
    np.testing.assert_array_equal(array, PHOTO.astype(np.float32) / np.float32(255))


def test_strength_blends_and_exaggerates(pipe):
    photo = np.full((8, 8, 3), 0.5, np.float32)
    at = {s: pipe(photo, strength=s, generator=seeded(0), output_type="np").images for s in (0.5, 1, 2)}
    np.testing.assert_allclose(at[0.5] - photo, (at[1] - photo) / 2, atol=1e-6)
    inside = (at[2] > 0) & (at[2] < 1)
    assert inside.any()
    np.testing.assert_allclose((at[2] - photo)[inside], 2 * (at[1] - photo)[inside], atol=1e-5)


def test_decoded_base_is_the_decoded_latents_at_the_photos_size(pipe):
    photo = pixels(64, 64)
    z_0 = pipe(photo, generator=seeded(0), output_type="latent").images
    expected = (pipe.vae.decode(z_0 / pipe.vae.config.scaling_factor).sample.detach() + 1) / 2
    image = pipe(photo, generator=seeded(0), output_type="pt", base="decoded").images
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)
    odd = pipe(pixels(31, 45), generator=seeded(0), output_type="pt", base="decoded").images
    assert odd.shape == (1, 3, 31, 45) and odd.min() >= 0 and odd.max() <= 1


def test_inference_needs_no_vae(tiny_pipeline, pipe):
    bare = tiny_pipeline(vae=None)
    expected = pipe(PHOTO, generator=seeded(0), output_type="np").images
    np.testing.assert_array_equal(bare(PHOTO, generator=seeded(0), output_type="np").images, expected)


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AsymmetricAutoencoderKL", "AutoencoderTiny"])
def test_any_vae_of_diffusers_fits(tiny_pipeline, kind):
    widths = {"block_out_channels": (4, 4), "latent_channels": 4}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    options = {
        "AutoencoderKL": {**widths, **blocks, "norm_num_groups": 2},
        "AsymmetricAutoencoderKL": {
            "latent_channels": 4,
            **blocks,
            "down_block_out_channels": (4, 4),
            "up_block_out_channels": (4, 4),
            "norm_num_groups": 2,
        },
        "AutoencoderTiny": {
            "latent_channels": 4,
            "encoder_block_out_channels": (4, 4),
            "decoder_block_out_channels": (4, 4),
            "num_encoder_blocks": (1, 1),
            "num_decoder_blocks": (1, 1),
        },
    }
    torch.manual_seed(0)
    pipe = tiny_pipeline(vae=getattr(diffusers, kind)(**options[kind]))
    assert pipe(PHOTO, output_type="np").images.shape == (1, 20, 30, 3)
    assert np.isfinite(pipe(PHOTO, output_type="np", base="decoded").images).all()


# --- The schedule ---------------------------------------------------------------------------------------------------


def test_truncated_timesteps_by_hand():
    assert truncated_timesteps(1) == [200]
    assert truncated_timesteps(2) == [999, 200]
    assert truncated_timesteps(3) == [999, 600, 200]  # 399.5 rounds to the even 400
    assert truncated_timesteps(5) == [999, 799, 600, 400, 200]
    assert truncated_timesteps(800) == list(range(999, 199, -1))
    assert truncated_timesteps(3, first=10, last=20) == [20, 15, 10]


def test_truncated_timesteps_descend_from_999_to_200_for_every_length():
    for steps in range(2, 801):
        timesteps = truncated_timesteps(steps)
        assert len(timesteps) == steps and timesteps[0] == 999 and timesteps[-1] == 200
        assert all(a > b for a, b in zip(timesteps[:-1], timesteps[1:], strict=True))


@pytest.mark.parametrize("steps", [1, 5, 20])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_swapped_schedulers_visit_as_many_timesteps_as_asked_above_the_truncation(tiny_pipeline, scheduler, steps):
    pipe = swap_scheduler(tiny_pipeline(), scheduler)
    calls = recorded_calls(pipe.unet)
    image = pipe(PHOTO, num_inference_steps=steps, generator=seeded(0), output_type="np").images
    visited = [float(arguments[1]) for arguments, _ in calls]
    assert len(visited) == steps == pipe.num_timesteps
    assert visited == sorted(visited, reverse=True) and len(set(visited)) == steps
    assert all(199.5 <= t <= 999 for t in visited)
    assert np.isfinite(image).all() and np.abs(image[0] - PHOTO / 255).mean() > 0.01
    if "timesteps" in inspect.signature(pipe.scheduler.set_timesteps).parameters:
        assert [round(t) for t in visited] == truncated_timesteps(steps)
    elif steps == 20:  # the picture comes from the last call: it has to come near the end of the chain
        assert visited[0] > 940 and visited[-1] < 260


def test_first_order_solvers_agree_whatever_their_scale_of_noise(tiny_pipeline):
    runs = [
        swap_scheduler(tiny_pipeline(), kind)(
            PHOTO, generator=seeded(0), num_inference_steps=5, output_type="np"
        ).images
        for kind in ("dpm_1", "euler")
    ]
    np.testing.assert_allclose(*runs, atol=2e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler", ["ddpm", "ddpm_large", "ddim"])
def test_the_chain_ends_noise_free_although_its_last_timestep_is_high(tiny_pipeline, scheduler, prediction_type):
    pipe = swap_scheduler(tiny_pipeline(), scheduler)
    pipe.scheduler.register_to_config(prediction_type=prediction_type)
    calls = recorded_calls(pipe.unet)
    z_0 = pipe(PHOTO, generator=seeded(0), num_inference_steps=5, output_type="latent").images
    (unet_input, t, *_), output = calls[-1]
    alpha = pipe.scheduler.alphas_cumprod[round(float(t))]
    assert alpha < 0.9
    noisy, prediction = unet_input[:, :4], output.sample[:, :4]
    if prediction_type == "epsilon":
        predicted = (noisy - (1 - alpha).sqrt() * prediction) / alpha.sqrt()
    else:
        predicted = alpha.sqrt() * noisy - (1 - alpha).sqrt() * prediction
    torch.testing.assert_close(z_0, predicted, rtol=1e-3, atol=1e-2)


def test_explicit_timesteps_are_visited_as_given(tiny_pipeline):
    pipe = tiny_pipeline()
    calls = recorded_calls(pipe.unet)
    for timesteps in ([900, 500, 3], (900, 500, 3), np.array([900, 500, 3])):
        calls.clear()
        pipe(PHOTO, timesteps=timesteps)
        assert [int(arguments[1]) for arguments, _ in calls] == [900, 500, 3]
    assert pipe.num_timesteps == 3


def test_explicit_timesteps_may_be_the_first_and_the_last(tiny_pipeline):
    visited = []
    keep = {"callback_on_step_end": lambda _, i, t, tensors: visited.append(int(t)) or tensors}
    tiny_pipeline()(PHOTO, timesteps=[999, 0], output_type="latent", **keep)
    assert visited == [999, 0]


# --- Callbacks ------------------------------------------------------------------------------------------------------


def test_callback_sees_every_step_and_its_tensors_are_used(pipe):
    seen = []

    def zero_at_the_end(pipeline, step, timestep, tensors):
        assert pipeline is pipe and set(tensors) == set(pipe._callback_tensor_inputs)
        seen.append((step, int(timestep)))
        if step == pipeline.num_timesteps - 1:
            tensors["latents"] = torch.zeros_like(tensors["latents"])
        return tensors

    out = pipe(
        PHOTO,
        num_inference_steps=3,
        output_type="latent",
        callback_on_step_end=zero_at_the_end,
        callback_on_step_end_tensor_inputs=pipe._callback_tensor_inputs,
    )
    assert seen == [(0, 999), (1, 600), (2, 200)]
    assert out.images.shape == (1, 4, 8, 8) and out.images.abs().sum() == 0


def test_callback_steers_the_next_step_and_may_ask_for_nothing(pipe):
    def run(callback, names):
        arguments = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": names}
        return pipe(PHOTO, generator=seeded(0), output_type="np", **arguments).images

    plain = pipe(PHOTO, generator=seeded(0), output_type="np").images
    np.testing.assert_array_equal(run(lambda pipe, i, t, tensors: tensors, []), plain)
    np.testing.assert_array_equal(run(lambda pipe, i, t, tensors: tensors, ["latents"]), plain)
    halved = run(lambda pipe, i, t, tensors: {"latents": tensors["latents"] / 2}, ["latents"])
    assert np.abs(halved - plain).max() > 1e-3


# --- Bad input ------------------------------------------------------------------------------------------------------

FLOAT = PHOTO.astype(np.float32) / 255


def with_value(value):
    photo = FLOAT.copy()
    photo[3, 4, 1] = value
    return photo


BAD_INPUT = [
    # image
    ("image", None, TypeError, "got NoneType"),
    ("image", 3, TypeError, "got int"),
    ("image", "photo.jpg", TypeError, "got str"),
    ("image", Path("photo.jpg"), TypeError, "got PosixPath"),
    ("image", {"image": PHOTO}, TypeError, "got dict"),
    ("image", [], ValueError, "got none"),
    ("image", np.zeros((0, 8, 8, 3), np.uint8), ValueError, "got none"),
    ("image", [[PHOTO]], TypeError, "got list"),
    ("image", [PHOTO, None], TypeError, "got NoneType"),
    ("image", np.zeros((0, 5, 3), np.uint8), ValueError, r"got \(0, 5, 3\)"),
    ("image", PIL.Image.new("RGB", (0, 5)), ValueError, "got 0 x 5"),
    ("image", PHOTO[..., 0], ValueError, r"got \(20, 30\)"),
    ("image", np.zeros((8, 8, 4), np.uint8), ValueError, r"got \(8, 8, 4\)"),
    ("image", np.zeros((1, 1, 8, 8, 3), np.uint8), ValueError, r"got \(1, 1, 8, 8, 3\)"),
    ("image", PHOTO.transpose(2, 0, 1), ValueError, r"got \(3, 20, 30\)"),
    ("image", torch.rand(8, 8, 3), ValueError, r"got \(8, 8, 3\)"),
    ("image", torch.rand(2, 4, 8, 8), ValueError, r"got \(4, 8, 8\)"),
    ("image", PHOTO.astype(np.int32), TypeError, "got int32"),
    ("image", PHOTO > 9, TypeError, "got bool"),
    ("image", PHOTO.astype(">u2"), TypeError, "got >u2"),
    ("image", np.zeros((8, 8, 3), object), TypeError, "got object"),
    ("image", torch.from_numpy(PHOTO).permute(2, 0, 1), TypeError, "got torch.uint8"),
    ("image", with_value(np.nan), ValueError, "got NaN"),
    ("image", with_value(-np.inf), ValueError, "got NaN or infinite"),
    ("image", torch.from_numpy(with_value(np.nan)).permute(2, 0, 1), ValueError, "got NaN"),
    ("image", with_value(1.5), ValueError, r"got \[.*, 1.5\]"),
    ("image", FLOAT * 2 - 1, ValueError, r"in \[0, 1\], got \[-1, 1\]"),
    ("image", PIL.Image.fromarray(PHOTO[..., 0].astype(np.uint16)), ValueError, "got mode I;16"),
    ("image", PIL.Image.fromarray(FLOAT[..., 0]), ValueError, "got mode F"),
    # sliders and strength
    *[(name, 1.6, ValueError, r"in \[-1.5, 1.5\], got 1.6") for name in ATTRIBUTES],
    ("brightness", float("nan"), ValueError, "got nan"),
    ("brightness", -float("inf"), ValueError, "got -inf"),
    ("brightness", "x", TypeError, "got str"),
    ("brightness", None, TypeError, "got NoneType"),
    ("brightness", True, TypeError, "got bool"),
    ("brightness", 1j, TypeError, "got complex"),
    ("brightness", [], ValueError, r"one per photo \(1\), got 0"),
    ("brightness", [0.1, 0.2], ValueError, r"one per photo \(1\), got 2"),
    ("brightness", [1.6], ValueError, "got 1.6"),
    ("brightness", ["x"], TypeError, "got str"),
    ("brightness", np.array(0.5), TypeError, "got ndarray"),
    ("brightness", np.zeros((1, 1)), TypeError, "got ndarray"),
    ("brightness", np.zeros(3), ValueError, "got 3"),
    ("brightness", np.array(["x"]), TypeError, "got str"),
    ("brightness", torch.tensor(0.5), TypeError, "got Tensor"),
    ("brightness", torch.tensor([0.5]), TypeError, "got Tensor"),
    ("strength", 2.1, ValueError, r"in \[0, 2\], got 2.1"),
    ("strength", -0.1, ValueError, "got -0.1"),
    ("strength", float("nan"), ValueError, "got nan"),
    ("strength", None, TypeError, "got NoneType"),
    ("strength", False, TypeError, "got bool"),
    ("strength", [0.5], TypeError, "got list"),
    # counts
    ("num_variants", 0, ValueError, "got 0"),
    ("num_variants", 1.0, TypeError, "got float"),
    ("num_variants", None, TypeError, "got NoneType"),
    ("num_variants", True, TypeError, "got bool"),
    ("num_inference_steps", 0, ValueError, r"in \[1, 800\], got 0"),
    ("num_inference_steps", -1, ValueError, "got -1"),
    ("num_inference_steps", 2.5, TypeError, "got float"),
    ("num_inference_steps", "5", TypeError, "got str"),
    ("num_inference_steps", True, TypeError, "got bool"),
    ("num_inference_steps", 801, ValueError, "got 801"),
    ("num_inference_steps", 1001, ValueError, "got 1001"),
    # timesteps
    ("timesteps", [], ValueError, r"got \[\]"),
    ("timesteps", [200, 999], ValueError, r"descending integers in \[0, 999\], got \[200, 999\]"),
    ("timesteps", [500, 500], ValueError, r"got \[500, 500\]"),
    ("timesteps", [1000, 200], ValueError, r"got \[1000, 200\]"),
    ("timesteps", [500, -1], ValueError, r"got \[500, -1\]"),
    ("timesteps", [999.0, 200.0], ValueError, r"got \[999.0, 200.0\]"),
    ("timesteps", [True], ValueError, r"got \[True\]"),
    ("timesteps", [[999]], ValueError, r"got \[\[999\]\]"),
    ("timesteps", 999, TypeError, "got int"),
    ("timesteps", "trailing", TypeError, "got str"),
    # generator and latents
    ("generator", 0, TypeError, "got int"),
    ("generator", [0], TypeError, "got int"),
    ("generator", [None], TypeError, "got NoneType"),
    ("generator", (torch.Generator(),), TypeError, "got tuple"),
    ("generator", [], ValueError, r"one per output image \(1\), got 0"),
    ("generator", [torch.Generator()] * 2, ValueError, r"one per output image \(1\), got 2"),
    ("latents", np.zeros((1, 4, 8, 8)), TypeError, "got ndarray"),
    ("latents", torch.zeros(4, 8, 8), ValueError, r"\(1, 4, 8, 8\), got \(4, 8, 8\)"),
    ("latents", torch.zeros(2, 4, 8, 8), ValueError, r"got \(2, 4, 8, 8\)"),
    ("latents", torch.full((1, 4, 8, 8), torch.nan), ValueError, "got NaN"),
    # choices
    ("output_type", "jpg", ValueError, "got 'jpg'"),
    ("output_type", None, ValueError, "got None"),
    ("base", "x", ValueError, "got 'x'"),
    ("base", None, ValueError, "got None"),
    ("callback_on_step_end", 3, TypeError, "got int"),
    ("callback_on_step_end_tensor_inputs", ["noise"], ValueError, r"\['latents'\], got \['noise'\]"),
    ("callback_on_step_end_tensor_inputs", "latents", ValueError, "got 'latents'"),
    ("callback_on_step_end_tensor_inputs", None, ValueError, "got None"),
]


def assert_one_sentence(error, name, kind, detail):
    assert error.type is kind
    message = str(error.value)
    assert message.startswith(f"`{name}` has to ")
    assert "\n" not in message and message.endswith(".") and len(message) < 220
    error.match(detail)


@pytest.mark.parametrize(
    ("name", "value", "kind", "detail"), BAD_INPUT, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(BAD_INPUT)]
)
def test_bad_input_gets_one_clear_sentence_before_any_work(pipe, name, value, kind, detail):
    with pytest.raises((TypeError, ValueError)) as error:
        pipe(**{"image": PHOTO, "callback_on_step_end": pytest.fail, name: value})
    assert_one_sentence(error, name, kind, detail)


def test_list_lengths_are_counted_in_photos_for_sliders_and_in_images_for_generators(pipe):
    photos = [PHOTO, PHOTO]
    pipe(photos, brightness=[0.1, 0.2], num_variants=2, generator=seeded(1, 2, 3, 4))
    with pytest.raises(ValueError, match=r"^`brightness` has to be a number or one per photo \(2\), got 4"):
        pipe(photos, brightness=[0.1] * 4, num_variants=2)
    with pytest.raises(ValueError, match=r"^`generator` has to be one, or one per output image \(4\), got 2"):
        pipe(photos, num_variants=2, generator=seeded(1, 2))


def test_decoded_base_without_vae_is_refused(tiny_pipeline):
    with pytest.raises(ValueError) as error:
        tiny_pipeline(vae=None)(PHOTO, base="decoded")
    assert_one_sentence(error, "base", ValueError, "without a `vae`")


@pytest.mark.parametrize("scheduler", ["ddim", "unipc", "euler_ancestral"])
def test_timesteps_for_a_scheduler_with_fixed_spacing_are_refused(tiny_pipeline, scheduler):
    pipe = swap_scheduler(tiny_pipeline(), scheduler)
    with pytest.raises(ValueError) as error:
        pipe(PHOTO, timesteps=[999, 200])
    assert_one_sentence(error, "timesteps", ValueError, type(pipe.scheduler).__name__)


@pytest.mark.parametrize(
    ("scheduler", "detail"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(), "FlowMatchEulerDiscreteScheduler"),
        (diffusers.DDPMScheduler(prediction_type="flow_prediction"), "flow_prediction"),
        (diffusers.EDMEulerScheduler(), "EDMEulerScheduler"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_schedulers_of_another_kind_are_refused(tiny_pipeline, scheduler, detail):
    pipe = tiny_pipeline()
    pipe.scheduler = scheduler
    with pytest.raises(ValueError) as error:
        pipe(PHOTO)
    assert_one_sentence(error, "scheduler", ValueError, detail)


@pytest.mark.parametrize(
    ("name", "value", "kind", "detail"),
    [
        ("unet", None, ValueError, "got None"),
        ("scheduler", None, ValueError, "got None"),
        ("grid_head", None, ValueError, "got None"),
        ("conditioning_resize", "bicubic", ValueError, "got 'bicubic'"),
        ("conditioning_size", 0, ValueError, "got 0"),
        ("min_timestep", 1000, ValueError, "got 1000"),
        ("min_timestep", "200", TypeError, "got str"),
        ("attributes", ["brightness"], ValueError, r"got \['brightness'\]"),
        ("fast_timesteps", "999;500", ValueError, "got '999;500'"),
        ("fast_timesteps", 999, ValueError, "got 999"),
        ("noise_offset", -0.1, ValueError, "got -0.1"),
        ("noise_offset", "much", TypeError, "got str"),
    ],
)
def test_parts_that_make_no_pipeline_are_refused(tiny_pipeline, name, value, kind, detail):
    with pytest.raises((TypeError, ValueError)) as error:
        tiny_pipeline(**{name: value})
    assert_one_sentence(error, name, kind, detail)


def test_unet_and_head_that_do_not_fit_are_refused(tiny_pipeline):
    options = {"sample_size": 8, "block_out_channels": (8,), "norm_num_groups": 4, "cross_attention_dim": 4}
    options |= {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "mid_block_type": None}
    stable_diffusion = UNet2DConditionModel(**options, in_channels=4, out_channels=4)
    for arguments in ({"unet": stable_diffusion}, {"grid_head": AffineGridHead(in_channels=5)}):
        with pytest.raises(ValueError) as error:
            tiny_pipeline(**arguments)
        assert_one_sentence(error, "unet", ValueError, r"got \d channels in and \d out")


# --- A first-class diffusers pipeline -------------------------------------------------------------------------------


def test_components_are_what_the_pipeline_was_made_from(pipe):
    assert set(pipe.components) == {"unet", "scheduler", "grid_head", "vae"}
    copy = DiffRetouchPipeline(**pipe.components)
    assert copy.grid_head is pipe.grid_head and copy.vae is pipe.vae


def test_from_pipe_shares_the_components_and_keeps_the_defaults(tiny_pipeline):
    pipe = tiny_pipeline(default_num_inference_steps=3, conditioning_resize="area")
    copy = DiffRetouchPipeline.from_pipe(pipe)
    assert all(copy.components[name] is component for name, component in pipe.components.items())
    assert copy.config.default_num_inference_steps == 3 and copy.config.conditioning_resize == "area"
    assert copy.config.attributes == list(ATTRIBUTES)
    bare = DiffRetouchPipeline.from_pipe(pipe, vae=None, min_timestep=100)
    assert bare.vae is None and bare.config.min_timestep == 100 and pipe.vae is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_floats_stay_near_full_precision(tiny_pipeline, pipe, dtype):
    half = tiny_pipeline().to(dtype=dtype)
    assert all(c.dtype == dtype for c in half.components.values() if isinstance(c, torch.nn.Module))
    # Drawn in float32, as half-float noise is another noise.
    latents = torch.randn(1, 4, 8, 8, generator=seeded(1))
    wide = pixels(16, 700)
    run = {"latents": latents, "num_inference_steps": 1, "output_type": "np"}
    image, expected = half(wide, **run).images, pipe(wide, **run).images
    assert image.dtype == np.float32 and np.isfinite(image).all()
    assert np.abs(image - expected).max() < 0.03
    assert np.isfinite(half(PHOTO, output_type="np", base="decoded").images).all()


def test_components_of_different_dtypes_work_together(tiny_pipeline, pipe):
    mixed = tiny_pipeline()
    mixed.unet.to(torch.bfloat16)
    mixed.grid_head.to(torch.float16)
    expected = pipe(PHOTO, generator=seeded(0), num_inference_steps=1, output_type="np").images
    image = mixed(PHOTO, generator=seeded(0), num_inference_steps=1, output_type="np").images
    assert np.abs(image - expected).mean() < 0.02


def test_float8_storage_of_the_unet(tiny_pipeline):
    pipe8 = tiny_pipeline().to(dtype=torch.bfloat16)
    pipe8.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    assert np.isfinite(pipe8(PHOTO, output_type="np").images).all()


def test_attention_slicing_changes_nothing(tiny_pipeline, pipe):
    sliced = tiny_pipeline()
    sliced.enable_attention_slicing(slice_size=1)
    assert any("Sliced" in type(p).__name__ for p in sliced.unet.attn_processors.values())
    expected = pipe(PHOTO, generator=seeded(0), output_type="np").images
    np.testing.assert_allclose(sliced(PHOTO, generator=seeded(0), output_type="np").images, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["model", "leaf_level", "block_level", "unet_only"])
def test_offloading_changes_nothing(tiny_pipeline, pipe, kind):
    offloaded, device = tiny_pipeline(), torch.device("cpu")
    options = {"onload_device": device, "offload_device": device, "num_blocks_per_group": 1}
    if kind == "model":
        offloaded.enable_model_cpu_offload(device="cpu")
    elif kind == "unet_only":
        offloaded.unet.enable_group_offload(**options, offload_type="block_level")
    else:
        offloaded.enable_group_offload(**options, offload_type=kind)
    for base in ("photo", "decoded", "photo"):
        expected = pipe(PHOTO, generator=seeded(0), output_type="np", base=base).images
        image = offloaded(PHOTO, generator=seeded(0), output_type="np", base=base).images
        np.testing.assert_allclose(image, expected, atol=1e-5)


def test_a_vae_offloaded_by_layer_still_decodes(tiny_pipeline, pipe):
    # Only `vae.decode` is called, never its forward, which is where offload hooks sit.
    offloaded = tiny_pipeline()
    accelerate.cpu_offload(offloaded.vae, execution_device="cpu")
    expected = pipe(PHOTO, generator=seeded(0), output_type="np", base="decoded").images
    image = offloaded(PHOTO, generator=seeded(0), output_type="np", base="decoded").images
    np.testing.assert_array_equal(image, expected)


def test_progress_bar_counts_the_steps(tiny_pipeline, capsys):
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=False)
    pipe(PHOTO, num_inference_steps=3)
    assert "3/3" in capsys.readouterr().err


# --- The model folder -----------------------------------------------------------------------------------------------


def assert_same_picture(picture, expected):
    # Loaded weights lie elsewhere in memory, and alignment decides the last bit of a convolution.
    np.testing.assert_allclose(picture, expected, atol=1e-6)


def test_folder_layout_names_the_code_that_lies_beside_the_weights(folder):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline_diffretouch", "DiffRetouchPipeline"]
    assert index["grid_head"] == ["modeling_affine_grid", "AffineGridHead"]
    assert index["vae"] == ["modeling_latent_codec", "FixedLatentCodec"]
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert index["scheduler"] == ["diffusers", "DDPMScheduler"]
    assert index["default_num_inference_steps"] == 2 and index["conditioning_size"] == 32
    assert index["min_timestep"] == 200 and index["conditioning_resize"] == "nearest"
    for path in ("pipeline_diffretouch.py", "grid_head/modeling_affine_grid.py", "vae/modeling_latent_codec.py"):
        module = importlib.import_module(f"diffretouch.model.{Path(path).stem}")
        assert (folder / path).read_bytes() == Path(module.__file__).read_bytes()
    for name in ("unet", "grid_head", "vae"):
        assert (folder / name / "diffusion_pytorch_model.safetensors").is_file()


def test_round_trip_gives_the_same_picture_and_the_same_classes(pipe, folder):
    loaded = DiffRetouchPipeline.from_pretrained(folder)
    assert {name: type(c) for name, c in loaded.components.items()} == {
        name: type(c) for name, c in pipe.components.items()
    }
    defaults = (
        "default_num_inference_steps",
        "min_timestep",
        "conditioning_size",
        "conditioning_resize",
        "attributes",
        "fast_timesteps",
        "noise_offset",
    )
    assert all(loaded.config[name] == pipe.config[name] for name in defaults)
    images = [p(PHOTO, generator=seeded(0), output_type="np").images for p in (pipe, loaded)]
    assert_same_picture(*images)


def test_saving_again_over_and_beside_the_folder(pipe, folder, tmp_path):
    loaded = DiffRetouchPipeline.from_pretrained(folder)
    for target in (tmp_path / "again", tmp_path / "again", tmp_path / "once more"):
        loaded.save_pretrained(target)
        loaded = DiffRetouchPipeline.from_pretrained(target)
    images = [p(PHOTO, generator=seeded(0), output_type="np").images for p in (pipe, loaded)]
    assert_same_picture(*images)
    names = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert {path.relative_to(target) for path in target.rglob("*") if path.is_file()} == names


def test_missing_vae_is_saved_and_loaded_as_none(tiny_pipeline, pipe, tmp_path):
    bare = tiny_pipeline()
    bare.vae = None
    bare.save_pretrained(tmp_path)
    assert not (tmp_path / "vae").exists()
    assert json.loads((tmp_path / "model_index.json").read_text())["vae"] == [None, None]
    loaded = DiffRetouchPipeline.from_pretrained(tmp_path)
    assert loaded.vae is None and loaded.components["vae"] is None
    images = [p(PHOTO, generator=seeded(0), output_type="np").images for p in (pipe, loaded)]
    assert_same_picture(*images)


def test_parts_may_be_replaced_or_left_out_while_loading(pipe, folder):
    loaded = DiffRetouchPipeline.from_pretrained(folder, vae=None, unet=pipe.unet, default_num_inference_steps=7)
    assert loaded.vae is None and loaded.unet is pipe.unet
    assert loaded.config.default_num_inference_steps == 7
    with pytest.raises(ValueError, match="^`unet` has to be given"):
        DiffRetouchPipeline.from_pretrained(folder, unet=None)


def test_stock_vae_round_trip(tiny_pipeline, tmp_path):
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    vae = AutoencoderKL(**blocks, block_out_channels=(4,), norm_num_groups=2, latent_channels=4)
    tiny_pipeline(vae=vae).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["vae"] == ["diffusers", "AutoencoderKL"]
    assert not list((tmp_path / "vae").glob("*.py"))
    assert isinstance(DiffRetouchPipeline.from_pretrained(tmp_path).vae, AutoencoderKL)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
def test_fp16_variant_round_trip(tiny_pipeline, tmp_path, safe):
    half = tiny_pipeline().to(dtype=torch.float16)
    half.save_pretrained(tmp_path, variant="fp16", safe_serialization=safe)
    ending = "safetensors" if safe else "bin"
    for name in ("unet", "grid_head", "vae"):
        assert (tmp_path / name / f"diffusion_pytorch_model.fp16.{ending}").is_file()
    loaded = DiffRetouchPipeline.from_pretrained(tmp_path, variant="fp16", dtype=torch.float16)
    for name in ("unet", "grid_head", "vae"):
        for ours, theirs in zip(loaded.components[name].parameters(), half.components[name].parameters(), strict=True):
            assert ours.dtype == torch.float16 and torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="`variant=pl`"):
        DiffRetouchPipeline.from_pretrained(tmp_path, variant="pl")


def test_loading_in_other_dtypes_and_with_a_device_map(pipe, folder):
    dtypes = {"unet": torch.bfloat16, "default": torch.float16}
    loaded = DiffRetouchPipeline.from_pretrained(folder, dtype=dtypes)
    assert (loaded.unet.dtype, loaded.grid_head.dtype, loaded.vae.dtype) == (
        torch.bfloat16,
        torch.float16,
        torch.float16,
    )
    assert np.isfinite(loaded(PHOTO, output_type="np").images).all()
    mapped = DiffRetouchPipeline.from_pretrained(folder, device_map="cpu")
    images = [p(PHOTO, generator=seeded(0), output_type="np").images for p in (pipe, mapped)]
    assert_same_picture(*images)


def test_generic_class_refuses_the_code_unless_it_is_trusted(folder):
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(folder)


STRANGER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "diffretouch":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
try:
    import diffretouch
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the package can be imported")

import numpy as np, torch
from diffusers import DiffusionPipeline

source, again, photo, result = sys.argv[1:]

def run(pipe):
    return pipe(np.load(photo), brightness=0.5, generator=torch.Generator().manual_seed(0), output_type="np").images

try:
    DiffusionPipeline.from_pretrained(source)
except ValueError as error:
    assert "trust_remote_code" in str(error), error
else:
    raise SystemExit("code ran without being trusted")

pipe = DiffusionPipeline.from_pretrained(source, trust_remote_code=True)
assert type(pipe).__module__.startswith("diffusers_modules"), type(pipe)
first = run(pipe)
pipe.save_pretrained(again)
reloaded = DiffusionPipeline.from_pretrained(again, trust_remote_code=True)
assert np.allclose(run(reloaded), first, atol=1e-6)
shared = type(pipe).from_pipe(pipe)
assert shared.grid_head is pipe.grid_head and shared.vae is pipe.vae
grid = pipe(np.load(photo), output_type="grid").images[0]
assert grid.apply(np.load(photo), 0.0).tolist() == np.load(photo).tolist()
assert not any(name.partition(".")[0] == "diffretouch" for name in sys.modules)
np.save(result, first)
"""


def test_diffusers_alone_loads_runs_and_saves_the_folder_again(pipe, folder, tmp_path):
    paths = {name: tmp_path / name for name in ("again", "photo.npy", "result.npy")}
    np.save(paths["photo.npy"], PHOTO)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_MODULES_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder), *map(str, paths.values())],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = pipe(PHOTO, brightness=0.5, generator=seeded(0), output_type="np").images
    assert_same_picture(np.load(paths["result.npy"]), expected)

    # What the remote-code class saved serves the installed class again, with the same code files.
    loaded = DiffRetouchPipeline.from_pretrained(paths["again"])
    assert_same_picture(loaded(PHOTO, brightness=0.5, generator=seeded(0), output_type="np").images, expected)
    for path in folder.rglob("*"):
        if path.suffix in (".py", ".json"):
            assert (paths["again"] / path.relative_to(folder)).is_file()
        if path.suffix == ".py":
            assert (paths["again"] / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_a_folder_whose_code_is_not_the_installed_code_says_so(folder, tmp_path, caplog):
    copy = shutil.copytree(folder, tmp_path / "copy")
    with caplog.at_level("WARNING", logger="diffretouch"):
        DiffRetouchPipeline.from_pretrained(copy)
        assert "results may differ" not in caplog.text
        (copy / "grid_head" / "modeling_affine_grid.py").write_text("# Another version.\n")
        DiffRetouchPipeline.from_pretrained(copy)
    assert f"grid_head/modeling_affine_grid.py of the model in {copy} differ" in caplog.text


def test_what_needs_the_package_is_found_in_it_by_name():
    assert of_the_package("push") is diffretouch.push
    with pytest.raises(AttributeError):
        of_the_package("no such name")
