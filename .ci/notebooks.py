"""Run notebooks from top to bottom, each in a fresh kernel.

    python .ci/notebooks.py --save [notebook or folder ...]     run and write the outputs in (`make run`)
    python .ci/notebooks.py --check [notebook or folder ...]    run and compare with the saved outputs; writes nothing

Each notebook gets its wall time and the peak memory of its kernel; a cell or a notebook that takes too long or too
much is stopped, and the others go on. After a notebook has run, each exercise in it is proved: the untouched stub
must fail its check, the solution must pass it.
"""
import argparse
import asyncio
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty

import outputs as out
import psutil
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nb import ROOT, Problem, exercises, final_check, first_line, is_run, nbformat, notebooks, read, short, tag
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from prefetch import prefetch
from traitlets import Type
from warm import Nursery, provisioner

FULL = os.environ.get("COURSE_PROFILE", "quick") == "full"
KERNELS: set[int] = set()  # process ids of running kernels, so that Ctrl-C leaves none behind


@dataclass(frozen=True)
class Limits:
    "Seconds and gigabytes; a notebook above the first of a pair is warned of, above the second it fails."
    cell: float = float(os.environ.get("COURSE_CELL_SECONDS", 3600 if FULL else 45))
    notebook_warn: float = 4 * 3600 if FULL else 60
    notebook: float = float(os.environ.get("COURSE_NOTEBOOK_SECONDS", 5 * 3600 if FULL else 120))
    memory_warn: float = 32 if FULL else 2
    memory: float = float(os.environ.get("COURSE_MEMORY_GB", 64 if FULL else 4))
    grace: float = 4  # seconds between the interrupt of a cell and the end of its kernel


@dataclass
class Report:
    "What came of one notebook."
    name: str
    seconds: float = 0.0
    memory: float = 0.0  # GB, the peak of the kernel and its children
    cells: list[tuple[float, int, str]] = field(default_factory=list)  # seconds, cell number, its first line
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool: return not self.problems

    def __str__(self) -> str:
        mark = "ok  " if self.ok else "FAIL"
        return f"{mark} {self.seconds:6.1f} s {self.memory:6.2f} GB  {self.name}"


class Watch(threading.Thread):
    "Beside a running notebook: samples memory, interrupts a cell that takes too long, kills what does not listen."

    def __init__(self, runner: "Runner", limits: Limits):
        super().__init__(daemon=True)
        self.runner, self.limits, self.over = runner, limits, threading.Event()
        self.peak, self.verdict, self.interrupted = 0.0, "", 0.0
        self.pid: int | None = None
        self.started = time.monotonic()

    def run(self) -> None:
        while not self.over.wait(0.1):
            if self.pid is None: continue
            self.peak = max(self.peak, tree_memory(self.pid))
            now, begun = time.monotonic(), self.runner.cell_started
            if self.verdict:
                if now - self.interrupted > self.limits.grace: kill_tree(self.pid)
            elif self.peak > self.limits.memory:
                self.stop(f"took {self.peak:.1f} GB of memory; the limit is {self.limits.memory:g} GB", kill=True)
            elif begun and now - begun > self.limits.cell:
                self.stop(f"stopped after {now - begun:.0f} s; a cell may take {self.limits.cell:g} s")
            elif now - self.started > self.limits.notebook:
                self.stop(f"stopped: the notebook took more than {self.limits.notebook:g} s up to here")

    def stop(self, why: str, kill: bool = False) -> None:
        self.verdict, self.interrupted = why, time.monotonic()
        if kill: kill_tree(self.pid)
        else: asyncio.run_coroutine_threadsafe(self.runner.km.interrupt_kernel(), self.runner.loop)


def tree_memory(pid: int) -> float:
    "Resident memory of a process and its children, in GB."
    total = 0
    try: family = [(p := psutil.Process(pid)), *p.children(recursive=True)]
    except psutil.Error: return 0.0
    for process in family:
        try: total += process.memory_info().rss
        except psutil.Error: pass
    return total / 1e9


