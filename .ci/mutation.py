"""Change the code in small ways and see the tests fail: which of them would miss a bug.

python .ci/mutation.py                          # a sample of each room, `ROOMS`; the same line again goes on
python .ci/mutation.py --room photo --sample 40 --minutes 20

Works in a copy of the tree, one mutant and one process at a time, at a low priority. The room's test files run once to
find out which tests reach which lines; a mutant then meets those that reach it, the fastest first, until one fails.
Prints the score of each room and the survivors; exits with 1 if a score is below 85% of the mutants that are not
listed, with a reason, in mutation_equivalents.json. Not part of `make test`: it takes hours. Needs os.fork.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from pytest import hookimpl as hook

ROOT = Path(__file__).parents[1]
EQUIVALENTS = Path(__file__).with_name("mutation_equivalents.json")
ENOUGH = 0.85
NOT_SWAPPED = 70
TESTS = {
    "model": ["pipeline_diffretouch", "modeling_affine_grid", "lora_diffretouch", "modeling_latent_codec"]
    + ["adapter_look_diffretouch", "photo_statistics_diffretouch", "class_labels", "bundled", "fast_apply"],
    "photo": [
        "photo",
        "photo_internals",
        "photo_formats",
        "photo_gamut",
        "fast_gamut",
        "case_metadata",
        "case_pixels",
        "cases",
        "companions",
        "credentials",
        "jxl",
        "raw_exif",
    ],
}
ROOMS = tuple(TESTS)
# Imported once for all mutants; of ours, nothing.
HEAVY = (
    "accelerate",
    "coverage",
    "diffusers",
    "numba",
    "numpy",
    "peft",
    "PIL.Image",
    "pytest",
    "scipy.stats",
    "tifffile",
)
HEAVY += ("imagecodecs", "OpenImageIO", "pillow_heif", "rawpy", "simplejpeg", "skimage.color", "torch", "transformers")
# In the process of a test this starts another, whose lines the run that looks for reached lines does not see.
ISOLATION = "pipeline/diffretouch/photo/isolation.py"
ISOLATED = ("avif", "core", "decode_process", "heic", "jxl", "jxl_header", "raw", "readers", "tiff")


class Mutant(NamedTuple):
    path: str
    line: int
    start: int  # bytes of the file
    end: int
    after: str
    late: bool  # in a function that the import neither runs nor compiles
    key: str  # stays the same while other lines change

    def text(self, source: bytes) -> bytes:
        return source[: self.start] + self.after.encode() + source[self.end :]


# --- What is changed ------------------------------------------------------------------------------------------------

COMPARISONS = {
    "Lt": "<=", "LtE": "<", "Gt": ">=", "GtE": ">", "Eq": "!=", "NotEq": "==",
    "Is": "is not", "IsNot": "is", "In": "not in", "NotIn": "in",
}  # fmt: skip
SIGNS = {"Lt": "<", "LtE": "<=", "Gt": ">", "GtE": ">=", "Eq": "==", "NotEq": "!=", "Is": "is", "IsNot": "is not"}
SIGNS |= {"In": "in", "NotIn": "not in", "Add": "+", "Sub": "-", "Mult": "*", "Div": "/", "FloorDiv": "//", "Mod": "%"}
SIGNS |= {"Pow": "**", "BitOr": "|", "BitAnd": "&", "LShift": "<<", "RShift": ">>", "And": "and", "Or": "or"}
ARITHMETIC = {"Add": "-", "Sub": "+", "Mult": "/", "Div": "*", "FloorDiv": "/", "Mod": "*", "Pow": "*"}
ARITHMETIC |= {"LShift": ">>", "RShift": "<<", "BitAnd": "|", "BitOr": "&"}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor"}


class Finder(ast.NodeVisitor):
    """Every small change of a module that its tests should notice. Words, types and docstrings are left alone."""

    def __init__(self, path: str, source: bytes):
        self.path, self.source, self.found = path, source, []  # type: str, bytes, list[Mutant]
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._names: list[str] = []
        self._depth = 0  # of functions
        self._compiled = b"@_compiled" in source  # numba reads it on import, and keeps what it made of it
        self._seen: dict[str, int] = {}
        self.visit(ast.parse(source))

    def _at(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def _span(self, node: Any) -> tuple[int, int]:
        return self._at(node.lineno, node.col_offset), self._at(node.end_lineno, node.end_col_offset)

    def _add(self, node: Any, start: int, end: int, after: str, shown: Any = None) -> None:
        first, last = self._span(shown or node)
        text = " ".join(self.source[first:last].decode().split())
        where = ".".join(self._names) or "module"
        before = " ".join(self.source[start:end].decode().split())
        key = f"{Path(self.path).name}:{where}: {text[:110]} | {before[:50]} -> {after[:50]}"
        self._seen[key] = count = self._seen.get(key, 0) + 1
        key += f" #{count}" if count > 1 else ""
        line = self.source.count(b"\n", 0, start) + 1
        self.found.append(Mutant(self.path, line, start, end, after, self._depth > 0 and not self._compiled, key))

    def _between(self, left: Any, right: Any, sign: str, after: str, node: Any) -> None:
        """Replace an operator, which has no place of its own in the tree, between its operands."""
        start, end = self._span(left)[1], self._span(right)[0]
        at = self.source[start:end].find(sign.encode())
        if at >= 0 and b"#" not in self.source[start:end]:
            self._add(node, start + at, start + at + len(sign), after, node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._names.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self._names.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._names.append(node.name)
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        self._depth += 1
        for statement in node.body:
            self.visit(statement)
        self._depth -= 1
        self._names.pop()

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._negate(test)
        self.generic_visit(node)

    def _negate(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Compare):  # a comparison is turned round by itself
            start, end = self._span(test)
            self._add(test, start, end, f"(not ({self.source[start:end].decode()}))")

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            kind = type(operator).__name__
            self._between(left, right, SIGNS[kind], COMPARISONS[kind], node)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        kind = type(node.op).__name__
        texts = any(isinstance(n, ast.JoinedStr) or isinstance(getattr(n, "value", 0), str) for n in ast.walk(node))
        if kind in ARITHMETIC and not texts:
            self._between(node.left, node.right, SIGNS[kind], ARITHMETIC[kind], node)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        now, then = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between(left, right, now, then, node)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub)):
            start, end = self._span(node)
            self._add(node, start, end, f"({self.source[slice(*self._span(node.operand))].decode()})")
        if not isinstance(node.operand, ast.Constant):
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        start, end = self._span(node)
        if isinstance(node.value, bool):
            self._add(node, start, end, str(not node.value))
        elif isinstance(node.value, int):
            self._add(node, start, end, str(node.value + 1))
        elif isinstance(node.value, float):
            self._add(node, start, end, repr(node.value * 1.5 if node.value else 0.5))

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func
        word = name.attr if isinstance(name, ast.Attribute) else getattr(name, "id", "")
        if word in CALLS:
            end = self._span(name)[1]
            self._add(node, end - len(word), end, CALLS[word])
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            start, end = self._span(node.value)
            self._add(node, start, end, "None")
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self._add(node, *self._span(node), "pass")
            self.visit(node.value)

    def _leave_out(self, node: Any) -> None:
        self._add(node, *self._span(node), "pass")
        self.generic_visit(node)

    visit_AugAssign = _leave_out

    def visit_Assign(self, node: ast.Assign) -> None:
        if isinstance(node.targets[0], (ast.Attribute, ast.Subscript)):
            self._add(node, *self._span(node), "pass")
        for target in node.targets:
            self.visit(target)
        if not (isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"):
            self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add(node, *self._span(node), "pass")  # its words are left alone

    def visit_Continue(self, node: ast.Continue) -> None:
        self._add(node, *self._span(node), "break")

    def visit_Break(self, node: ast.Break) -> None:
        self._add(node, *self._span(node), "continue")

    def visit_Assert(self, node: ast.Assert) -> None:
        """For mypy: no behaviour."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Words."""


