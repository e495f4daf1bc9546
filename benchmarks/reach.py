"""How near the experts the model's kind of answer could come, were it always the best one.

    python benchmarks/reach.py data-synthetic -o reach.json

Fits, by least squares to each photo of the validation split and each expert, what a grid of the model's size can say:

1. *whole picture*: one affine transform of colour per level of luminance, 8 of them, interpolated;
2. *with places*: to that a field of 16 x 16 affine transforms is added, interpolated, the same at all luminances, so
   somewhat less than a full grid.

What a model leaves beyond these is not for want of resolution: it has not guessed the expert's transform. Mean
CIEDE2000 to the expert, pictures as large as the data set has them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from output import require_folder
from scipy.sparse import csr_matrix, hstack, identity
from scipy.sparse.linalg import spsolve

from diffretouch.data.dataset import decode, photos_of, read_split
from diffretouch.evaluation.measure import evenly_spaced
from diffretouch.evaluation.metrics import delta_e_2000
from diffretouch.files import save_json

LEVELS, CELLS = 8, 16
RIDGE = 0.1  # keeps cells of one colour from free play
LUMINANCE = (0.299, 0.587, 0.114)


def interpolation(places: np.ndarray, knots: int) -> csr_matrix:
    """Weights (N, knots) of linear interpolation at `places` (N,) in [0, 1]."""
    position = places.clip(0, 1) * (knots - 1)
    below = np.minimum(position.astype(int), knots - 2)
    upper = position - below
    rows = np.arange(len(places))
    return csr_matrix(
        (np.concatenate([1 - upper, upper]), (np.tile(rows, 2), np.concatenate([below, below + 1]))),
        shape=(len(places), knots),
    )


def times(left: csr_matrix, right: csr_matrix) -> csr_matrix:
    """Products of every column of (N, A) with every column of (N, B): (N, A * B)."""
    return hstack([right.multiply(left[:, [column]]) for column in range(left.shape[1])]).tocsr()


def solve(terms: csr_matrix, wanted: np.ndarray) -> np.ndarray:
    """What `terms` (N, K) can give of `wanted` (N, 3), ridge regression."""
    normal = (terms.T @ terms + RIDGE * identity(terms.shape[1])).tocsc()
    return terms @ spsolve(normal, terms.T @ wanted)


def errors(photo: np.ndarray, target: np.ndarray) -> list[float]:
    """Mean CIEDE2000 to `target` of `photo` (H, W, 3 in [0, 1]), of the whole-picture fit and of that with places."""
    height, width, _ = photo.shape
    pixels, wanted = photo.reshape(-1, 3), target.reshape(-1, 3)
    colour = csr_matrix(np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1))
    y, x = (np.linspace(0, 1, size) for size in (height, width))
    rows, columns = (place.ravel() for place in np.meshgrid(y, x, indexing="ij"))
    whole = solve(times(interpolation(pixels @ LUMINANCE, LEVELS), colour), wanted)
    cells = times(interpolation(rows, CELLS), interpolation(columns, CELLS))
    placed = whole + solve(times(cells, colour), wanted - whole)
    return [delta_e_2000(answer.clip(0, 1).reshape(photo.shape), target) for answer in (pixels, whole, placed)]


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="folder or Hub id, in the project's schema")
    parser.add_argument("--num_photos", type=int, default=28, help="evenly spaced (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args(arguments)
    try:
        require_folder(options.output)
        photos = evenly_spaced(list(photos_of(read_split(options.dataset, "validation"))), options.num_photos)
        found = []
        for pairs in photos:
            photo = np.asarray(decode(pairs[0]["input"]), np.float64) / 255
            found += [errors(photo, np.asarray(decode(pair["target"]), np.float64) / 255) for pair in pairs]
    except (OSError, TypeError, ValueError) as error:
        print(f"reach.py: {error}", file=sys.stderr)
        return 2
    names = ("no change", "whole picture", "with places")
    means = dict(zip(names, np.mean(found, axis=0).round(3).tolist(), strict=True))
    save_json({"num_photos": len(photos), "num_pairs": len(found), "delta_e": means}, options.output)
    print(", ".join(f"{name}: {value:.2f}" for name, value in means.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
