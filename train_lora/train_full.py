"""Train every weight of a DiffRetouch model.

    python train_lora/train_full.py --recipe smoke
    python train_lora/train_full.py --recipe bundled dataset=data-synthetic
    python train_lora/train_full.py --recipe bundled dataset=data-synthetic --resume

A recipe is a name in train_lora/recipes or a YAML file; key=value overrides it (all keys with reasons:
pipeline/diffretouch/training/config.py).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

# Spinning OpenMP barriers make small machines up to 50 times slower; has to be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

from diffretouch.training.config import load_config  # noqa: E402

RECIPES = Path(__file__).parent / "recipes"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, help="name in recipes/ or path of a YAML file")
    parser.add_argument("--resume", action="store_true", help="continue from the newest good checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args(arguments)
    named = RECIPES / f"{options.recipe}.yaml"
    try:
        config = load_config(named if named.is_file() else options.recipe, options.overrides)
    except (ValueError, OSError) as error:
        print(f"train_full: {error}", file=sys.stderr)
        return 2

    from diffretouch.training.loop import train

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        final = train(config, resume=options.resume)
    except (FileNotFoundError, FileExistsError, ValueError) as error:
        print(f"train_full: {error}", file=sys.stderr)
        return 2
    except (FloatingPointError, OSError) as error:
        print(f"train_full: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train_full: stopped; --resume continues from the last checkpoint", file=sys.stderr)
        return 130
    print(f"The trained pipeline is in {final}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
