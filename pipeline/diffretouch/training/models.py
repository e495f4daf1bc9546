"""What a run trains: the pipeline it starts from, and which of its weights may change."""

from __future__ import annotations

from pathlib import Path

from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import nn

from ..model import BUNDLED_MODEL
from ..model.modeling_affine_grid import AffineGridHead
from ..model.modeling_latent_codec import FixedLatentCodec
from ..model.photo_statistics_diffretouch import NUM_LABELS
from ..model.pipeline_diffretouch import DiffRetouchPipeline
from .config import ModelConfig, TrainingConfig
from .first_look import FirstLook


def starting_pipeline(config: TrainingConfig) -> DiffRetouchPipeline:
    """`pretrained_model`, or an untrained `model`.

    Raises:
        ValueError: if `pretrained_model` is no DiffRetouch model.
    """
    if config.pretrained_model:
        try:
            pipe = DiffRetouchPipeline.from_pretrained(_source(config.pretrained_model))
        except (OSError, ValueError) as error:
            raise ValueError(
                f'`pretrained_model` has to be "bundled", a DiffRetouch folder or a Hub id, got '
                f"{config.pretrained_model}: {str(error).splitlines()[0]}"
            ) from error
    else:
        pipe = new_pipeline(config.model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _source(name: str) -> Path | str:
    """The folder or Hub id; a path beside others on this machine is not looked for on the Hub when it is not there."""
    if name == "bundled":
        return BUNDLED_MODEL
    path = Path(name)
    is_path = path.is_absolute() or len(path.parts) != 2 or path.parent.is_dir()
    if is_path and "/" in name and not path.is_dir():
        raise FileNotFoundError("there is no such folder")
    return name


class Adapter:
    """Low-rank updates of a pipeline's UNet, and the modules trained whole beside them; all else is frozen.

    Args:
        pipe: the base, which is changed: its UNet gets the updates, which are zero at first.
        rank: of the updates.
        config: alpha, where to update, what to train whole.

        first: the look that it starts from, and keeps; None = none was fitted.
        untrained: why it stays as it starts, if it does; recorded.

    Attributes:
        base: what the adapter records of its base (`lora_base_metadata`) and of the run.

    Raises:
        ValueError: if the UNet has no such modules.
    """

    def __init__(
        self,
        pipe: DiffRetouchPipeline,
        rank: int,
        config: TrainingConfig,
        first: FirstLook | None = None,
        untrained: str | None = None,
    ):
        from peft import LoraConfig

        self._pipe = pipe
        self._look = first.tensors if first else {}
        self.base = pipe.lora_base_metadata() | {"learning_rate": config.learning_rate, "seed": config.seed}
        if first:
            started = {"chosen": first.chosen, "held_back_delta_e": first.errors, "untrained": untrained}
            self.base |= {"look": started | ({"left_out": len(first.left_out)} if first.left_out else {})}
        lora = LoraConfig(
            r=rank,
            lora_alpha=config.lora_alpha or rank,  # type: ignore[arg-type]  # peft computes with floats as well
            init_lora_weights="gaussian",
            target_modules=list(config.lora_target_modules),
        )
        pipe.unet.requires_grad_(False)
        pipe.grid_head.requires_grad_(False)
        try:
            pipe.unet.add_adapter(lora)
        except ValueError as error:
            raise ValueError(
                f"`lora_target_modules` has to name modules of the UNet, got {config.lora_target_modules}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        parts = {
            "grid_head": ("grid_head", pipe.grid_head),
            "conv_in": ("unet.conv_in", pipe.unet.conv_in),
            "conv_out": ("unet.conv_out", pipe.unet.conv_out),
        }
        self._whole: dict[str, nn.Module] = dict(parts[name] for name in config.lora_train_whole)
        for module in self._whole.values():
            module.requires_grad_(True)
        if self._look:
            pipe.keep_look("default", self._look)
            pipe.set_adapters("default")

    def save(self, folder: Path) -> None:
        """Write what `load_lora_weights` of the base reads."""
        from peft import get_peft_model_state_dict

        unet = self._pipe.unet
        whole = {f"{key}.{name}": v for key, module in self._whole.items() for name, v in module.state_dict().items()}
        self._pipe.save_lora_weights(
            folder,
            unet_lora_layers=get_peft_model_state_dict(unet),
            whole_modules=whole,
            unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
            base_metadata=self.base,
            look=self._look,
        )


def new_pipeline(config: ModelConfig) -> DiffRetouchPipeline:
    """An untrained small pipeline that works on `FixedLatentCodec` latents."""
    levels = len(config.block_out_channels)
    plain = levels - config.attention_levels
    unet = UNet2DConditionModel(
        sample_size=config.sample_size,
        in_channels=7,
        out_channels=4 + config.num_features,
        block_out_channels=tuple(config.block_out_channels),
        layers_per_block=config.layers_per_block,
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * config.attention_levels,
        up_block_types=("CrossAttnUpBlock2D",) * config.attention_levels + ("UpBlock2D",) * plain,
        cross_attention_dim=4,
        attention_head_dim=config.attention_head_dim,
        norm_num_groups=config.norm_num_groups,
        use_linear_projection=True,
        class_embed_type="projection" if config.statistics else None,
        projection_class_embeddings_input_dim=NUM_LABELS if config.statistics else None,
        resnet_time_scale_shift="scale_shift" if config.statistics else "default",
    )
    grid_head = AffineGridHead(
        in_channels=config.num_features,
        hidden_channels=config.head_hidden_channels,
        mid_channels=config.head_mid_channels,
        grid_depth=config.grid_depth,
        smoothing=config.head_smoothing,
        bias=config.head_bias,
        guide_threshold_range=(config.guide_threshold_range[0], config.guide_threshold_range[1]),
    )
    scheduler = DDPMScheduler(
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule="scaled_linear",
        prediction_type=config.prediction_type,
        rescale_betas_zero_snr=config.rescale_betas_zero_snr,
        clip_sample=False,
    )
    return DiffRetouchPipeline(
        unet,
        scheduler,
        grid_head,
        vae=FixedLatentCodec(),
        conditioning_resize=config.conditioning_resize,
        min_timestep=config.min_timestep,
        default_num_inference_steps=config.default_num_inference_steps,
        noise_offset=config.noise_offset,
    )
