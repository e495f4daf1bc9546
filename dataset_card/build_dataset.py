"""Build the synthetic-experts data set that the bundled model was trained on.

python dataset_card/fetch_photos.py photos
python dataset_card/build_dataset.py photos data-synthetic
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffretouch.data.dataset import CONDITIONS, build_synthetic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder made by fetch_photos.py")
    parser.add_argument("out", type=Path, help="data set folder to write")
    parser.add_argument("--table", type=Path, default=Path(__file__).with_name("photos.tsv"))
    parser.add_argument("--num_inputs", type=int, default=6, help="degraded inputs per training photo")
    parser.add_argument("--long_side", type=int, default=320, help="pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--conditions", choices=tuple(CONDITIONS), default="quantile", help="rule that makes c")
    arguments = parser.parse_args()
    build_synthetic(
        arguments.photos,
        arguments.table,
        arguments.out,
        num_inputs=arguments.num_inputs,
        long_side=arguments.long_side,
        seed=arguments.seed,
        conditions=arguments.conditions,
    )


if __name__ == "__main__":
    main()
