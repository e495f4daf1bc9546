"""fast_apply.py: the compiled pass does what the torch operations do, on any photo and grid, cache or not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from diffretouch.look import fast_apply
from diffretouch.look.fast_apply import apply_numpy
from diffretouch.model import modeling_affine_grid
from diffretouch.model.modeling_affine_grid import COMPILED_APPLY, AffineGrid, GuideCurve, identity_coefficients

KINDS = (np.uint8, np.uint16, np.float32)


def random_grid(shape: tuple[int, int, int], seed: int, noise: float = 0.2, knots: int = 16) -> AffineGrid:
    """Every number of grid and guide differs, no thresholds are sorted."""
    generator = torch.Generator().manual_seed(seed)
    curve = GuideCurve(knots)
    with torch.no_grad():
        for parameter in curve.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return AffineGrid(identity_coefficients(*shape) + noise * torch.randn(12, *shape, generator=generator), curve)


def random_photo(height: int, width: int, kind: type, seed: int = 0) -> np.ndarray:
    """Noise with both ends of the scale in it."""
    values = np.random.default_rng(seed).random((height, width, 3)) * 1.2 - 0.1
    return scaled(values.clip(0, 1), kind)


def scaled(values: np.ndarray, kind: type) -> np.ndarray:
    return np.round(values * np.iinfo(kind).max).astype(kind) if kind in (np.uint8, np.uint16) else values.astype(kind)


def compiled(grid: AffineGrid, photo: np.ndarray, strength: float = 1.0, **options: object) -> np.ndarray:
    guide = {name: tensor.numpy() for name, tensor in grid.guide.state_dict().items()}
    return apply_numpy(photo, grid.coefficients.numpy(), guide, strength, **options)


def assert_agrees(ours: np.ndarray, grid: AffineGrid, photo: np.ndarray, strength: float = 1.0) -> None:
    """With the torch operations: whole numbers within one, and hardly ever that; floats within 1/100 of 8 bits."""
    reference = grid.apply_tiled(photo, strength)
    assert ours.dtype == photo.dtype and ours.shape == photo.shape
    difference = np.abs(ours.astype(np.float64) - reference.astype(np.float64))
    if photo.dtype.kind == "f":
        assert difference.max() < 0.01 / 255
    else:
        assert difference.max() <= 1
        assert (difference > 0).mean() < (0.002 if photo.dtype == np.uint8 else 0.1)


# ---------------------------------------------------------------- equal to the torch operations


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((37, 53), (8, 16, 16)),
        ((1, 1), (8, 16, 16)),
        ((1, 700), (4, 3, 5)),
        ((700, 1), (4, 3, 5)),
        ((2, 2), (1, 1, 1)),
        ((5, 511), (2, 1, 1)),
        ((5, 512), (3, 2, 1)),
        ((5, 513), (1, 5, 2)),
        ((7, 1025), (11, 2, 3)),
        ((9, 16), (8, 40, 40)),
        ((40, 3), (5, 1, 16)),
        ((64, 33), (64, 2, 2)),
    ],
)
def test_any_size_on_any_grid(size: tuple[int, int], shape: tuple[int, int, int], kind: type) -> None:
    grid, photo = random_grid(shape, seed=sum(size)), random_photo(*size, kind)
    assert_agrees(compiled(grid, photo), grid, photo)


@pytest.mark.parametrize("seed", range(20))
def test_random_photos_grids_guides_and_strengths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 12)), int(rng.integers(1, 20)), int(rng.integers(1, 20)))
    grid = random_grid(shape, seed, noise=rng.choice([0.02, 0.2, 0.6]), knots=int(rng.integers(1, 19)))
    photo = random_photo(int(rng.integers(1, 60)), int(rng.integers(1, 600)), KINDS[seed % 3], seed)
    strength = float(rng.uniform(0, 2))
    assert_agrees(compiled(grid, photo, strength), grid, photo, strength)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [1e-6, 0.5, 1.0, 2.0])
def test_the_identity_changes_no_bit(kind: type, strength: float) -> None:
    photo = random_photo(50, 700, kind)
    identity = AffineGrid(identity_coefficients(8, 16, 16), random_grid((1, 1, 1), 0).guide)
    np.testing.assert_array_equal(compiled(identity, photo, strength), photo)


@pytest.mark.parametrize("kind", KINDS)
def test_strength_zero_is_the_photo(kind: type) -> None:
    photo = random_photo(20, 30, kind)
    np.testing.assert_array_equal(compiled(random_grid((8, 4, 4), 0), photo, 0.0), photo)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", [-4.0, 4.0])
def test_beyond_black_and_white_is_black_and_white(kind: type, offset: float) -> None:
    coefficients = identity_coefficients(4, 2, 2)
    coefficients[[3, 7, 11]] = offset
    out = compiled(AffineGrid(coefficients, GuideCurve()), random_photo(9, 40, kind))
    assert (out == (0 if offset < 0 else scaled(np.ones(1), kind)[0])).all()


@pytest.mark.parametrize("bias", [-3.0, 3.0])
def test_a_guide_beyond_its_range_reads_the_outermost_bin(bias: float) -> None:
    grid, photo = random_grid((8, 3, 3), 0), random_photo(9, 40, np.uint8)
    grid.guide.bias.fill_(bias)
    bin_ = 0 if bias < 0 else -1
    outermost = AffineGrid(grid.coefficients[:, [bin_]], grid.guide)
    np.testing.assert_array_equal(compiled(grid, photo), compiled(outermost, photo))
    assert_agrees(compiled(grid, photo), grid, photo)


def test_a_guide_without_slopes_or_with_equal_thresholds() -> None:
    grid, photo = random_grid((8, 3, 3), 0), random_photo(20, 40, np.uint8)
    grid.guide.thresholds.fill_(0.1)
    assert_agrees(compiled(grid, photo), grid, photo)
    grid.guide.slopes.zero_()
    assert_agrees(compiled(grid, photo), grid, photo)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("huge", [1e8, 3e38])
def test_numbers_without_measure_stay_within_photo_and_grid(huge: float) -> None:
    """Infinite and undefined guides and colours come about inside: nothing may be read or written elsewhere."""
    grid = random_grid((8, 5, 5), 0)
    grid.coefficients *= huge
    grid.guide.slopes *= huge
    grid.guide.matrix *= -huge
    for kind in KINDS:
        padded = np.zeros((22, 300, 3), kind)
        compiled(grid, random_photo(20, 300, kind), 2.0, out=padded[1:-1])
        assert not padded[[0, -1]].any()
        assert padded.max() <= scaled(np.ones(1), kind)[0]


# ---------------------------------------------------------------- every layout, any number of threads


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "layout", ["flipped", "transposed", "every other", "BGR", "planar", "read-only", "unaligned", "a window"]
)
def test_strides_do_not_matter(layout: str, kind: type) -> None:
    grid, photo = random_grid((8, 4, 4), 0), random_photo(40, 60, kind)
    view = {
        "flipped": lambda: photo[::-1, ::-1],
        "transposed": lambda: photo.transpose(1, 0, 2),
        "every other": lambda: photo[::2, ::3],
        "BGR": lambda: photo[..., ::-1],
        "planar": lambda: photo.transpose(2, 0, 1).copy().transpose(1, 2, 0),
        "read-only": lambda: np.frombuffer(photo.tobytes(), kind).reshape(photo.shape),
        "unaligned": lambda: np.frombuffer(b"-" + photo.tobytes(), kind, offset=1).reshape(photo.shape),
        "a window": lambda: photo[3:-4, 5:-6],
    }[layout]()
    np.testing.assert_array_equal(compiled(grid, view), compiled(grid, np.array(view, kind, order="C")))


@pytest.mark.parametrize("kind", ["float16", "float64", ">f4"])
def test_other_floats_are_computed_in_float32_and_keep_their_type(kind: str) -> None:
    grid, photo = random_grid((8, 4, 4), 0), random_photo(40, 60, np.float32).astype(kind)
    out = compiled(grid, photo)
    assert out.dtype == photo.dtype
    np.testing.assert_array_equal(out, compiled(grid, photo.astype(np.float32)).astype(kind))


@pytest.mark.parametrize("out", ["C", "planar", "flipped"])
def test_it_writes_where_it_is_told(out: str) -> None:
    grid, photo = random_grid((8, 4, 4), 0), random_photo(40, 60, np.uint8)
    target = {
        "C": np.empty((40, 60, 3), np.uint8),
        "planar": np.empty((3, 40, 60), np.uint8).transpose(1, 2, 0),
        "flipped": np.empty((40, 60, 3), np.uint8)[::-1],
    }[out]
    assert compiled(grid, photo, out=target) is target
    np.testing.assert_array_equal(target, compiled(grid, photo))


def test_a_band_knows_its_place() -> None:
    grid, photo = random_grid((8, 4, 4), 0), random_photo(40, 60, np.uint8)
    whole = compiled(grid, photo)
    for first, last in ((0, 1), (7, 23), (39, 40)):
        band = compiled(grid, photo[first:last], rows=(first, 40))
        np.testing.assert_array_equal(band, whole[first:last])


@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_no_bit(kind: type) -> None:
    grid, photo = random_grid((8, 16, 16), 0), random_photo(301, 700, kind)
    alone = compiled(grid, photo, threads=1)
    np.testing.assert_array_equal(compiled(grid, photo, threads=3), alone)
    with ThreadPoolExecutor(4) as pool:  # and calls from several threads do not meet
        for out in pool.map(lambda _: compiled(grid, photo, threads=2), range(8)):
            np.testing.assert_array_equal(out, alone)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_beyond_input_and_output_does_not_grow_with_the_photo() -> None:
    extras = in_a_new_process(
        """
        def peak():
            return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

        for kind, planar in ((np.uint8, False), (np.float32, False), (np.float16, True)):
            shapes = [(3, n, 4000) if planar else (n, 4000, 3) for n in (100, 6000)]
            for shape in shapes:
                photo = np.ones(shape, kind)
                photo = photo.transpose(1, 2, 0) if planar else photo
                before = peak()
                retouch(photo)
                extra = peak() - before - photo.nbytes / 2**20
                del photo
            print(extra)
        """
    )
    assert max(float(extra) for extra in extras.split()) < 16, f"MB beyond the output: {extras.split()}"


# ---------------------------------------------------------------- the compiler's cache


def in_a_new_process(code: str, **environment: str) -> str:
    """What `code` prints, with `retouch(photo)` at hand: red raised by an eighth of the scale."""
    start = """
        import re
        import numpy as np
        from diffretouch.look import fast_apply

        coefficients = np.zeros((12, 4, 3, 3), np.float32)
        coefficients[[0, 5, 10]] = 1
        coefficients[3] = 0.25
        guide = {"matrix": np.eye(3), "matrix_bias": np.zeros(3), "bias": np.zeros(())}
        guide |= {"thresholds": np.zeros((3, 1)), "slopes": np.ones((3, 1))}

        def retouch(photo):
            return fast_apply.apply_numpy(photo, coefficients, guide, 1.0, 2)
        """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(start) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        timeout=500,
        env={**os.environ, **environment},
    )
    return run.stdout


ONE_RETOUCH = """
photo = np.full((4, 5, 3), 100, np.uint8)
print(retouch(photo)[0, 0].tolist(), sum(fast_apply._retouch_kept.stats.cache_hits.values()))
"""


def test_what_is_compiled_is_kept_for_the_next_process_and_may_be_damaged(tmp_path: Path) -> None:
    runs = [in_a_new_process(ONE_RETOUCH, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    assert runs == ["[132, 100, 100] 0\n", "[132, 100, 100] 1\n"]
    for file in tmp_path.rglob("*.nb?"):
        file.write_bytes(file.read_bytes()[:100])
    assert in_a_new_process(ONE_RETOUCH, NUMBA_CACHE_DIR=str(tmp_path)) == "[132, 100, 100] 0\n"


def test_a_full_disk_under_the_cache_does_not_matter(tmp_path: Path) -> None:
    full = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
"""
    assert in_a_new_process(full + ONE_RETOUCH, NUMBA_CACHE_DIR=str(tmp_path)) == "[132, 100, 100] 0\n"