@cache
def mutants_of(room: str) -> list[Mutant]:
    folder = ROOT / "pipeline" / "diffretouch" / room
    files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    return [one for path in files for one in Finder(path.relative_to(ROOT).as_posix(), path.read_bytes()).found]


# --- Running tests --------------------------------------------------------------------------------------------------


class Reached:
    """pytest plugin: which lines every test reaches, and how long it takes."""

    def __init__(self, tree: Path):
        import coverage

        self.seconds: dict[str, float] = {}
        self._fixtures: dict[str, list[str]] = {}  # by test
        self._tree, self._test = tree, ""
        self._coverage = coverage.Coverage(data_file=None, source=[str(tree / "pipeline" / "diffretouch")])

    def pytest_sessionstart(self) -> None:
        self._coverage.start()

    def pytest_runtest_protocol(self, item: Any) -> None:
        self._fixtures[item.nodeid], self._test = item.fixturenames, item.nodeid
        self._coverage.switch_context(item.nodeid)

    @hook(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """What several tests share is made in the first of them, and reached by all."""
        shared = fixturedef.scope != "function"
        if shared:
            self._coverage.switch_context(f"{fixturedef.baseid} fixture {fixturedef.argname}")
        outcome = yield
        if shared:
            self._coverage.switch_context(self._test)
        return outcome

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration
        if report.failed:
            self.seconds[report.nodeid] = -1e9  # of no use

    def _tests_of(self, context: str) -> list[str]:
        place, fixture, name = context.partition(" fixture ")
        if not fixture:
            return [context] if context else []
        return [test for test, names in self._fixtures.items() if name in names and test.startswith(place)]

    def table(self) -> dict[str, Any]:
        self._coverage.stop()
        data = self._coverage.get_data()
        lines: dict[str, dict[int, list[str]]] = {}
        for path in data.measured_files():
            lines[Path(path).relative_to(self._tree).as_posix()] = {
                line: sorted({test for context in contexts for test in self._tests_of(context)})
                for line, contexts in data.contexts_by_lineno(path).items()
            }
        return {"seconds": {name: taken for name, taken in self.seconds.items() if taken >= 0}, "lines": lines}


class Loop:
    """pytest plugin: tests are collected once; then each mutant is tried in a fork of this process."""

    def __init__(self, bench: Bench, mutants: list[Mutant], go_on: Callable[[Mutant, Callable[[], str | None]], bool]):
        self._bench, self._mutants, self._go_on = bench, mutants, go_on

    def pytest_runtestloop(self, session: Any) -> bool:
        items = {item.nodeid: item for item in session.items}
        for mutant in self._mutants[:1]:
            unchanged = mutant._replace(end=mutant.start, after="")
            if self._bench.verdict(unchanged, self._run(unchanged, items)) != "survived":
                raise RuntimeError(f"The tests fail without a mutant, see {self._bench.log}.")
        for mutant in self._mutants:
            if not self._go_on(mutant, partial(self._bench.verdict, mutant, self._run(mutant, items))):
                break
        return True

    @staticmethod
    def _run(mutant: Mutant, items: dict[str, Any]) -> Callable[[list[str]], int]:
        def run(tests: list[str]) -> int:
            from _pytest.runner import runtestprotocol

            try:
                swap(mutant.path)
            except Exception:  # other free variables, say: a fresh import has to do
                return NOT_SWAPPED
            chosen = [items[name] for name in tests]
            for item, following in zip(chosen, [*chosen[1:], None], strict=True):
                if any(report.failed for report in runtestprotocol(item, log=False, nextitem=following)):
                    return 1
            return 0

        return run


def swap(path: str) -> None:
    """Give the functions of a module, as they were imported, the code that its file has now."""
    files = [str(getattr(module, "__file__", "")) for module in list(sys.modules.values())]
    file = next((name for name in files if name.endswith(path)), None)
    if file is None:
        return  # not imported yet
    found: dict[str, list[CodeType]] = {}
    queue = [compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)]
    for code in queue:
        inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        queue += inner
        for one in inner:
            found.setdefault(one.co_qualname, []).append(one)
    functions = [f for f in gc.get_objects() if type(f) is FunctionType and f.__code__.co_filename == file]
    for name, codes in found.items():
        # Two of one name, such as a property's, stay in their order.
        ours = sorted({f.__code__.co_firstlineno for f in functions if f.__code__.co_qualname == name})
        for function in functions:
            if function.__code__.co_qualname == name and len(ours) == len(codes):
                function.__code__ = codes[ours.index(function.__code__.co_firstlineno)]


