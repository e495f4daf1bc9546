# /// script
# requires-python = ">=3.11"
# dependencies = ["diffretouch[train]"]
#
# [tool.uv.sources]  # not on PyPI yet: the checkout that this file lies in; without one, see README.md beside it
# diffretouch = { path = "..", editable = true }
# ///
"""Teach a DiffRetouch model a style from before/after pairs, as an adapter of a few hundred kilobytes.

    python train_lora/train_lora.py --recipe my_style dataset=my-style/data
    python train_lora/train_lora.py --recipe my_style dataset=my-style/data --resume
    python train_lora/train_lora.py --recipe my_style dataset=my-style/data lora_rank=32 push_to_hub=true

From folders of pictures to the Hub: train_lora/README.md. A recipe is a name in train_lora/recipes or a YAML file;
key=value overrides it (all keys with reasons: pipeline/diffretouch/training/config.py).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Spinning OpenMP barriers make small machines up to 50 times slower; has to be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

from diffretouch.training import command  # noqa: E402

RECIPES = Path(__file__).parent / "recipes"


def main(arguments: list[str] | None = None) -> int:
    return command.main("train_lora", __doc__, RECIPES, lora=True, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
