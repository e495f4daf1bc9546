"""Recipes: every mistake is one clear sentence before anything starts; what is saved is what was run."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffretouch.training.config import ModelConfig, TrainingConfig, load_config, save_config

RECIPES = sorted((Path(__file__).parents[1] / "train_lora" / "recipes").glob("*.yaml"))


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_no_recipe_means_the_defaults() -> None:
    assert load_config(None, []) == TrainingConfig()


def test_an_empty_recipe_means_the_defaults(tmp_path: Path) -> None:
    assert load_config(recipe(tmp_path, "# nothing yet\n"), []) == TrainingConfig()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_load(path: Path) -> None:
    config = load_config(path, ["dataset=somewhere"])
    assert config.dataset == "somewhere"
    assert Path(config.output_dir).parent == Path("runs")


def test_the_promised_recipes_are_shipped() -> None:
    promised = {"smoke", "my_style", "bundled", "fivek_sd21", "ppr10k_sd21"}
    assert {path.stem for path in RECIPES} == promised


@pytest.mark.parametrize("name", ["fivek_sd21", "ppr10k_sd21"])
def test_the_papers_recipes_have_the_papers_numbers(name: str) -> None:
    """DiffRetouch, section 4.1: lr 1e-6, batch 16, beta 0.01, lambda 1, tau 0.1, 512 x 512."""
    config = load_config(RECIPES[0].with_name(f"{name}.yaml"), [])
    assert (config.learning_rate, config.train_batch_size, config.beta) == (1e-6, 16, 0.01)
    assert (config.contrastive, config.contrastive_weight, config.contrastive_temperature) == ("published", 1.0, 0.1)
    assert (config.pixel_size, config.contrastive_batch_size, config.lora_rank) == (512, 16, None)


def test_overrides_win_over_the_recipe_and_reach_into_the_model(tmp_path: Path) -> None:
    path = recipe(tmp_path, "seed: 3\nmodel:\n  grid_depth: 4\n  sample_size: 16\n")
    config = load_config(path, ["seed=5", "model.sample_size=8", "model.block_out_channels=[16, 32]"])
    assert config.seed == 5
    assert config.model == ModelConfig(grid_depth=4, sample_size=8, block_out_channels=[16, 32])


def test_a_nested_override_needs_no_recipe_section() -> None:
    assert load_config(None, ["model.beta_end=0.012"]).model.beta_end == 0.012


def test_the_value_of_an_override_may_hold_an_equals_sign() -> None:
    assert load_config(None, ["dataset=/data/a=b"]).dataset == "/data/a=b"


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "1E-4"])
def test_floats_may_be_written_as_python_writes_them(tmp_path: Path, text: str) -> None:
    """YAML 1.1 reads 1e-4 as text."""
    assert load_config(recipe(tmp_path, f"learning_rate: {text}\n"), []).learning_rate == 1e-4
    assert load_config(None, [f"learning_rate={text}"]).learning_rate == 1e-4


def test_an_integer_is_a_float_where_one_is_wanted() -> None:
    value = load_config(None, ["beta=2"]).beta
    assert value == 2.0
    assert type(value) is float


def test_null_is_allowed_where_a_value_is_optional() -> None:
    assert load_config(None, ["pretrained_model=null"]).pretrained_model is None
    assert load_config(None, ["pretrained_model=me/model"]).pretrained_model == "me/model"


def test_saved_configurations_load_as_they_were(tmp_path: Path) -> None:
    config = TrainingConfig(
        dataset="d",
        pretrained_model="p",
        learning_rate=1e-6,
        horizontal_flip=False,
        model=ModelConfig(block_out_channels=[16], sample_size=5, head_hidden_channels=[]),
    )
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml", []) == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_two_configurations_share_no_lists() -> None:
    one, other = TrainingConfig(), TrainingConfig()
    one.model.block_out_channels.append(1)
    assert other == TrainingConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", "Unknown recipe key 'learning_rat'; known are"),
        ("model:\n  size: 1", "Unknown recipe key 'model.size'; known are"),
        ("seed: one", "`seed` has to be of type int, got 'one'"),
        ("seed: 1.5", "`seed` has to be of type int, got 1.5"),
        ("seed: true", "`seed` has to be of type int, got True"),
        ("seed: null", "`seed` has to be of type int, got None"),
        ("horizontal_flip: 1", "`horizontal_flip` has to be of type bool, got 1"),
        ("learning_rate: fast", "`learning_rate` has to be of type float, got 'fast'"),
        ("learning_rate: true", "`learning_rate` has to be of type float, got True"),
        ("learning_rate: .nan", "`learning_rate` has to be of type float, got nan"),
        ("beta: .inf", "`beta` has to be of type float, got inf"),
        ("dataset: 5", "`dataset` has to be of type str, got 5"),
        ("pretrained_model: 5", "`pretrained_model` has to be of type str, got 5"),
        ("model: small", "`model` has to be a mapping, got 'small'"),
        ("model: null", "`model` has to be a mapping, got None"),
        ("model:\n  block_out_channels: 32", "`model.block_out_channels` has to be of type list, got 32"),
        ("model:\n  block_out_channels: [32, x]", "`model.block_out_channels` has to be of type int, got 'x'"),
        ("- seed\n- 1", "`recipe` has to be a mapping, got"),
        ("seed: [1", "recipe.yaml` has to be YAML"),
        ("!!python/object/apply:os.getcwd []", "recipe.yaml` has to be YAML"),
    ],
)
def test_mistakes_in_a_recipe_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        load_config(recipe(tmp_path, text), [])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "An override has to be key=value, got 'seed'"),
        ("=5", "Unknown recipe key ''"),
        ("speed=5", "Unknown recipe key 'speed'"),
        ("seed.x=5", "`seed` has to be of type int"),
        ("model=5", "`model` has to be a mapping, got 5"),
        ("seed=[1", "`seed` has to be YAML"),
        ("model.beta_end.x=1", "`model.beta_end` has to be of type float"),
    ],
)
def test_mistakes_in_an_override_are_named(override: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        load_config(None, [override])
    assert message in str(raised.value)


@pytest.mark.parametrize("text", ["seed: 1\n", "model: 7\n", "- 1\n"])
def test_an_override_below_what_is_no_mapping_is_a_clear_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"The override of `\w+` has to go into a mapping, got"):
        load_config(recipe(tmp_path, text), ["seed.deep=1", "model.grid_depth=1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("max_train_steps=0", "`max_train_steps` has to be at least 1, got 0"),
        ("train_batch_size=0", "`train_batch_size` has to be at least 1"),
        ("checkpointing_steps=-1", "`checkpointing_steps` has to be at least 1, got -1"),
        ("checkpoints_total_limit=0", "`checkpoints_total_limit` has to be at least 1"),
        ("validation_steps=0", "`validation_steps` has to be at least 1"),
        ("num_validation_photos=0", "`num_validation_photos` has to be at least 1"),
        ("logging_steps=0", "`logging_steps` has to be at least 1"),
        ("pixel_size=0", "`pixel_size` has to be at least 1"),
        ("lr_warmup_steps=-1", "`lr_warmup_steps` has to be at least 0"),
        ("seed=-1", "`seed` has to be in [0, 4294967295], got -1"),
        ("learning_rate=0", "`learning_rate` has to be positive, got 0.0"),
        ("max_grad_norm=0", "`max_grad_norm` has to be positive"),
        ("contrastive_temperature=0", "`contrastive_temperature` has to be positive"),
        ("timestep_power=0", "`timestep_power` has to be positive"),
        ("beta=-1", "`beta` has to be at least 0, got -1.0"),
        ("contrastive=both", "`contrastive` has to be one of ('linear', 'signed', 'published', 'none'), got 'both'"),
        ("mixed_precision=int8", "`mixed_precision` has to be one of ('no', 'fp16', 'bf16'), got 'int8'"),
        ("contrastive_batch_size=17", "`contrastive_batch_size` has to be in [0, 16], got 17"),
        ("condition_dropout=1.5", "`condition_dropout` has to be in [0, 1], got 1.5"),
        ("condition_jitter=1.5", "`condition_jitter` has to be in [0, 1], got 1.5"),
        ("attribute_dropout=-0.1", "`attribute_dropout` has to be in [0, 1]"),
        ("ema_decay=2", "`ema_decay` has to be in [0, 1]"),
        ("adam_beta2=1.5", "`adam_beta2` has to be in [0, 1], got 1.5"),
        ("statistics_weight_decay=-1", "`statistics_weight_decay` has to be at least 0, got -1.0"),
        ("gradient_accumulation_steps=0", "`gradient_accumulation_steps` has to be at least 1"),
        ("contrastive_every=0", "`contrastive_every` has to be at least 1, got 0"),
        ("snr_gamma=0", "`snr_gamma` has to be positive, got 0.0"),
        ("lr_scheduler=step", "`lr_scheduler` has to be one of ('cosine', 'linear',"),
        ("report_to=paper", "`report_to` has to be one of ('tensorboard', 'wandb', 'trackio', 'none'), got 'paper'"),
        ("bad_rows=hide", "`bad_rows` has to be one of ('stop', 'skip'), got 'hide'"),
        ("metric_for_best_model=loss", "`metric_for_best_model` has to be one of ('delta_e_c0', 'delta_e_oracle')"),
        ("lora_rank=0", "`lora_rank` has to be at least 1, got 0"),
        ("lora_alpha=-1", "`lora_alpha` has to be positive, got -1.0"),
        ("lora_target_modules=[]", "`lora_target_modules` has to name at least one"),
        ("lora_train_whole=[vae]", "`lora_train_whole` has to be a list from ('grid_head', 'conv_in', 'conv_out')"),
        ("model.block_out_channels=[]", "`model.block_out_channels` has to hold multiples of 16"),
        ("model.block_out_channels=[24]", "`model.block_out_channels` has to hold multiples of 16"),
        ("model.norm_num_groups=0", "`model.norm_num_groups` has to be at least 1"),
        ("model.attention_levels=4", "`model.attention_levels` has to be in [0, 3], got 4"),
        ("model.sample_size=30", "`model.sample_size` has to be a multiple of 4, got 30"),
        ("model.head_hidden_channels=[0]", "`model.head_hidden_channels` has to hold positive widths"),
        ("model.grid_depth=0", "`model.grid_depth` has to be at least 1"),
        ("model.noise_offset=-1", "`model.noise_offset` has to be in [0, 10], got -1.0"),
        ("model.prediction_type=sample", "`model.prediction_type` has to be one of ('epsilon', 'v_prediction'), got"),
        ("model.beta_end=1.5", "`model.beta_end` has to be in [0.00085, 1), got 1.5"),
    ],
)
def test_values_that_cannot_work_are_refused(override: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        load_config(None, [override])
    assert message in str(raised.value)


def test_zero_terminal_snr_needs_velocities() -> None:
    with pytest.raises(ValueError, match="`model.prediction_type` has to be v_prediction .* got epsilon"):
        load_config(None, ["model.rescale_betas_zero_snr=true", "model.prediction_type=epsilon"])


def test_a_missing_recipe_is_a_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_config(tmp_path / "none.yaml", [])