def in_a_fork(log: Path, seconds: float, work: Callable[[], int]) -> int | None:
    """Its exit status; None: it took too long."""
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setsid()
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            for stream, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out), (2, out)):
                os.dup2(source, stream)
            code = work()
        except BaseException:  # a mutant may raise anything anywhere
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            _end_group(child)  # processes that a killed test left
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    _end_group(child)
    os.waitpid(child, 0)
    return None


def _end_group(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def pytest_of(tests: list[str], *options: str, plugin: Any = None) -> int:
    import pytest

    line = ["-n0", "-p", "no:cacheprovider", "--no-header", "--tb=short", *options, *tests]
    return int(pytest.main(line, plugins=[plugin] if plugin else []))


class Bench:
    """The copy of the tree, and what is known of its tests."""

    def __init__(self, work: Path, room: str, factor: float):
        self.tree, self.room, self.log, self.factor = work / "tree", room, work / "last.log", factor
        self.files = [f"tests/test_{name}.py" for name in TESTS[room]]
        shutil.rmtree(self.tree, ignore_errors=True)
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0"):
            if name and (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name)
        # What a mutant is made of, whatever happens to the checkout meanwhile.
        self._sources = {mutant.path: (self.tree / mutant.path).read_bytes() for mutant in mutants_of(room)}
        # Byte code is kept by time and size, which mutants share; threads of OpenMP do not survive a fork.
        os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "2000"}
        os.environ["PYTHONPATH"] = str(self.tree / "pipeline")
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(self.tree / "pipeline"))
        os.chdir(self.tree)
        for name in HEAVY:
            importlib.import_module(name)
        known = work / f"{room}-{self._digest()}.json"
        if not known.exists():
            in_a_fork(self.log, 3600, lambda: self._learn(known))
            if not known.exists():
                raise SystemExit(f"The tests of {room} could not be run, see {self.log}.")
        table = json.loads(known.read_text())
        self.seconds: dict[str, float] = table["seconds"]
        self.lines: dict[str, dict[str, list[str]]] = table["lines"]

    def _digest(self) -> str:
        """Of what decides which test reaches which line."""
        sources = [(self.tree / file).read_bytes() for file in self.files] + [*self._sources.values()]
        return hashlib.sha256(b"\0".join(sources)).hexdigest()[:12]

    def _learn(self, known: Path) -> int:
        plugin = Reached(self.tree)
        code = pytest_of(self.files, plugin=plugin)
        if code in (0, 1):  # tests that fail without a mutant are left out
            known.write_text(json.dumps(plugin.table()))
        return code

    def _fastest(self, tests: Iterable[str]) -> list[str]:
        return sorted((name for name in set(tests) if name in self.seconds), key=self.seconds.__getitem__)

    def tests_for(self, mutant: Mutant) -> list[str]:
        """Those that reach its line; where none does in this process, those that reach its module or start another."""
        lines = self.lines.get(mutant.path, {})
        reach = self._fastest(lines.get(str(mutant.line), []))
        if reach and not (self.room == "photo" and Path(mutant.path).stem in ISOLATED):
            return reach
        paths = [mutant.path] + [ISOLATION] * (self.room == "photo")
        others = self._fastest(name for path in paths for names in self.lines.get(path, {}).values() for name in names)
        return [*reach, *(name for name in others if name not in reach)]

    def _write(self, path: str, content: bytes) -> None:
        """Files of model/ travel with the bundle, whose copies have to be equal."""
        places = [self.tree / path, *(self.tree / "pipeline" / "diffretouch" / "bundled").rglob(Path(path).name)]
        for place in places if self.room == "model" else places[:1]:
            place.write_bytes(content)

    def verdict(self, mutant: Mutant, run: Callable[[list[str]], int]) -> str:
        """ "killed", "survived" or "timed out"."""
        source = self._sources[mutant.path]
        tests = self.tests_for(mutant)
        expected = sum(self.seconds[name] for name in tests)
        self._write(mutant.path, mutant.text(source))
        try:
            status = in_a_fork(self.log, 60 + self.factor * expected, lambda: run(tests)) if tests else 0
        finally:
            self._write(mutant.path, source)
        return {0: "survived", None: "timed out", NOT_SWAPPED: None}.get(status, "killed")


