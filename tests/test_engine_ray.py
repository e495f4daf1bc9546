"""The batch on a Ray cluster of this machine: the same files, although a worker is killed on the way."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import psutil
import pytest
from scenes import scene

from diffretouch.batch.loop import retouch_files
from diffretouch.batch.plan import Naming, place, plan
from diffretouch.batch.report import Report
from diffretouch.batch.settings import Settings
from diffretouch.commands.cli import main

ray = pytest.importorskip("ray", reason="Ray is an optional dependency")


@pytest.fixture
def cluster():
    """Two cores of this machine; leaves nothing running."""
    try:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    except Exception as error:  # what keeps Ray from starting differs by machine: no shared memory, no ports, limits
        pytest.skip(f"Ray cannot start here: {error}")
    yield
    ray.shutdown()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray-address", "127.0.0.1:9"], "diffretouch: cannot reach a Ray cluster at 127.0.0.1:9: "),
        (["--model", "none"], "diffretouch: `model` has to be a DiffRetouch folder or Hub id, got none: "),
    ],
)
def test_a_bad_address_or_model_is_one_line_at_once(options, message, tmp_path: Path, capsys) -> None:
    PIL.Image.fromarray(scene(0)).save(tmp_path / "a.png")
    assert main(["retouch", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--engine", "ray", *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def kill_one_worker() -> None:
    children = psutil.Process().children(recursive=True)
    workers = [child for child in children if any("MapWorker" in part for part in child.cmdline()[:1])]
    assert len(workers) == 2
    workers[0].kill()


def test_a_killed_worker_costs_no_photo(cluster, tiny_pipeline, tmp_path: Path) -> None:
    from diffretouch.batch.engine_ray import ray_engine

    tiny_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "in").mkdir()
    for number in range(6):
        PIL.Image.fromarray(scene(number)).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"not a photo")
    settings = Settings(model=str(tmp_path / "model"))
    jobs = plan([place(f"file://{tmp_path}/in")], Naming(place(f"file://{tmp_path}/out")))
    report = Report(tmp_path / "report.jsonl")
    batch = retouch_files(jobs, settings, report=report, workers=2, engine=ray_engine())
    outcome = [next(batch)]
    kill_one_worker()
    outcome += batch
    failed = [record for record in outcome if record["error"]]
    assert [Path(record["source"]).name for record in failed] == ["bad.png"]
    lines = [json.loads(line) for line in report.path.read_text().splitlines()]
    assert sorted(line["source"] for line in lines) == sorted(str(job.source) for job in jobs)
    assert [Path(job.source).name for job in Report(report.path).unfinished(jobs, settings.described())] == ["bad.png"]
    list(retouch_files(plan([tmp_path / "in"], Naming(tmp_path / "threads")), settings))
    made, expected = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("out", "threads")
    )
    assert made == expected
    assert len(made) == 6
