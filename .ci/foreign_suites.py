"""Run diffusers' own common tests on our pipeline and models: pipeline (old and new), memory, LoRA, model.

python .ci/foreign_suites.py path/to/diffusers               # a checkout: its folder `tests` is what counts
python .ci/foreign_suites.py path/to/diffusers -k lora       # options after the folder go to pytest

The checkout should be of the installed version of diffusers; its own tests are run as they are. Every test passes or
is named in foreign_suites.toml with the reason. Exits with 1 if one fails or is skipped that is not named there, if
one passes that is, or if the checkout has none of them. What needs an accelerator is skipped where there is none, and
said.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_name("foreign_suites.toml")
CASES = Path(__file__).with_name("foreign_cases.py")
HARDWARE = re.compile(r"accelerator|requires CUDA|GPU|cuda|xpu", re.IGNORECASE)


class Outcome(NamedTuple):
    name: str  # TestPipeline::test_to_dtype
    what: str  # "passed", "failed" or "skipped"
    why: str = ""


def run(checkout: Path, report: Path, options: list[str]) -> None:
    """The tests, in a process whose `tests` is the checkout's."""
    paths = [str(checkout), str(ROOT / "tests"), str(ROOT / "pipeline")]
    settings = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "2000"} | os.environ
    settings["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    line = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(CASES.parent), "-q", "--tb=short"]
    line += ["-p", "no:cacheprovider", "--junitxml", str(report), str(CASES), *options]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(line, cwd=folder, env=settings)


def read(report: Path) -> list[Outcome]:
    found = []
    for case in ET.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        trouble = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        if trouble is None:
            found.append(Outcome(name, "passed"))
        else:
            what = "skipped" if trouble.tag == "skipped" else "failed"
            found.append(Outcome(name, what, (trouble.get("message") or "").partition("\n")[0]))
    return found


def expected(name: str, table: dict[str, dict[str, str]]) -> tuple[str, str]:
    """What the table says of a test, and why. It names tests by patterns, without their parameters."""
    for what, reasons in table.items():
        for pattern, reason in reasons.items():
            if fnmatch(name.partition("[")[0], pattern):
                return what, reason
    return "passed", ""


def differences(outcomes: list[Outcome], table: dict[str, dict[str, str]]) -> list[str]:
    """What is not as the table says."""
    wrong = []
    for outcome in outcomes:
        due = expected(outcome.name, table)[0]
        for_hardware = outcome.what == "skipped" and HARDWARE.search(outcome.why)
        if outcome.what != due and not for_hardware:
            wrong.append(f"{outcome.name} {outcome.what}, expected: {due}. {outcome.why}".rstrip())
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="the folder that holds diffusers' `tests`")
    parser.add_argument("--table", type=Path, default=TABLE, help=argparse.SUPPRESS)
    arguments, options = parser.parse_known_args()
    if not (arguments.checkout / "tests" / "testing_utils.py").is_file():
        parser.error(f"`checkout` has to hold tests/testing_utils.py, got {arguments.checkout}")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        run(arguments.checkout.resolve(), report, options)
        if not report.is_file():
            return 1
        outcomes = read(report)
    table = tomllib.loads(arguments.table.read_text(encoding="utf-8"))
    wrong = differences(outcomes, table)
    rows = Counter((outcome.name.partition("::")[0], outcome.what) for outcome in outcomes)
    print("\nsuite                 passed  failed  skipped")
    for suite in sorted({suite for suite, _ in rows}):
        print(f"{suite:20} {rows[suite, 'passed']:7} {rows[suite, 'failed']:7} {rows[suite, 'skipped']:8}")
    for outcome in outcomes:
        if outcome.what != "passed":
            print(f"{outcome.what} {outcome.name}: {expected(outcome.name, table)[1] or outcome.why}")
    for line in wrong:
        print(f"NOT AS THE TABLE SAYS: {line}")
    if not outcomes:
        print("The checkout has none of the common tests.")
    return 1 if wrong or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