# --- The run --------------------------------------------------------------------------------------------------------


def chosen(room: str, sample: int, seed: int) -> list[Mutant]:
    everything = mutants_of(room)
    order = random.Random(f"{seed} {room}").sample(everything, len(everything))
    return order[:sample]


def outcomes(file: Path) -> dict[str, str]:
    lines = file.read_text().splitlines() if file.exists() else []
    return {entry["key"]: entry["outcome"] for entry in map(json.loads, lines)}


def go_on(room: str, mutants: list[Mutant], work: Path, until: float, factor: float) -> None:
    file = work / "outcomes.jsonl"
    known = outcomes(file)
    left = [mutant for mutant in mutants if mutant.key not in known]
    if not left:
        return
    screen = os.fdopen(os.dup(1), "w")

    def record(mutant: Mutant, verdict: Callable[[], str | None]) -> bool:
        if time.monotonic() > until:
            return False
        started = time.monotonic()
        outcome = verdict()
        if outcome is not None:
            with file.open("a") as lines:
                lines.write(json.dumps({"key": mutant.key, "outcome": outcome}) + "\n")
            seconds = time.monotonic() - started
            print(f"{outcome:9} {seconds:5.1f} s {mutant.line:4} {mutant.key}", file=screen, flush=True)
        return True

    bench = Bench(work, room, factor)
    loop = Loop(bench, [mutant for mutant in left if mutant.late], record)
    if in_a_fork(work / "loop.log", 1e9, lambda: pytest_of(bench.files, plugin=loop)) not in (0, 5):
        raise SystemExit(f"The mutants of {room} could not be tried, see {work / 'loop.log'}.")
    known = outcomes(file)
    for mutant in left:  # what runs on import needs a process that has not imported it
        fresh = partial(bench.verdict, mutant, lambda tests: pytest_of(tests, "-x"))
        if mutant.key not in known and not record(mutant, fresh):
            break


