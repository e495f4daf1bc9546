"""What the training command lines share: read the recipe, train, say in one line what went wrong."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..extras import MEASURING, MissingExtra, require

if TYPE_CHECKING:
    from .config import TrainingConfig

_DEFAULT_RANK = 16


def main(program: str, description: str, recipes: Path, *, lora: bool, arguments: list[str] | None = None) -> int:
    """Run a training command line; returns its exit code: 0, 1 for a failure at work, 2 for a mistake, 130 stopped.

    Args:
        program, description: for help and messages.
        recipes: folder of the named recipes.
        lora: whether recipes are for an adapter or for every weight.
        arguments: of the command line; None = the process' own.
    """
    parser = argparse.ArgumentParser(
        prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", required=True, help=f"name in {recipes.name}/ or path of a YAML file")
    parser.add_argument(
        "--resume",
        "--resume_from_checkpoint",
        nargs="?",
        const="latest",
        metavar="latest | FOLDER",
        help="continue from the newest good checkpoint, or from this one",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="--key=value does as well")
    options, flags = parser.parse_known_args(arguments)
    named = recipes / f"{options.recipe}.yaml"
    overrides = [*options.overrides, *(flag.removeprefix("--") for flag in flags)]
    try:
        require(program, "train", (*MEASURING, "peft", "transformers") if lora else MEASURING)
        from .config import load_config

        config = load_config(named if named.is_file() else options.recipe, overrides)
        _check_kind(config, lora)
    except (MissingExtra, ValueError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2

    from .loop import train

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        final = train(config, resume=options.resume)
    except (FileNotFoundError, FileExistsError, ValueError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except (FloatingPointError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: stopped; --resume continues from the last checkpoint", file=sys.stderr)
        return 130
    return _hand_over(program, config, final)


def _check_kind(config: TrainingConfig, lora: bool) -> None:
    if lora and config.lora_rank is None:
        config.lora_rank = _DEFAULT_RANK
    if lora and config.pretrained_model is None:
        raise ValueError("`pretrained_model` has to be the model that the adapter is for, got none.")
    if not lora and config.lora_rank is not None:
        raise ValueError(
            f"`lora_rank` has to be null to train every weight, got {config.lora_rank}: use train_lora.py."
        )


def _hand_over(program: str, config: TrainingConfig, final: Path) -> int:
    """Say where the result is, and push it if the recipe says so."""
    if not _is_first_process():
        return 0
    print(f"The trained {'pipeline' if config.lora_rank is None else 'adapter'} is in {final}")
    if not config.push_to_hub:
        return 0
    from ..hub.upload import HubError, push

    repo_id = config.hub_model_id or Path(config.output_dir).name
    try:
        print(f"Pushed: {push(final, repo_id)}")
    except (HubError, ValueError) as error:
        print(f"{program}: {error} Push it later with: diffretouch push {final} {repo_id}", file=sys.stderr)
        return 1
    return 0


def _is_first_process() -> bool:
    from accelerate import PartialState

    return PartialState().is_main_process