def test_no_folder_for_a_cache_does_not_matter(tmp_path: Path) -> None:
    """Neither beside the package, a copy of which `__pycache__` is a file, nor in the home."""
    room, source = tmp_path / "diffretouch" / "look", Path(fast_apply.__file__)
    room.mkdir(parents=True)
    (room.parent / "model").mkdir()
    for name in ("__init__.py", "moved.py", "model/__init__.py", "look/__init__.py", "look/fast_apply.py"):
        (room.parent / name).write_bytes((source.parents[1] / name).read_bytes())
    (room / "__pycache__").touch()
    homes = {name: str(room / "__pycache__") for name in ("HOME", "XDG_CACHE_HOME")}
    code = """
        print(fast_apply.__file__, fast_apply._retouch_kept.stats.cache_path)
        print(retouch(np.full((4, 5, 3), 100, np.uint8))[0, 0].tolist())
        """
    printed = in_a_new_process(code, PYTHONPATH=str(tmp_path), **homes)
    assert printed == f"{room / 'fast_apply.py'} None\n[132, 100, 100]\n"


# ---------------------------------------------------------------- how AffineGrid finds it


LARGE = (600, 700)  # AffineGrid leaves smaller photos to torch


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs packages that name a function for `COMPILED_APPLY`; the one under test is hidden until then."""

    def install(target: str) -> None:
        info = tmp_path / "other-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{COMPILED_APPLY}]\nother = {target}\n")
        monkeypatch.setattr(
            modeling_affine_grid,
            "entry_points",
            lambda group: [entry for entry in entry_points(group=group) if entry.dist.name == "other"],
        )
        monkeypatch.syspath_prepend(tmp_path)
        modeling_affine_grid.compiled_apply.cache_clear()

    yield install
    modeling_affine_grid.compiled_apply.cache_clear()


def test_the_installed_package_offers_it() -> None:
    assert [entry.load() for entry in entry_points(group=COMPILED_APPLY) if entry.dist.name == "diffretouch"] == [
        apply_numpy
    ]


def test_remote_code_finds_it_without_naming_the_package() -> None:
    """The file as a model brings it, under another name: another class, the same compiled function."""
    spec = spec_from_file_location("remote_affine_grid", modeling_affine_grid.__file__)
    assert spec is not None and spec.loader is not None
    remote = module_from_spec(spec)
    spec.loader.exec_module(remote)
    assert remote.AffineGrid is not AffineGrid
    assert remote.compiled_apply() is modeling_affine_grid.compiled_apply() is apply_numpy
    code = Path(modeling_affine_grid.__file__).read_text()
    assert not re.search(r"^\s*(from|import) +(diffretouch|\.)", code, re.MULTILINE)


@pytest.mark.parametrize("kind", KINDS)
def test_large_photos_take_it(kind: type) -> None:
    grid, photo = random_grid((8, 4, 4), 0), random_photo(*LARGE, kind)
    np.testing.assert_array_equal(grid.apply(photo, 0.7), compiled(grid, photo, 0.7))


@pytest.mark.parametrize("size", [LARGE, (60, 70)])
def test_bands_are_retouched_as_their_picture_is(size: tuple[int, int]) -> None:
    """By the same means too: whether a band is large does not count, but whether its picture is."""
    grid, photo = random_grid((8, 4, 4), 0), random_photo(*size, np.uint16)
    height = size[0]
    bands = [grid.apply(photo[i : i + 25], 0.7, rows=(i, height)) for i in range(0, height, 25)]
    np.testing.assert_array_equal(np.concatenate(bands), grid.apply(photo, 0.7))


@pytest.mark.parametrize("rows", [(-1, 40), (31, 40), (0, 9)])
def test_a_band_outside_its_picture_is_refused(rows: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="`rows` has to be"):
        random_grid((2, 2, 2), 0).apply(random_photo(10, 8, np.uint8), rows=rows)


def test_large_pil_images_take_it() -> None:
    grid, photo = random_grid((8, 4, 4), 0), random_photo(*LARGE, np.uint8)
    expected = compiled(grid, photo)
    np.testing.assert_array_equal(np.asarray(grid.apply(PIL.Image.fromarray(photo))), expected)
    with_alpha = PIL.Image.fromarray(np.concatenate([photo, photo[..., :1]], axis=2))
    np.testing.assert_array_equal(
        np.asarray(grid.apply(with_alpha)), np.concatenate([expected, photo[..., :1]], axis=2)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_large_tensors_take_it(dtype: torch.dtype) -> None:
    grid, photos = random_grid((8, 4, 4), 0), np.stack([random_photo(*LARGE, np.float32, seed) for seed in (0, 1)])
    batch = torch.from_numpy(photos).permute(0, 3, 1, 2).to(dtype).requires_grad_()
    retouched = grid.apply(batch)
    assert retouched.dtype == dtype and not retouched.requires_grad
    for photo, ours in zip(batch.detach(), retouched, strict=True):
        expected = compiled(grid, photo.permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(ours.permute(1, 2, 0).numpy(), expected)
        np.testing.assert_array_equal(grid.apply(photo).permute(1, 2, 0).numpy(), expected)


def test_bfloat16_which_numpy_lacks_is_left_to_torch() -> None:
    grid, photo = random_grid((8, 4, 4), 0), torch.rand(3, *LARGE).bfloat16()
    torch.testing.assert_close(grid.apply(photo), grid.apply_tiled(photo), rtol=0, atol=0)


def test_without_it_or_what_it_needs_torch_does_the_same(group) -> None:
    group("a_package_that_is_not_installed:apply")
    grid, photo = random_grid((8, 4, 4), 0), random_photo(*LARGE, np.uint8)
    assert modeling_affine_grid.compiled_apply() is None
    np.testing.assert_array_equal(grid.apply(photo), grid.apply_tiled(photo))
    assert_agrees(compiled(grid, photo), grid, photo)


def test_another_package_may_offer_one(group) -> None:
    group("shutil:copyfile")
    import shutil

    assert modeling_affine_grid.compiled_apply() is shutil.copyfile


def test_small_photos_are_done_before_it_is_looked_for() -> None:
    """Importing numba takes longer than they do."""
    modeling_affine_grid.compiled_apply.cache_clear()
    grid = random_grid((8, 4, 4), 0)
    for kind, looked_up in (((500, 500), 0), (LARGE, 1)):
        grid.apply(random_photo(*kind, np.uint8))
        assert modeling_affine_grid.compiled_apply.cache_info().currsize == looked_up