def summary(room: str, mutants: list[Mutant], known: dict[str, str]) -> bool:
    """Print a room's score and survivors; whether it is enough."""
    reasons = json.loads(EQUIVALENTS.read_text(encoding="utf-8"))
    done = [mutant for mutant in mutants if mutant.key in known]
    equivalent = [mutant for mutant in done if mutant.key in reasons]
    wrong = [mutant for mutant in equivalent if known[mutant.key] != "survived"]
    alive = [mutant for mutant in done if known[mutant.key] == "survived" and mutant.key not in reasons]
    counted = len(done) - len(equivalent)
    score = (counted - len(alive)) / counted if counted else 0.0
    print(
        f"{room}: {score:.0%} of {counted} mutants found ({len(mutants_of(room))} possible, {len(mutants)} sampled, "
        f"{len(mutants) - len(done)} not run, {len(equivalent)} equivalent)"
    )
    for mutant in alive:
        print(f"  survived: {mutant.path}:{mutant.line} {mutant.key}")
    for mutant in wrong:
        print(f"  listed as equivalent, yet {known[mutant.key]}: {mutant.key}")
    return score >= ENOUGH and not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", nargs="+", default=ROOMS, choices=ROOMS)
    parser.add_argument("--sample", type=int, default=150, help="mutants of each room (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample; a larger one of it has the smaller in it")
    parser.add_argument("--minutes", type=float, default=600, help="stop after these (default: %(default)s)")
    parser.add_argument("--factor", type=float, default=10, help="times its usual time is too long for a test")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "mutation", help="what is kept between runs")
    parser.add_argument("--nice", type=int, default=10, help="the priority to run at (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="try the survivors again, after new tests")
    options = parser.parse_args()
    os.nice(options.nice)
    until = time.monotonic() + 60 * options.minutes
    if options.again and (options.work / "outcomes.jsonl").exists():
        kept = {key: one for key, one in outcomes(options.work / "outcomes.jsonl").items() if one != "survived"}
        (options.work / "outcomes.jsonl").write_text(
            "".join(json.dumps({"key": key, "outcome": one}) + "\n" for key, one in kept.items())
        )
    enough = []
    for room in options.room:
        mutants = chosen(room, options.sample, options.seed)
        options.work.mkdir(parents=True, exist_ok=True)
        go_on(room, mutants, options.work.resolve(), until, options.factor)
        enough.append(summary(room, mutants, outcomes(options.work / "outcomes.jsonl")))
    return 0 if all(enough) else 1


if __name__ == "__main__":
    sys.exit(main())
