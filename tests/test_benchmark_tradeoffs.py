"""What one figure costs in another: ways reach the model as they are named, and figures are what they say."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from scenes import scene, write_data_set

from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline
from diffretouch.evaluation.methods import Model
from diffretouch.evaluation.metrics import delta_e_2000
from diffretouch.evaluation.photos import EvaluatedPhoto

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import tradeoffs  # noqa: E402


@pytest.fixture(scope="module")
def pipe() -> DiffRetouchPipeline:
    pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(seed: int) -> np.ndarray:
    return scene(seed).astype(np.float32) / 255


def test_a_models_own_way_is_what_users_get(pipe) -> None:
    seeds = [0, 7, 8]
    own, users = tradeoffs.Way(pipe).variants(picture(1), seeds), Model(pipe).variants(picture(1), seeds)
    assert all(np.array_equal(one, other) for one, other in zip(own, users, strict=True))


def test_timesteps_and_offset_are_the_ways_and_the_model_stays_as_it_was(pipe) -> None:
    seen: list[int] = []
    hook = pipe.unet.register_forward_pre_hook(lambda _, given: seen.append(int(given[1])))
    own = pipe.config.noise_offset

    def apart(offset: float) -> float:
        return delta_e_2000(*tradeoffs.Way(pipe, None, (999, 650), offset).variants(picture(1), [7, 8]))

    narrow, wide = apart(0.0), apart(4.0)
    hook.remove()
    assert seen == [999, 650, 999, 650] and wide > 2 * narrow and pipe.config.noise_offset == own


@dataclass(frozen=True)
class Known(tradeoffs.Way):
    """Answers with the first condition's number as a grey, moved by the seed, so that figures can be foretold."""

    def pictures(self, picture, conditions, seeds):
        greys = [0.5 + c[0] / 10 + (seed % 2) / 10 for c, seed in zip(conditions, seeds, strict=True)]
        return [np.full_like(picture, grey) for grey in greys]


def test_figures_are_means_over_experts_pairs_of_seeds_and_seeds(monkeypatch) -> None:
    monkeypatch.setattr(tradeoffs, "variant_seeds", lambda seed, photo: [2, 3, 4, 5, 6, 7, 8, 10])
    grey = {value: np.full((8, 8, 3), value, np.float32) for value in (0.4, 0.5, 0.6, 0.7)}
    photo = EvaluatedPhoto("a", grey[0.4], {"A": grey[0.5], "B": grey[0.7]}, {"A": [0.0] * 4, "B": [1.0] + [0.0] * 3})
    found = tradeoffs.measure_photo(Known(None), photo)
    one, two = (delta_e_2000(grey[0.5], grey[other]) for other in (0.6, 0.7))
    last = delta_e_2000(grey[0.6], grey[0.7])
    assert found == {
        "c = 0": pytest.approx(two / 2),
        "oracle c": pytest.approx(last / 2, rel=1e-4),  # A as it is, B asked for 0.6
        "nearest of 8": pytest.approx(last / 2, rel=1e-4),  # 0.5 of the even seeds, 0.6 of the odd ones
        "seeds apart": pytest.approx(one * 4 / 6, rel=1e-4),
        "variants farther": 0.0,
    }
    same = EvaluatedPhoto("b", grey[0.5], {"A": grey[0.5]}, {"A": [0.0] * 4})
    assert tradeoffs.measure_photo(Known(None), same)["variants farther"] == 3 / 8


def test_every_way_is_a_row_compared_to_the_first_photo_by_photo(tmp_path: Path, capsys) -> None:
    data = write_data_set(tmp_path / "data", {"validation": 2})
    for folder, names in {"finished": ["a"], "pairs": ["a_input", "a_expert", "b_input", "b_expert"]}.items():
        (tmp_path / folder).mkdir()
        for seed, name in enumerate(names):
            PIL.Image.fromarray(scene(seed)).save(tmp_path / folder / f"{name}.png")
    given = ["--finished", str(tmp_path / "finished"), "--pairs", str(tmp_path / "pairs")]
    ways = ["--timesteps", "999,650,300", "999", "--noise_offsets", "2"]
    assert tradeoffs.main([str(data), "-o", str(tmp_path / "t.json"), *given, *ways]) == 0
    saved = json.loads((tmp_path / "t.json").read_text())
    first, second = saved["ways"].values()
    assert list(saved["ways"])[1] == "the bundled model, at 999, offset 2" and saved["photos"] == 2
    for figures in (first, first["real pairs"]):
        assert all("to the first" not in figures[name] for name in figures if name != "finished photos")
    for place in (second, second["real pairs"]):
        before = first if place is second else first["real pairs"]
        for name, figure in place.items():
            if name in ("finished photos", "real pairs"):
                continue
            assert figure["to the first"]["mean"] == pytest.approx(figure["mean"] - before[name]["mean"])
    assert first["finished photos"]["moved"]["mean"] > 0 and second["real pairs"]["psnr"]["mean"] > 0
    assert capsys.readouterr().out.count("\n| the bundled model, at 999") == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--timesteps", "999;650"], "`timesteps` has to be whole numbers joined by commas, got '999;650'"),
        (["--timesteps", "300,999"], "`timesteps` has to be"),
        (["--noise_offsets", "nan"], "`noise_offsets` has to be a number in [0, 10], got nan"),
        (["--num_photos", "0"], "`num_photos` has to be an integer of at least 1, got 0"),
        (["--models", "none-such"], "none-such"),
        (["-o", "none-such/t.json"], "`--output` has to be in an existing folder, got none-such/t.json"),
    ],
)
def test_a_bad_argument_is_one_line_and_exit_2(tmp_path: Path, capsys, given, said) -> None:
    data = write_data_set(tmp_path / "data", {"validation": 1})
    assert tradeoffs.main([str(data), "-o", str(tmp_path / "t.json"), *given]) == 2
    error = capsys.readouterr().err
    assert said in error and not (tmp_path / "t.json").exists()
