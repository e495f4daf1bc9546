"""Conversion to and from the published checkpoint layout, and starting from Stable Diffusion."""

import argparse
import json
import pickle
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DPMSolverMultistepScheduler, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from diffretouch.hub.convert import convert_checkpoint_to_folder, convert_original_checkpoint, revert_to_original
from diffretouch.hub.stable_diffusion import pipeline_from_stable_diffusion
from diffretouch.model.modeling_affine_grid import AffineGridHead
from diffretouch.model.modeling_latent_codec import FixedLatentCodec
from diffretouch.model.pipeline_diffretouch import DiffRetouchPipeline

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
UNET = "model.diffusion_model."


STATISTICS = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 142}


def make_unet(widths=(32, 64), layers=1, attention=(True, False), heads=(2, 4), **options):
    return UNet2DConditionModel(
        **{
            "sample_size": 16,
            "in_channels": 7,
            "out_channels": 8,
            "block_out_channels": widths,
            "layers_per_block": layers,
            "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention),
            "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
            "attention_head_dim": list(heads),
            "cross_attention_dim": 4,
            "use_linear_projection": True,
            **options,
        }
    )


def make_vae(widths=(32, 64), layers=1, **options):
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        latent_channels=4,
        layers_per_block=layers,
        **options,
    )


def make_pipeline(unet=None, vae="small", head=None, scheduler=None, **defaults):
    torch.manual_seed(0)
    return DiffRetouchPipeline(
        unet=unet or make_unet(),
        scheduler=scheduler or DDPMScheduler(**SCHEDULE, clip_sample=False),
        grid_head=head or AffineGridHead(),
        vae=make_vae() if vae == "small" else vae,
        **defaults,
    )


@pytest.fixture(scope="module")
def pipeline():
    return make_pipeline()


