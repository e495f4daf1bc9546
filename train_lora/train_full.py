# /// script
# requires-python = ">=3.11"
# dependencies = ["diffretouch[train]"]
#
# [tool.uv.sources]  # not on PyPI yet: the checkout that this file lies in; without one, see README.md beside it
# diffretouch = { path = "..", editable = true }
# ///
"""Train every weight of a DiffRetouch model.

    python train_lora/train_full.py --recipe smoke dataset=data-synthetic
    python train_lora/train_full.py --recipe bundled dataset=data-synthetic
    python train_lora/train_full.py --recipe bundled dataset=data-synthetic --resume
    torchrun --nproc_per_node 8 train_lora/train_full.py --recipe fivek_sd21 dataset=fivek

A recipe is a name in train_lora/recipes or a YAML file; key=value overrides it (all keys with reasons:
pipeline/diffretouch/training/config.py).
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
    return command.main("train_full", __doc__, RECIPES, lora=False, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