def kill_tree(pid: int) -> None:
    try: family = [(p := psutil.Process(pid)), *p.children(recursive=True)]
    except psutil.Error: return
    for process in family:
        try: process.kill()
        except psutil.Error: pass


class PatientChannel(AsyncZMQSocketChannel):
    """Looks at its socket twice a second.

    nbclient sends a widget's output back to the kernel on the socket whose reply it waits for, and the sending may swallow
    the wake-up call: the reply is there, but nobody looks before the timeout (nbclient issue 312)."""

    async def get_msg(self, timeout: float | None = None):
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            try: return await super().get_msg(timeout=max(0.0, min(0.5, left)))
            except Empty:
                if left <= 0.5: raise


class PatientClient(AsyncKernelClient):
    shell_channel_class = Type(PatientChannel)


class Runner(NotebookClient):
    "One notebook in one kernel, cell by cell, with times."

    def __init__(self, nb, path: Path, env: dict[str, str], nursery: Nursery | None = None):
        specs = KernelSpecManager(kernel_dirs=[str(Path(sys.prefix) / "share" / "jupyter" / "kernels")])
        super().__init__(nb, timeout=None, record_timing=False, resources={"metadata": {"path": str(path.parent)}},
                         km=AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs,
                                               client_factory=PatientClient))
        self.owns_km = True  # so that it is shut down at the end
        self.env, self.times, self.problems = env, [], []
        self.cell_started, self.current, self.loop = 0.0, 0, None
        self.log_file = tempfile.NamedTemporaryFile()
        if nursery is not None:
            self.km.provisioner = provisioner(nursery, self.log_file.name, kernel_id="", parent=self.km,
                                              kernel_spec=self.km.kernel_spec)

    def last_words(self) -> list[str]:
        "What a kernel that died wrote to the terminal."
        self.log_file.seek(0)
        lines = self.log_file.read().decode(errors="replace").splitlines()
        return [line for line in lines if line.strip() and "IPKernelApp" not in line][-6:]

    async def go(self, watch: Watch) -> None:
        self.loop = asyncio.get_running_loop()
        async with self.async_setup_kernel(env=self.env, stdout=self.log_file, stderr=self.log_file):
            watch.pid = self.km.provisioner.pid
            KERNELS.add(watch.pid)
            try:
                for i, cell in enumerate(self.nb.cells):
                    if is_run(cell): await self.timed(cell, i)
                self.set_widgets_metadata()
                self.current = -1
                for exercise in exercises(self.nb)[0]: await self.prove(exercise)
            finally:
                watch.peak = max(watch.peak, tree_memory(watch.pid))  # a short notebook is over before the watch looks
                KERNELS.discard(watch.pid)

    async def timed(self, cell, i: int) -> None:
        self.current, self.cell_started = i, time.monotonic()
        try: await self.async_execute_cell(cell, i)
        finally:
            self.times.append((time.monotonic() - self.cell_started, i + 1, first_line(cell)))
            self.cell_started = 0.0

    async def silently(self, source: str) -> tuple[str, str]:
        "Run code beside the notebook: its text output, and its error or ''."
        cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["raises-exception"]})
        self.nb.cells.append(cell)
        self.cell_started = time.monotonic()
        try: await self.async_execute_cell(cell, len(self.nb.cells) - 1, store_history=False)
        finally:
            self.nb.cells.pop()
            self.cell_started = 0.0
        errors = [o for o in cell.outputs if o.output_type == "error"]
        return ("\n".join(out.text_of(o) for o in cell.outputs if o.output_type != "error").strip(),
                f"{errors[0].ename}: {errors[0].evalue}" if errors else "")

    async def prove(self, ex) -> None:
        "The untouched stub fails its check and is given a hint; the solution passes and is told so."
        if ex.check is None or ex.solution is None: return  # said by the style check
        stub, check, solution = (self.nb.cells[i].source for i in (ex.stub, ex.check, ex.solution))
        def wrong(number: int, what: str) -> None:
            self.problems.append(Problem(f"{self.name} cell {number + 1} (exercise {ex.number})", what))
        await self.silently(stub)
        _, error = await self.silently(final_check(solution) or "raise SyntaxError('no check')")
        if not error: wrong(ex.stub, f"the untouched stub passes its check `{final_check(solution)}`")
        hint, error = await self.silently(check)
        if error: wrong(ex.check, f"the check cell must not raise on the untouched stub, but gives {error}")
        _, error = await self.silently(solution)
        if error: wrong(ex.solution, f"the solution does not pass its check: {error}")
        praise, error = await self.silently(check)
        if error: wrong(ex.check, f"the check cell raises on the solution: {error}")
        elif not hint or hint == praise:
            wrong(ex.check, f"the check cell says the same of the stub as of the solution: {hint[:80]!r}")

    name = ""


