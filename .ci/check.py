"""Everything that must hold, in one go (`make test`). The last line is `N passed, M failed[, K skipped]`.

Notebooks run two at a time, then tests do; the other steps run beside them. What is counted: each notebook, each static
check, each test of tests/, the site, each step of the browser. Nothing is written into the checkout.

    python .ci/check.py [--only STEP ...] [--jobs N]
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import export
import notebooks as runner
import outputs
import readme
import style
from nb import ROOT, Problem, notebooks, read, short

ERRORS = "E9,F63,F7,F82"  # what is an error in a notebook: syntax, wrong comparisons, undefined names
SCRIPTS = Path(__file__).resolve().parent


@dataclass
class Step:
    "What came of one step."
    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # warnings, tables, why it was skipped

    def __str__(self) -> str:
        word = "FAIL" if self.failed else "skip" if self.skipped and not self.passed else "ok"
        counts = ", ".join(f"{n} {w}" for n, w in ((self.passed, "passed"), (self.failed, "failed"),
                                                   (self.skipped, "skipped")) if n)
        return f"{word:5}{self.seconds:7.1f} s  {self.name:34} {counts}"


# --- single checks: each gives a list of problems --------------------------------------------------------------------

def command(args: list[str], root: Path, keep: int = 25, **env: str) -> tuple[int, list[str]]:
    "Run a tool of the environment at the root: exit code, last lines."
    tool = shutil.which(args[0], path=str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]) or args[0]
    done = subprocess.run([tool, *args[1:]], cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, "PYTHONPATH": str(root), "NO_COLOR": "1", **env}, encoding="utf-8",
                          errors="replace")
    return done.returncode, [line.rstrip() for line in done.stdout.splitlines() if line.strip()][-keep:]


def check_saved(root: Path) -> list[Problem]:
    return [p for path in notebooks(root) for p in outputs.check_saved(read(path), short(path, root))]


def check_floors(root: Path) -> list[Problem]:
    "The contracts of pyproject.toml; only what is broken is shown."
    code, lines = command(["lint-imports", "--no-cache", "--no-logo"], root, 80)
    start = next((i for i, line in enumerate(lines) if line == "Broken contracts"), 0)
    return [Problem("lint-imports", "an import points upward in the house (see [tool.importlinter] in pyproject.toml)",
                    [x for x in lines[start + 1:] if not set(x) <= {"-"}])] if code else []


def check_notebook_errors(root: Path) -> list[Problem]:
    code, lines = command(["ruff", "check", "--no-cache", "--output-format", "concise", "--select", ERRORS, "nbs"], root)
    return [Problem("ruff", "errors in notebooks", lines)] if code else []


def check_code(root: Path) -> list[Problem]:
    places = [p for p in ("course_lib", ".ci", "tests", "bench", "nbs/_site", "data_download.py", "setup.py")
              if (root / p).exists()]
    code, lines = command(["ruff", "check", "--no-cache", "--output-format", "concise", "--extend-exclude", "*.ipynb",
                           *places], root)
    return [Problem("ruff", "faults in code", lines)] if code else []


def check_workflows(root: Path) -> list[Problem]:
    "GitHub's workflows and dependabot file against their schemas, which check-jsonschema carries with it."
    found, folder = [], root / ".github"
    flows = [p.relative_to(root).as_posix() for p in sorted((folder / "workflows").glob("*.y*ml"))]
    bots = [p.relative_to(root).as_posix() for p in folder.glob("dependabot.y*ml")]
    if not flows: return [Problem(".github/workflows", "holds no workflow")]
    for schema, files in (("vendor.github-workflows", flows), ("vendor.dependabot", bots)):
        code, lines = command(["check-jsonschema", "--builtin-schema", schema, *files], root) if files else (0, [])
        if code: found.append(Problem("check-jsonschema", f"{', '.join(files)}: not as GitHub wants it", lines))
    return found


def tracked(root: Path) -> list[Path]:
    "The files of the project: those that git knows or would add; all of them where there is no git."
    try: done = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True)
    except OSError: done = None
    if done and done.returncode == 0: return [root / name for name in done.stdout.splitlines()]
    skip = {".git", ".venv", "_docs", "_proc", "__pycache__", "build", "dist"}
    return [p for p in root.rglob("*") if p.is_file() and not skip & set(p.relative_to(root).parts)]


def check_places(root: Path) -> list[Problem]:
    "No path of one machine in the project, and no file that is too large for a course."
    here = "|" + re.escape(str(root)) + "/" if len(root.parts) > 2 else ""
    found, mark = [], re.compile(r"(?<![\w.-])/(?:home|Users)/(?!you/|me/|user/)\w+/" + here)
    for path in tracked(root):
        if not path.is_file(): continue
        if path.stat().st_size > 3_000_000:
            found.append(Problem(short(path, root), f"{path.stat().st_size / 1e6:.1f} MB; at most 3 MB in the repository"))
        if path.suffix not in {".py", ".ipynb", ".md", ".toml", ".ini", ".txt", ".yml", ".js", ".css", ".jsonl", ""}: continue
        for i, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines()):
            hit = mark.search(line)
            if hit:
                found.append(Problem(f"{short(path, root)} line {i + 1}", f"a path of one machine: {hit[0]}"))
    return found[:8]


STATIC: dict[str, Callable[[Path], list[Problem]]] = {
    "package equals notebooks": export.check,
    "no notebook imports itself": export.check_imports,
    "one version": export.check_version,
    "README equals index": readme.check,
    "saved outputs belong to the code": check_saved,
    "floors of the package": check_floors,
    "errors in notebooks": check_notebook_errors,
    "faults in code": check_code,
    "workflows": check_workflows,
    "no path of one machine": check_places,
}


# --- steps -----------------------------------------------------------------------------------------------------------

def timed(step: Step, work: Callable[[], None]) -> Step:
    "Do the work of a step; a crash of a check is a failure of it, not of all."
    begun = time.monotonic()
    try: work()
    except Exception as error:
        step.failed += 1
        step.problems.append(f"{step.name}: the check itself broke: {type(error).__name__}: {error}")
    step.seconds = time.monotonic() - begun
    return step


def static_step(name: str, check: Callable[[Path], list[Problem]], root: Path) -> Step:
    step = Step(name)
    def work() -> None:
        step.problems = [str(p) for p in check(root)]
        step.failed, step.passed = int(bool(step.problems)), int(not step.problems)
    return timed(step, work)


def style_step(root: Path) -> Step:
    step = Step("style of the lessons")
    def work() -> None:
        lessons = style.measure(notebooks(root), root)
        step.problems = [str(p) for x in lessons for p in x.failures]
        warnings = sum(len(x.warnings) for x in lessons)
        step.notes = [*style.table(lessons), f"({warnings} warnings: `make style` names them)"] if lessons else []
        step.failed, step.passed = int(bool(step.problems)), int(not step.problems)
    return timed(step, work)


def name_of(case: ET.Element) -> str:
    return f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"


def tests_step(root: Path, file: Path) -> Step:
    "pytest over one file, counted test by test."
    step = Step(short(file, root))
    def work() -> None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            report = Path(folder) / "report.xml"
            code, lines = command(["pytest", str(file), "-q", "--tb=short", f"--junitxml={report}", "-p", "no:cacheprovider"],
                                  root, 60)
            suite = ET.parse(report).getroot().find("testsuite") if report.exists() else None
        if suite is None:
            step.failed, step.problems = 1, ["\n".join(["pytest did not run:", *lines])]
            return
        count = {k: int(suite.get(k, 0)) for k in ("tests", "failures", "errors", "skipped")}
        step.failed = count["failures"] + count["errors"]
        step.skipped = count["skipped"]
        step.passed = count["tests"] - step.failed - step.skipped
        cases = [(c, kind, c.find(kind)) for c in suite.iter("testcase") for kind in ("failure", "error", "skipped")]
        slow = sorted(((float(c.get("time", 0)), name_of(c)) for c in suite.iter("testcase")), reverse=True)[:5]
        step.notes = ["slowest tests:", *(f"  {s:6.1f} s  {name}" for s, name in slow if s >= 3)]
        for case, kind, node in ((c, k, n) for c, k, n in cases if n is not None):
            name = name_of(case)
            if kind == "skipped": step.notes.append(f"skipped {name}: {node.get('message')}")
            else: step.problems.append("\n".join([f"{name}: {(node.get('message') or '').splitlines()[0][:200]}",
                                                  *(f"    {x}" for x in (node.text or "").splitlines()[-12:])]))
        if code and not step.failed: step.failed, step.problems = 1, ["\n".join(["pytest:", *lines[-10:]])]
    return timed(step, work)


def script_step(name: str, script: str, root: Path, *args: str) -> Step:
    "A script of .ci: its exit code counts, or its last line does (`N passed, M failed, K skipped`)."
    step = Step(name)
    def work() -> None:
        if not (SCRIPTS / script).exists():
            step.failed, step.problems = 1, [f"{name}: .ci/{script} is missing"]
            return
        code, lines = command([sys.executable, str(SCRIPTS / script), "--root", str(root), *args], root, 40)
        last = lines[-1] if lines else ""
        counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped)", last)}
        step.passed, step.failed = counts.get("passed", int(code == 0)), counts.get("failed", int(code != 0))
        step.skipped = counts.get("skipped", 0)
        step.notes = [line for line in lines if "skipped:" in line or "slowest" in line]
        if code and not step.failed: step.failed = 1
        if step.failed: step.problems = ["\n".join([f"{name}:", *(f"    {x}" for x in lines[-20:])])]
    return timed(step, work)


def notebooks_step(root: Path, jobs: int, say: Callable[[str], None]) -> Step:
    step = Step("notebooks, each in a fresh kernel")
    def work() -> None:
        paths = notebooks(root)
        if not paths: raise RuntimeError("there are no notebooks in nbs/")
        reports = runner.run_all(paths, root, jobs=jobs, say=say)
        step.problems = [str(p) for r in reports for p in r.problems]
        step.failed = sum(not r.ok for r in reports)
        step.passed = len(reports) - step.failed
        step.notes = runner.summary(reports)
    return timed(step, work)


def status(root: Path) -> list[str]:
    "What `git status` says; nothing where there is no git."
    try: done = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True)
    except OSError: return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def clean_step(root: Path, before: list[str]) -> Step:
    step = Step("the checkout is as it was")
    def work() -> None:
        changed = sorted(set(status(root)) ^ set(before))
        step.problems = [str(Problem("git status", "is not what it was before the tests", changed))] * bool(changed)
        step.failed, step.passed = int(bool(changed)), int(not changed)
    return timed(step, work)


def works(root: Path, only: set[str]) -> tuple[list[Callable[[], Step]], list[Callable[[], Step]]]:
    "What runs beside the notebooks: steps that go one after another, and steps that go in any order."
    def wanted(name: str) -> bool: return not only or name in only
    first: list[Callable[[], Step]] = []
    if wanted("static"):
        first += [lambda n=name, c=check: static_step(n, c, root) for name, check in STATIC.items()]
        first.append(lambda: style_step(root))
    if wanted("docs"): first.append(lambda: script_step("site", "docs.py", root))
    built = ["--site", str(root / "_docs")] if wanted("docs") else []
    if wanted("browser"): first.append(lambda: script_step("browser", "browser.py", root, *built))
    files = sorted((root / "tests").glob("test_*.py"), key=lambda p: -p.stat().st_size) if wanted("tests") else []
    return first, [lambda f=file: tests_step(root, f) for file in files]


def run(root: Path, only: set[str], jobs: int) -> list[Step]:
    "All steps: notebooks, then tests, `jobs` at a time; beside them what has an order, which takes longest."
    before, lock = status(root), threading.Lock()
    first, others = works(root, only)
    in_order, any_order = (deque(first), []), (deque(others), [])  # steps to do, steps done
    def say(line: str) -> None:
        with lock: print(line, flush=True)
    def follow(queue: deque, done: list[Step]) -> None:
        while True:
            try: work = queue.popleft()
            except IndexError: return
            step = work()
            done.append(step)
            say(str(step))
    def start(*lanes: tuple) -> list[threading.Thread]:
        threads = [threading.Thread(target=follow, args=lane) for lane in lanes]
        for thread in threads: thread.start()
        return threads
    threads = start(in_order)
    try: notes = [notebooks_step(root, jobs, say)] if not only or "notebooks" in only else []
    finally:
        for thread in threads + start(*[any_order] * jobs): thread.join()
    return [*notes, *in_order[1], *sorted(any_order[1], key=lambda step: step.name), clean_step(root, before)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], help="of: static, notebooks, docs, tests, browser")
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("COURSE_JOBS", 2)))
    parser.add_argument("--root", type=Path, default=ROOT)
    args = parser.parse_args()
    begun = time.monotonic()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    steps = run(args.root.resolve(), set(args.only), args.jobs)
    for step in steps:
        if step.notes: print("\n" + "\n".join([f"--- {step.name}", *step.notes]))
    print("\n--- all steps\n" + "\n".join(map(str, steps)))
    cpu = sum(os.times()[:4])
    print(f"{time.monotonic() - begun:.0f} s, of the processors {cpu:.0f} s")
    problems = [p for step in steps for p in step.problems]
    if problems: print("\n--- failures\n" + "\n\n".join(problems) + "\n")
    print(", ".join(f"{sum(getattr(s, k) for s in steps)} {k}" for k in ("passed", "failed", "skipped")
                    if k != "skipped" or any(s.skipped for s in steps)))
    return int(any(step.failed for step in steps))


if __name__ == "__main__": sys.exit(main())