@pytest.fixture(scope="module")
def checkpoint(pipeline, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "model.ckpt"
    revert_to_original(pipeline, path)
    return path


def contents(path):
    return torch.load(path, weights_only=True)["state_dict"]


def changed(checkpoint, tmp_path, change, name="changed.ckpt"):
    """A copy of the checkpoint whose state dict went through `change`, as a foreign file without our record."""
    state = contents(checkpoint)
    change(state)
    path = tmp_path / name
    torch.save({"state_dict": state, "global_step": 7, "optimizer_states": [{"lr": 1e-6}]}, path)
    return path


def models(pipeline):
    return {name: model for name, model in pipeline.components.items() if isinstance(model, torch.nn.Module)}


def assert_same_models(one, other):
    assert models(one).keys() == models(other).keys()
    for name, model in models(one).items():
        theirs = models(other)[name].state_dict()
        for key, tensor in model.state_dict().items():
            assert tensor.dtype == theirs[key].dtype and torch.equal(tensor, theirs[key]), f"{name}.{key}"


def predict(unet, condition=0.5, t=400):
    noise = torch.Generator().manual_seed(1)
    sample = torch.randn(1, unet.config.in_channels, 16, 16, generator=noise)
    with torch.no_grad():
        return unet.eval()(sample, t, torch.full((1, 1, 4), condition)).sample


# --- There and back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["back.ckpt", "back.safetensors"])
def test_there_and_back_is_exact_in_both_formats(tmp_path, name):
    scheduler = DDPMScheduler(**SCHEDULE, clip_sample=False, variance_type="fixed_large")
    vae = make_vae(scaling_factor=0.5)
    # Heads that no rule would guess, and defaults that differ from the class's.
    pipeline = make_pipeline(
        make_unet(heads=(8, 16)), vae, scheduler=scheduler, default_num_inference_steps=7, conditioning_size=128
    )
    revert_to_original(pipeline, tmp_path / name)
    converted = convert_original_checkpoint(tmp_path / name)
    assert_same_models(pipeline, converted)
    assert converted.scheduler.config.variance_type == "fixed_large"
    assert converted.vae.config.scaling_factor == 0.5
    assert converted.unet.config.sample_size == 16
    assert converted.config.default_num_inference_steps == 7 and converted.config.conditioning_size == 128
    # Not bit by bit: weights mapped at another alignment take another vector path.
    torch.testing.assert_close(predict(pipeline.unet), predict(converted.unet), rtol=0, atol=2e-6)
    again = tmp_path / f"again-{name}"
    revert_to_original(converted, again)
    assert_same_models(converted, convert_original_checkpoint(again))


def test_published_names_and_shapes(checkpoint):
    shapes = {key: tuple(tensor.shape) for key, tensor in contents(checkpoint).items()}
    expected = {
        f"{UNET}time_embed.2.weight": (128, 128),
        f"{UNET}input_blocks.0.0.weight": (32, 7, 3, 3),
        f"{UNET}input_blocks.1.0.emb_layers.1.weight": (32, 128),
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (32, 4),
        f"{UNET}input_blocks.2.0.op.weight": (32, 32, 3, 3),
        f"{UNET}input_blocks.3.0.skip_connection.weight": (64, 32, 1, 1),
        f"{UNET}middle_block.0.in_layers.0.weight": (64,),
        f"{UNET}middle_block.1.proj_in.weight": (64, 64),
        f"{UNET}middle_block.2.out_layers.3.weight": (64, 64, 3, 3),
        f"{UNET}output_blocks.0.0.in_layers.2.weight": (64, 128, 3, 3),
        f"{UNET}output_blocks.1.1.conv.weight": (64, 64, 3, 3),
        f"{UNET}output_blocks.3.1.transformer_blocks.0.ff.net.0.proj.weight": (256, 32),
        f"{UNET}out.2.weight": (8, 32, 3, 3),
        "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight": (64, 32, 1, 1),
        "first_stage_model.encoder.down.0.downsample.conv.weight": (32, 32, 3, 3),
        "first_stage_model.encoder.mid.attn_1.proj_out.weight": (64, 64, 1, 1),
        "first_stage_model.encoder.mid.attn_1.norm.bias": (64,),
        "first_stage_model.decoder.up.1.upsample.conv.weight": (64, 64, 3, 3),
        "first_stage_model.decoder.up.0.block.1.conv2.weight": (32, 32, 3, 3),
        "first_stage_model.decoder.norm_out.weight": (32,),
        "first_stage_model.post_quant_conv.weight": (4, 4, 1, 1),
        "hdrdecoder.coefficients.splat2.0.weight": (32, 16, 3, 3),
        "hdrdecoder.coefficients.pred2.0.bias": (96,),
        "hdrdecoder.guide.M": (3, 3),
        "hdrdecoder.guide.thresholds": (1, 1, 3, 16),
        "hdrdecoder.guide.slopes": (1, 1, 1, 3, 16),
        "hdrdecoder.guide.bias": (),
        "posterior_mean_coef2": (1000,),
    }
    assert {key: shapes.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("unet", "vae", "head"),
    [
        ({"widths": (32, 64, 64), "layers": 2, "attention": (False, True, True), "heads": (2, 4, 4)}, {}, {}),
        ({"attention": (False, False)}, {"widths": (32, 32, 64), "layers": 2}, {"grid_depth": 4}),
        ({"use_linear_projection": False, "heads": (8, 8)}, {}, {"hidden_channels": (8, 12, 16), "guide_knots": 5}),
        ({"transformer_layers_per_block": 2, "cross_attention_dim": 6}, {"layers": 2}, {"mid_channels": 24}),
        ({"widths": (64,), "attention": (True,), "heads": (2,)}, {"widths": (32,)}, {"hidden_channels": (8,)}),
    ],
)
def test_smaller_relatives_are_recognised_by_their_shapes(tmp_path, unet, vae, head):
    pipeline = make_pipeline(make_unet(**unet), make_vae(**vae), AffineGridHead(**head))
    revert_to_original(pipeline, tmp_path / "model.ckpt")
    # Without the record, as the original code would have written it: the rules for heads have to do.
    foreign = changed(tmp_path / "model.ckpt", tmp_path, lambda state: None)
    converted = convert_original_checkpoint(foreign)
    assert_same_models(pipeline, converted)
    assert list(converted.unet.config.attention_head_dim) == list(pipeline.unet.config.attention_head_dim)
    sample, condition = torch.randn(1, 7, 16, 16), torch.randn(1, 1, pipeline.unet.config.cross_attention_dim)
    with torch.no_grad():
        ours, theirs = (p.unet.eval()(sample, 300, condition).sample for p in (pipeline, converted))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_head_width_can_be_told(checkpoint, tmp_path):
    foreign = changed(checkpoint, tmp_path, lambda state: None)
    assert list(convert_original_checkpoint(foreign).unet.config.attention_head_dim) == [2, 4]
    assert list(convert_original_checkpoint(foreign, attention_head_dim=8).unet.config.attention_head_dim) == [4, 8]
    with pytest.raises(ValueError, match="`attention_head_dim` has to divide the widths"):
        convert_original_checkpoint(foreign, attention_head_dim=24)


def test_every_input_form_gives_the_same_model(pipeline, checkpoint, tmp_path):
    state = contents(checkpoint)
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": state}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "weights.safetensors")
    save_file(state, tmp_path / "renamed.ckpt")
    for name in ("plain.pt", "old.ckpt", "weights.safetensors", "renamed.ckpt"):
        assert_same_models(pipeline, convert_original_checkpoint(tmp_path / name))


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_training_a_converted_model_leaves_the_file_alone(pipeline, tmp_path, name):
    revert_to_original(pipeline, tmp_path / name)
    before = (tmp_path / name).read_bytes()
    converted = convert_original_checkpoint(tmp_path / name)
    with torch.no_grad():
        for model in models(converted).values():
            for parameter in model.parameters():
                parameter.add_(1)
    assert (tmp_path / name).read_bytes() == before


def test_vae_can_be_left_out_both_ways(pipeline, checkpoint, tmp_path):
    converted = convert_original_checkpoint(checkpoint, with_vae=False)
    assert converted.vae is None
    torch.testing.assert_close(predict(converted.unet), predict(pipeline.unet), rtol=0, atol=2e-6)
    revert_to_original(pipeline, tmp_path / "small.ckpt", with_vae=False)
    assert not any(key.startswith("first_stage_model.") for key in contents(tmp_path / "small.ckpt"))
    assert convert_original_checkpoint(tmp_path / "small.ckpt", with_vae=False).vae is None
    with pytest.raises(ValueError, match="It has no VAE: `with_vae=False` converts the rest"):
        convert_original_checkpoint(tmp_path / "small.ckpt")


def test_dtype_is_kept_or_cast(pipeline, checkpoint, tmp_path):
    revert_to_original(pipeline, tmp_path / "half.ckpt", dtype=torch.float16)
    half = convert_original_checkpoint(tmp_path / "half.ckpt")
    assert {model.dtype for model in models(half).values()} == {torch.float16}
    assert contents(tmp_path / "half.ckpt")["betas"].dtype == torch.float32
    single = convert_original_checkpoint(tmp_path / "half.ckpt", dtype=torch.float32)
    weight = pipeline.unet.conv_in.weight
    assert torch.equal(single.unet.conv_in.weight, weight.half().float())
    brain = convert_original_checkpoint(checkpoint, dtype=torch.bfloat16)
    assert torch.equal(brain.unet.conv_in.weight, weight.bfloat16())


def test_a_checkpoint_cast_to_half_with_its_schedule_converts(checkpoint, tmp_path):
    def halve(state):
        state.update({key: tensor.half() for key, tensor in state.items()})

    assert convert_original_checkpoint(changed(checkpoint, tmp_path, halve)).unet.dtype == torch.float16


def test_variance_type_is_asked_recorded_or_small(checkpoint, tmp_path):
    large = convert_original_checkpoint(checkpoint, variance_type="fixed_large")
    assert large.scheduler.config.variance_type == "fixed_large" and not large.scheduler.config.clip_sample
    assert convert_original_checkpoint(checkpoint).scheduler.config.variance_type == "fixed_small"
    with pytest.raises(ValueError, match="`variance_type` has to be one of None, 'fixed_small', 'fixed_large'"):
        convert_original_checkpoint(checkpoint, variance_type="learned")


# --- Strictness -----------------------------------------------------------------------------------------------------


def test_missing_left_over_and_misshapen_come_in_one_error(checkpoint, tmp_path):
    def spoil(state):
        del state[f"{UNET}middle_block.0.in_layers.0.weight"]
        state["hdrdecoder.guide.M"] = torch.eye(4)
        state.update({f"model_ema.{i}": torch.zeros(1) for i in range(30)})

    with pytest.raises(ValueError) as caught:
        convert_original_checkpoint(changed(checkpoint, tmp_path, spoil))
    message = str(caught.value)
    assert f"1 missing: {UNET}middle_block.0.in_layers.0.weight" in message
    assert "30 left over: model_ema.0" in message and "and 22 more" in message
    assert "1 of the wrong shape: hdrdecoder.guide.M (4, 4) instead of (3, 3)" in message
    assert "\n" not in message and len(message) < 800


@pytest.mark.parametrize(
    "key",
    [
        f"{UNET}input_blocks.0.0.weight",
        f"{UNET}input_blocks.3.0.out_layers.3.weight",
        f"{UNET}out.2.weight",
        f"{UNET}middle_block.1.proj_in.weight",
        "first_stage_model.encoder.down.1.block.0.conv1.weight",
        "first_stage_model.quant_conv.bias",
        "hdrdecoder.coefficients.splat1.0.weight",
        "hdrdecoder.guide.thresholds",
        "betas",
        "posterior_log_variance_clipped",
    ],
)
def test_no_tensor_may_be_missing_or_of_another_rank(checkpoint, tmp_path, key):
    for change in (lambda state: state.pop(key), lambda state: state.update({key: state[key][None]})):
        with pytest.raises(ValueError, match="`path` has to hold"):
            convert_original_checkpoint(changed(checkpoint, tmp_path, change))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_values_are_refused_by_name(checkpoint, tmp_path, value):
    key = f"{UNET}input_blocks.1.0.in_layers.2.bias"
    path = changed(checkpoint, tmp_path, lambda state: state[key].__setitem__(3, value))
    with pytest.raises(ValueError, match=rf"NaN or infinite ones in {key}\.$"):
        convert_original_checkpoint(path)


def test_integers_are_refused_by_name(checkpoint, tmp_path):
    path = changed(checkpoint, tmp_path, lambda state: state.update({"hdrdecoder.guide.bias": torch.tensor(1)}))
    with pytest.raises(ValueError, match=r"got hdrdecoder\.guide\.bias \(torch\.int64\)"):
        convert_original_checkpoint(path)


def test_another_noise_schedule_is_refused(checkpoint, tmp_path):
    path = changed(checkpoint, tmp_path, lambda state: state["alphas_cumprod"].mul_(0.999))
    with pytest.raises(ValueError, match=r"noise schedule, got another in alphas_cumprod\.$"):
        convert_original_checkpoint(path)


def test_weights_that_overflow_the_type_are_refused(checkpoint, tmp_path):
    path = changed(checkpoint, tmp_path, lambda state: state["hdrdecoder.guide.M"].mul_(1e6))
    with pytest.raises(ValueError, match=r"too small for hdrdecoder\.guide\.M"):
        convert_original_checkpoint(path, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"too small for guide\.matrix"):
        convert_checkpoint_to_folder(path, tmp_path / "folder", variants=["fp16"])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["changed.ckpt"]
    with pytest.raises(ValueError, match=r"`dtype` has to be one of torch\.float16, .* or None, got torch\.int8"):
        convert_original_checkpoint(path, dtype=torch.int8)


def test_a_stable_diffusion_checkpoint_is_pointed_to_the_other_door(checkpoint, tmp_path):
    def as_stable_diffusion(state):
        for key in [key for key in state if key.startswith("hdrdecoder.")]:
            del state[key]
        state[f"{UNET}input_blocks.0.0.weight"] = torch.zeros(32, 4, 3, 3)
        state["cond_stage_model.transformer.text_model.final_layer_norm.bias"] = torch.zeros(8)

    with pytest.raises(ValueError, match="start from it with `pipeline_from_stable_diffusion`"):
        convert_original_checkpoint(changed(checkpoint, tmp_path, as_stable_diffusion))


def test_something_else_altogether_is_refused(tmp_path):
    torch.save({"state_dict": {"layer.weight": torch.zeros(2, 2)}}, tmp_path / "linear.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"state_dict": {"layer": {"weight": torch.zeros(2)}}}, tmp_path / "nested.pt")
    torch.save({}, tmp_path / "empty.pt")
    for name in ("linear", "list", "nested", "empty"):
        with pytest.raises(ValueError, match="`path` has to hold"):
            convert_original_checkpoint(tmp_path / f"{name}.pt")


def test_widths_that_no_model_has_are_refused(checkpoint, tmp_path):
    def narrow(state):
        state[f"{UNET}input_blocks.1.0.out_layers.3.weight"] = torch.zeros(33, 33, 3, 3)

    with pytest.raises(ValueError, match="`path` has to hold|`attention_head_dim` has to divide"):
        convert_original_checkpoint(changed(checkpoint, tmp_path, narrow))


@pytest.mark.parametrize(
    "record",
    [
        {"heads": "many"},
        {"variance_type": "huge"},
        {"pipeline": {"trust_remote_code": True}},
        {"unknown": 1},
        {"heads": [0, 0]},
        {"heads": [2]},
        {"heads": [3, 5]},
        ["heads"],
    ],
)
def test_a_forged_record_is_refused(checkpoint, tmp_path, record):
    torch.save({"state_dict": contents(checkpoint), "diffretouch": record}, tmp_path / "forged.ckpt")
    with pytest.raises(ValueError, match="`path` has to"):
        convert_original_checkpoint(tmp_path / "forged.ckpt")


# --- Damaged and dangerous files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, 0.999])
@pytest.mark.parametrize("name", ["cut.ckpt", "cut.safetensors"])
def test_truncated_files_give_one_clear_error(pipeline, tmp_path, name, kept):
    revert_to_original(pipeline, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match="`path` has to be a readable checkpoint") as caught:
        convert_original_checkpoint(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_other_files_give_one_clear_error(tmp_path):
    (tmp_path / "text.ckpt").write_text("not a model at all, but a letter to a friend")
    (tmp_path / "page.ckpt").write_text("<html>404</html>")
    for name in ("text.ckpt", "page.ckpt"):
        with pytest.raises(ValueError, match="`path` has to be a readable checkpoint|`path` has to hold"):
            convert_original_checkpoint(tmp_path / name)
    for path in (tmp_path / "absent.ckpt", tmp_path):
        with pytest.raises(FileNotFoundError, match="`path` has to be a checkpoint file"):
            convert_original_checkpoint(path)


class Malice:
    """Creates a file when unpickled by anything that runs code."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("form", ["zip", "old", "raw"])
def test_a_pickle_that_runs_code_does_not_run(checkpoint, tmp_path, form):
    trace, path = tmp_path / "code-has-run", tmp_path / "malice.ckpt"
    if form == "raw":
        path.write_bytes(pickle.dumps({"callbacks": Malice(trace)}))
    else:
        payload = {"state_dict": contents(checkpoint), "callbacks": Malice(trace)}
        torch.save(payload, path, _use_new_zipfile_serialization=form == "zip")
    refusal = "a readable checkpoint" if form == "raw" else "asks for getattr; nothing of it was run.*state dict alone"
    with pytest.raises(ValueError, match=f"`path` has to .*{refusal}") as caught:
        convert_original_checkpoint(path)
    assert not trace.exists()
    assert "weights_only" not in str(caught.value)  # no advice to load it unsafely
    # The file is a weapon indeed: the unsafe way runs it.
    if form == "raw":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert trace.exists()


def test_the_way_out_for_pickles_with_classes_is_named_and_works(pipeline, checkpoint, tmp_path):
    torch.save({"state_dict": contents(checkpoint), "hyper": argparse.Namespace(lr=1)}, tmp_path / "classes.ckpt")
    with pytest.raises(ValueError, match=r"asks for argparse\.Namespace;"):
        convert_original_checkpoint(tmp_path / "classes.ckpt")
    save_file(
        torch.load(tmp_path / "classes.ckpt", weights_only=False)["state_dict"], tmp_path / "weights.safetensors"
    )
    assert_same_models(pipeline, convert_original_checkpoint(tmp_path / "weights.safetensors"))


# --- Folders --------------------------------------------------------------------------------------------------------


def test_folder_with_shards_and_variants_loads(pipeline, checkpoint, tmp_path):
    folder = tmp_path / "made" / "folder"
    convert_checkpoint_to_folder(checkpoint, folder, variants=["fp16", "bf16"], max_shard_size="1MB")
    for variant, dtype in ((None, torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        loaded = DiffRetouchPipeline.from_pretrained(folder, variant=variant, dtype=dtype)
        assert type(loaded.scheduler) is DDPMScheduler
        for name, model in models(loaded).items():
            for key, tensor in models(pipeline)[name].state_dict().items():
                assert torch.equal(model.state_dict()[key], tensor.to(dtype)), f"{variant} {name}.{key}"
    shards = list((folder / "unet").glob("diffusion_pytorch_model-*-of-*.safetensors"))
    assert len([shard for shard in shards if ".fp16" not in shard.name and ".bf16" not in shard.name]) > 2
    assert all(shard.stat().st_size < 1.1e6 for shard in shards)
    # Stock diffusers finds each part by itself, too.
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", variant="fp16")
    assert unet.config.in_channels == 7
    assert [entry.name for entry in (tmp_path / "made").iterdir()] == ["folder"]


def test_folder_dtype_and_left_out_vae(checkpoint, tmp_path):
    convert_checkpoint_to_folder(checkpoint, tmp_path / "half", dtype=torch.float16, with_vae=False)
    weights = load_file(tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert not (tmp_path / "half" / "vae").exists()
    assert DiffRetouchPipeline.from_pretrained(tmp_path / "half").vae is None


def test_folder_survives_a_round_trip_through_the_published_layout(checkpoint, tmp_path):
    convert_checkpoint_to_folder(checkpoint, tmp_path / "folder", variance_type="fixed_large")
    revert_to_original(tmp_path / "folder", tmp_path / "back.ckpt")
    one, other = contents(checkpoint), contents(tmp_path / "back.ckpt")
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert convert_original_checkpoint(tmp_path / "back.ckpt").scheduler.config.variance_type == "fixed_large"


def test_folder_is_never_overwritten_nor_left_half_done(checkpoint, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="`folder` has to be new or empty"):
        convert_checkpoint_to_folder(checkpoint, tmp_path / "mine")
    with pytest.raises(ValueError, match="`variants` has to be one of 'fp16', 'bf16', got 'int8'"):
        convert_checkpoint_to_folder(checkpoint, tmp_path / "new", variants=["int8"])
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["mine", "mine/notes.txt"]


# --- What the published layout cannot hold --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"vae": FixedLatentCodec()}, "`vae` of class AutoencoderKL.*`with_vae=False` leaves it out"),
        ({"unet": make_unet(norm_num_groups=16)}, r"unet\.norm_num_groups = 16"),
        ({"unet": make_unet(act_fn="gelu")}, r"unet\.act_fn = gelu"),
        ({"unet": make_unet(layers=(1, 1))}, "one number of layers for all levels"),
        ({"unet": make_unet(**STATISTICS)}, "a unet with `class_embedding"),
        ({"vae": make_vae(use_quant_conv=False)}, "of the published family"),
        ({"vae": make_vae(mid_block_add_attention=False)}, "of the published family"),
        ({"scheduler": DDPMScheduler(**SCHEDULE, prediction_type="v_prediction")}, "prediction_type = v_prediction"),
        ({"scheduler": DDPMScheduler()}, "another noise schedule"),
    ],
)
def test_models_outside_the_family_are_refused_and_nothing_is_written(tmp_path, parts, message):
    with pytest.raises(ValueError, match=message):
        revert_to_original(make_pipeline(**parts), tmp_path / "model.ckpt")
    assert not list(tmp_path.iterdir())


def test_another_sampler_does_not_stand_in_the_way(tmp_path):
    pipeline = make_pipeline(scheduler=DPMSolverMultistepScheduler(**SCHEDULE))
    revert_to_original(pipeline, tmp_path / "model.ckpt")
    assert_same_models(pipeline, convert_original_checkpoint(tmp_path / "model.ckpt"))


def test_a_failed_write_leaves_nothing_behind(pipeline, tmp_path):
    (tmp_path / "taken.ckpt").mkdir()
    with pytest.raises(OSError):
        revert_to_original(pipeline, tmp_path / "taken.ckpt")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken.ckpt"]


# --- From Stable Diffusion ------------------------------------------------------------------------------------------


def save_stable_diffusion(folder, scheduler=None, **options):
    torch.manual_seed(3)
    unet = make_unet(**{"in_channels": 4, "out_channels": 4, "cross_attention_dim": 24, **options})
    unet.save_pretrained(folder / "unet")
    (scheduler or PNDMScheduler(**SCHEDULE, skip_prk_steps=True)).save_pretrained(folder / "scheduler")
    make_vae().save_pretrained(folder / "vae")
    return unet.eval()


@pytest.mark.parametrize("options", [{}, {"use_linear_projection": False, "attention_head_dim": 8}])
def test_untrained_noise_prediction_equals_stable_diffusions(tmp_path, options):
    original = save_stable_diffusion(tmp_path, **options)
    pipeline = pipeline_from_stable_diffusion(tmp_path)
    assert pipeline.unet.config.in_channels == 7 and pipeline.unet.config.out_channels == 8
    assert pipeline.unet.config.cross_attention_dim == 4
    generator = torch.Generator().manual_seed(5)
    latents, photo = (torch.randn(2, channels, 16, 16, generator=generator) for channels in (4, 3))
    for t, condition, tokens in ((999, 0.0, 1), (200, 1.5, 77), (0, -1.0, 5)):
        context = torch.full((2, 1, 4), condition)
        with torch.no_grad():
            expected = original(latents, t, torch.zeros(2, tokens, 24)).sample
            prompted = original(latents, t, torch.ones(2, tokens, 24)).sample
            found = pipeline.unet(torch.cat([latents, photo], 1), t, context).sample
        assert (found[:, :4] - expected).abs().max() < 2e-6
        assert (prompted - expected).abs().max() > 1e-3  # the context matters to Stable Diffusion
        assert found[:, 4:].std() > 0.05  # the grid head has something to see


def test_untrained_pipeline_runs_and_every_new_part_learns(tmp_path):
    save_stable_diffusion(tmp_path)
    pipeline = pipeline_from_stable_diffusion(tmp_path, variance_type="fixed_large")
    assert pipeline.scheduler.config.variance_type == "fixed_large" and not pipeline.scheduler.config.clip_sample
    photo = torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(1))
    pipeline.set_progress_bar_config(disable=True)
    out = pipeline(photo, num_inference_steps=2, generator=torch.Generator().manual_seed(2), output_type="pt")
    # Near the identity, because the head starts there.
    assert (torch.as_tensor(out.images) - photo).abs().mean() < 0.15
    prediction = pipeline.unet(torch.randn(1, 7, 16, 16), 500, torch.ones(1, 1, 4)).sample
    (prediction[:, :4].square().mean() + pipeline.grid_head(prediction[:, 4:]).square().mean()).backward()
    attention = pipeline.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    assert attention.to_v.weight.grad.abs().max() > 0
    assert pipeline.unet.conv_in.weight.grad[:, 4:].abs().max() > 0
    assert pipeline.unet.conv_out.weight.grad[4:].abs().max() > 0
    assert pipeline.grid_head.down[0].weight.grad.abs().max() > 0


def test_same_seed_same_start(tmp_path):
    save_stable_diffusion(tmp_path)
    torch.manual_seed(11)
    one = pipeline_from_stable_diffusion(tmp_path, seed=4)
    untouched = torch.rand(3)
    torch.manual_seed(11)
    assert torch.equal(torch.rand(3), untouched)  # the global generator was left alone
    assert_same_models(one, pipeline_from_stable_diffusion(tmp_path, seed=4))
    other = pipeline_from_stable_diffusion(tmp_path, seed=5, with_vae=False)
    assert other.vae is None
    assert not torch.equal(one.unet.conv_out.weight[4:], other.unet.conv_out.weight[4:])
    assert not torch.equal(one.grid_head.mid.weight, other.grid_head.mid.weight)


def test_a_start_from_stable_diffusion_fits_the_published_layout(tmp_path):
    save_stable_diffusion(tmp_path)
    pipeline = pipeline_from_stable_diffusion(tmp_path)
    revert_to_original(pipeline, tmp_path / "start.ckpt")
    assert_same_models(pipeline, convert_original_checkpoint(tmp_path / "start.ckpt"))


def test_velocity_stays_velocity(tmp_path):
    # Stable Diffusion 2.1 at 768 pixels predicts velocity; read as noise, its first pictures would be nonsense.
    save_stable_diffusion(tmp_path, DDPMScheduler(**SCHEDULE, prediction_type="v_prediction"))
    pipeline = DiffRetouchPipeline.from_stable_diffusion(tmp_path)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


def test_half_precision_start(tmp_path):
    save_stable_diffusion(tmp_path)
    pipeline = pipeline_from_stable_diffusion(tmp_path, dtype=torch.float16)
    assert {model.dtype for model in models(pipeline).values()} == {torch.float16}


@pytest.mark.parametrize(
    ("scheduler", "options", "message"),
    [
        (DDPMScheduler(**SCHEDULE, prediction_type="sample"), {}, "predicts noise.*sample"),
        (None, {"in_channels": 9}, "in_channels=9"),
        (None, {"in_channels": 8}, "in_channels=8"),
        (None, {"class_embed_type": "timestep"}, "class_embed_type=timestep"),
    ],
)
def test_other_kinds_of_stable_diffusion_are_refused(tmp_path, scheduler, options, message):
    save_stable_diffusion(tmp_path, scheduler, **options)
    with pytest.raises(ValueError, match=f"`source` has to be.*{message}"):
        pipeline_from_stable_diffusion(tmp_path)


def test_the_record_is_plain_json(pipeline, tmp_path):
    from safetensors import safe_open

    revert_to_original(pipeline, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        record = json.loads(file.metadata()["diffretouch"])
    assert record["heads"] == [2, 4] and record["pipeline"]["min_timestep"] == 200