def kernel_env(root: Path, scratch: Path, save: bool) -> dict[str, str]:
    "The kernel's environment: this checkout first, one thread, nothing written into the reader's home."
    env = {**os.environ, "PYTHONPATH": str(root), "IPYTHONDIR": str(scratch / "ipython"),
           "COURSE_RESULTS": str(root / "results" if save else scratch / "results")}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"): env.setdefault(name, "1")
    env.setdefault("COURSE_PROFILE", "quick")
    env.pop("MPLBACKEND", None)
    return env


def failure(runner: Runner, report: Report, error: Exception, verdict: str) -> Problem:
    "A failed cell: where, what it is, the last lines of the traceback."
    i = runner.current
    if i < 0: return Problem(report.name, f"failed while its exercises were proved: {verdict or error}")
    cell = runner.nb.cells[i]
    code = [f"| {line}" for line in cell.source.splitlines()[:6]]
    raised = [o for o in cell.get("outputs", []) if o.output_type == "error"]
    trace = out.ANSI.sub("", "\n".join(raised[0].traceback)).strip().splitlines()[-9:] if raised else []
    said = f"{raised[0].ename}: {raised[0].evalue.splitlines()[0] if raised[0].evalue else ''}" if raised else str(error)
    if verdict: said = verdict
    elif isinstance(error, DeadKernelError):
        said, trace = "the kernel died (out of memory, or a crash in compiled code)", runner.last_words()
    elif re.match(r"(ModuleNotFound|Import)Error", said): said += " (is it in settings.ini?)"
    return Problem(f"{report.name} cell {i + 1}", said, code + ["..."] * bool(trace) + trace)


def run_one(path: Path, root: Path, save: bool, limits: Limits = Limits(), scratch: Path | None = None,
            nursery: Nursery | None = None) -> Report:
    "Run a notebook; save it, or compare it with what is saved."
    report, begun = Report(short(path, root)), time.monotonic()
    own = tempfile.TemporaryDirectory(ignore_cleanup_errors=True) if scratch is None else None
    env = kernel_env(root, Path(own.name) if own else scratch, save)
    saved = read(path)
    nb = deepcopy(saved)
    tag(nb)
    for cell in nb.cells:
        if cell.cell_type == "code": cell.outputs, cell.execution_count = [], None
    nb.metadata.pop("widgets", None)
    runner = Runner(nb, path, env, nursery)
    runner.name = report.name
    watch = Watch(runner, limits)
    watch.start()
    try: asyncio.run(runner.go(watch))
    except (CellExecutionError, DeadKernelError, RuntimeError) as error:
        report.problems.append(failure(runner, report, error, watch.verdict))
    finally:
        watch.over.set()
        if watch.pid: kill_tree(watch.pid)
        if own: own.cleanup()
    if watch.verdict and not report.problems:
        report.problems.append(failure(runner, report, RuntimeError(watch.verdict), watch.verdict))
    report.problems += runner.problems
    report.seconds, report.memory = time.monotonic() - begun, watch.peak
    report.cells = sorted(runner.times, reverse=True)
    for value, most, word in ((report.seconds, limits.notebook_warn, "s"), (report.memory, limits.memory_warn, "GB")):
        if value > most: report.warnings.append(f"{report.name} takes {value:.1f} {word}; it should take {most:g} at most")
    if report.ok: finish(path, root, save, saved, out.tidy(runner.nb, path.name), report)
    return report


def finish(path: Path, root: Path, save: bool, saved, nb, report: Report) -> None:
    "Save the fresh outputs, or compare them with the saved ones."
    if save:
        nb.metadata["kernelspec"] = {"display_name": "course_lib", "language": "python", "name": "python3"}
        out.stamp(nb)
        report.problems += out.check_saved(nb, report.name)
        if report.ok: write(nb, path)
        return
    for i, cell in enumerate(nb.cells):
        if cell.cell_type == "code" and is_run(cell):
            report.problems += out.check_cell_outputs(cell, report.name, i + 1)
    if saved.metadata.get("course_lib", {}).get("code_sha256") != out.fingerprint(saved): return  # stale; said there
    how, why = out.level(saved, root)
    if how == "off": report.notes.append(f"{report.name}: outputs not compared ({why})")
    else: report.problems += out.compare(saved, nb, report.name, how)


def write(nb, path: Path) -> None:
    "In one step, and only if something changed."
    text = nbformat.writes(nb)
    text += "" if text.endswith("\n") else "\n"
    if path.read_text(encoding="utf-8") == text: return
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def run_all(paths: list[Path], root: Path = ROOT, save: bool = False, jobs: int = 2, limits: Limits = Limits(),
            say=print) -> list[Report]:
    "All notebooks, `jobs` at a time, lessons first; a line for each as it ends."
    for note in prefetch(paths, root): say(note)
    reports = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["JUPYTER_RUNTIME_DIR"] = folder
        order = sorted(paths, key=lambda p: "0_core" in p.parts)  # lessons take longer than reference
        pool = ThreadPoolExecutor(max(1, jobs))
        nursery = Nursery.start(kernel_env(root, Path(folder), save), len(order))
        work = [pool.submit(run_one, path, root, save, limits, Path(folder), nursery) for path in order]
        try:
            for done in work:
                reports.append(done.result())
                say(str(reports[-1]))
        except KeyboardInterrupt:
            for pid in list(KERNELS): kill_tree(pid)
            shutil.rmtree(folder, ignore_errors=True)
            print("stopped")
            os._exit(130)
        finally:
            pool.shutdown()
            if nursery is not None: nursery.close()
    return reports


def summary(reports: list[Report], n: int = 8) -> list[str]:
    "The slowest cells of all notebooks, and the warnings."
    cells = sorted(((s, r.name, i, line) for r in reports for s, i, line in r.cells if s >= 1), reverse=True)[:n]
    lines = ["slowest cells:"] * bool(cells)
    lines += [f"  {s:6.1f} s  {name} cell {i}: {line}" for s, name, i, line in cells]
    lines += [f"warning: {w}" for r in reports for w in r.warnings]
    return lines + [f"note: {w}" for r in reports for w in r.notes]


def expand(names: list[str], root: Path) -> list[Path]:
    "Notebooks from names of files and folders; a bare name is looked for among all."
    every, chosen = notebooks(root), []
    for name in names:
        path = Path(name).resolve()
        hits = [p for p in every if p == path or path in p.parents] or [p for p in every if Path(name).stem in p.stem]
        if not hits:
            from course_lib.core import unknown_name  # here, so that a package that is broken can be exported anew
            sys.exit(unknown_name(name, [short(p, root) for p in every], "notebook"))
        chosen += [p for p in hits if p not in chosen]
    return chosen if names else every


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", help="notebooks or folders; all if none is named")
    parser.add_argument("--check", action="store_true", help="write nothing, compare with what is saved")
    parser.add_argument("--save", action="store_true", help="write the outputs into the notebooks (the default)")
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("COURSE_JOBS", 2)))
    parser.add_argument("--root", type=Path, default=ROOT)
    args = parser.parse_args()
    paths = expand(args.notebooks, args.root)
    if not args.check:
        export = [sys.executable, str(Path(__file__).with_name("export.py")), "--root", str(args.root)]
        if subprocess.call(export): return 1
    reports = run_all(paths, args.root, not args.check, args.jobs)
    for problem in (p for r in reports for p in r.problems): print(f"\n{problem}")
    print("\n".join(["", *summary(reports)]))
    failed = sum(not r.ok for r in reports)
    print(f"{len(reports) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__": sys.exit(main())
