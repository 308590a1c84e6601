"""The points of good style that a script can see, for each notebook and for the package, as a table.

    python .ci/style.py [notebook ...]

A finding is a failure where it would spoil a lesson for its reader, a warning where a figure is outside its aim.
Reference notebooks (`nbs/0_core`, the index) are held to the rules of code and outputs, not to the shape of a lesson.
"""
import argparse
import ast
import io
import json
import math
import re
import statistics
import sys
import tokenize
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from export import module_of
from nb import ROOT, Problem, body, code_cells, directives, exercises, notebooks, parse, read, short

MANY = 9999


@dataclass(frozen=True)
class Aim:
    "A figure, and where it should be: outside `good` is a warning, outside `must` a failure."
    name: str
    meaning: str
    good: tuple[float, float]
    must: tuple[float, float] = (0, MANY)
    shape: bool = True  # of the shape of a lesson, so not asked of a reference notebook

    def mark(self, value: float) -> str:
        if not self.must[0] <= value <= self.must[1]: return "!!"
        return "" if self.good[0] <= value <= self.good[1] else "!"

    def say(self, value: float) -> str:
        low, high = self.must if self.mark(value) == "!!" else self.good
        bound = f"{low} to {high}" if low and high < MANY else f"at most {high}" if not low else f"at least {low}"
        return f"{value:g} {self.meaning}; {'must be' if self.mark(value) == '!!' else 'the aim is'} {bound}"


AIMS = [
    Aim("cells", "cells", (45, 90), (20, 150)),
    Aim("median", "lines in the middle code cell", (0, 5), (0, 8)),
    Aim("nine in ten", "lines, to which nine in ten code cells keep", (0, 12), (0, 18)),
    Aim("longest", "lines in the longest code cell", (0, 30), (0, 40)),
    Aim("words a cell", "words of prose for each code cell", (25, 60), (12, 120)),
    Aim("bare %", "percent of code cells without prose before them", (0, 25), (0, 45)),
    Aim("in a row", "code cells in a row", (0, 3), (0, 5)),
    Aim("first code", "is the number of the first code cell", (0, 3), (0, 6)),
    Aim("first result", "is the number of the first cell with a result", (0, 8), (0, 12)),
    Aim("pictures", "pictures and widgets", (3, 12), (1, 40)),
    Aim("checks", "checks (test_..., assert)", (10, MANY), (10, MANY)),
    Aim("errors", "expected errors shown (test_fail)", (1, MANY), (1, MANY)),
    Aim("drills", "exercises", (5, 8), (4, 12)),
    Aim("with code", "exercises with a stub, a check and a solution", (2, 8), (2, 12)),
    Aim("dumb %", "percent of code cells that show, test, import or export nothing", (0, 15), (0, 40)),
    Aim("KB", "KB of saved outputs", (0, 200), (0, 1500), shape=False),
    Aim("top KB", "KB of the largest picture", (0, 150), (0, 300), shape=False),
    Aim("columns", "columns in the longest line of code", (0, 100), (0, 120), shape=False),
    Aim("varies", "cells marked `#| varies`, whose outputs are not compared", (0, 3), (0, 10), shape=False),
    Aim("module", "lines of the exported module", (0, 250), (0, 330), shape=False),
    Aim("names", "public names exported", (0, 15), (0, 40), shape=False),
]
MAGIC = {"__getattr__", "__getattribute__", "_getframe", "currentframe"}  # and calls of exec and eval


@dataclass
class Lesson:
    "What was found in one notebook."
    name: str
    is_lesson: bool
    figures: dict[str, float] = field(default_factory=dict)
    failures: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def fail(self, what: str, cell: int | None = None) -> None:
        self.failures.append(Problem(self.name + (f" cell {cell}" if cell else ""), what))

    def warn(self, what: str, cell: int | None = None) -> None:
        self.warnings.append(Problem(self.name + (f" cell {cell}" if cell else ""), what))

    def aims(self) -> list[Aim]:
        return [a for a in AIMS if a.name in self.figures and (self.is_lesson or not a.shape)]


# --- what a cell is --------------------------------------------------------------------------------------------------

def only(tree: ast.Module, *kinds: type) -> bool:
    return bool(tree.body) and all(isinstance(node, kinds) for node in tree.body)


def is_import(tree: ast.Module) -> bool:
    "Nothing but imports, those for type checkers included."
    body = [part for node in tree.body
            for part in (node.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" else [node])]
    return bool(body) and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)


def is_exported(cell) -> bool: return bool({"export", "exports", "exporti"} & directives(cell.source).keys())


def is_setting(cell) -> bool:
    "A cell that a reader passes over: hidden, or nothing but directives."
    return "hide" in directives(cell.source) or not body(cell.source).strip()


def calls(tree: ast.AST) -> list[str]:
    "The last names of everything called."
    return [ast.unparse(n.func).split(".")[-1] for n in ast.walk(tree) if isinstance(n, ast.Call)]


def checks(tree: ast.AST) -> int:
    named = sum(name.startswith(("test_", "check_", "try_answer")) for name in calls(tree))
    return named + sum(isinstance(n, ast.Assert) for n in ast.walk(tree))


def shows_nothing(cell, tree: ast.Module) -> bool:
    "No output, no test, no import, no export, no definition, no exercise: what is it for?"
    defines = only(tree, ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    return not (cell.outputs or is_exported(cell) or is_import(tree) or defines or checks(tree)
                or "exercise" in directives(cell.source))


def pictures(outputs: list) -> int:
    return sum(any(m.startswith("image/") or "widget-view" in m for m in o.get("data", {})) for o in outputs)


# --- the shape of a lesson -------------------------------------------------------------------------------------------

def shape(nb, lesson: Lesson) -> None:
    "How long, how much prose, how many pictures, checks and exercises."
    code = [(i, c) for i, c in code_cells(nb) if not is_setting(c)]
    if not code: return
    trees = [parse(body(c.source)) for _, c in code]
    lengths = sorted(sum(1 for line in body(c.source).splitlines() if line.strip()) for _, c in code)
    prose = "\n".join(c.source for c in nb.cells if c.cell_type == "markdown")
    drills, wrong = exercises(nb)
    for what in wrong: lesson.fail(what)
    lesson.figures |= {
        "cells": len(nb.cells),
        "median": statistics.median(lengths),
        "nine in ten": lengths[math.ceil(0.9 * len(lengths)) - 1],
        "longest": lengths[-1],
        "words a cell": round(len(re.findall(r"\w[\w'’-]*", prose)) / len(code)),
        "first code": code[0][0],
        "first result": next((i for i, c in code if c.outputs), MANY),
        "pictures": sum(pictures(c.outputs) for _, c in code),
        "checks": sum(map(checks, trees)),
        "errors": sum("raises" in directives(c.source) for _, c in code)
        + sum(calls(t).count("test_fail") for t in trees),
        "drills": len(re.findall(r"^#+ Exercise \w+", prose, re.M)),
        "with code": sum(e.check is not None and e.solution is not None for e in drills),
        "dumb %": round(100 * sum(shows_nothing(c, t) for (_, c), t in zip(code, trees)) / len(code))}
    rows(nb, lesson, len(code))


def rows(nb, lesson: Lesson, n_code: int) -> None:
    "Code cells that follow on code cells, and the longest row of them."
    row, longest, bare = 0, 0, 0
    for cell in nb.cells:
        if cell.cell_type == "code" and is_setting(cell): continue
        row = row + 1 if cell.cell_type == "code" else 0
        longest, bare = max(longest, row), bare + (row > 1)
    lesson.figures |= {"bare %": round(100 * bare / n_code), "in a row": longest}


def parts(nb, lesson: Lesson) -> None:
    "What each lesson has: a seed, an authority, its sources."
    if not lesson.is_lesson: return
    text = "\n".join(c.source for c in nb.cells)
    if "set_seed(" not in text: lesson.fail("sets no seed: `set_seed(...)` near the top makes two runs equal")
    if not re.search(r"^#+ Where (it|this|they) come", text, re.M): lesson.warn("has no part `## Where it comes from`")
    if not re.search(r"test_close|test_eq|allclose", text) or not re.search(r"torch|sklearn|published", text):
        lesson.warn("no check against an authority is seen (test_close with PyTorch, scikit-learn, a published number)")


# --- the page and the file -------------------------------------------------------------------------------------------

def page(nb, lesson: Lesson) -> None:
    "Title, ids, sizes of outputs, lengths of lines, headings over nothing."
    first = nb.cells[0].source if nb.cells and nb.cells[0].cell_type == "markdown" else ""
    if not re.match(r"# \S.*\n+> \S", first): lesson.fail("does not begin with a title `# ...` and one line `> ...`", 1)
    if nb.metadata.get("kernelspec", {}).get("name") != "python3": lesson.fail("its kernel is not `python3`")
    ids = [c.get("id") for c in nb.cells]
    if None in ids or len(set(ids)) < len(ids): lesson.fail("not each cell has an id of its own: nbdev and git need one")
    if any("execution" in c.metadata for c in nb.cells): lesson.fail("times of execution are saved in it")
    outputs = [o for _, c in code_cells(nb) for o in c.outputs]
    images = [len(d) * 0.75 for o in outputs for m, d in o.get("data", {}).items() if m in ("image/png", "image/jpeg")]
    lines = [len(line) for _, c in code_cells(nb) for line in c.source.splitlines() if "http" not in line]
    saved = sum(len(json.dumps(o)) for o in outputs) + len(json.dumps(nb.metadata.get("widgets", {})))
    lesson.figures |= {"KB": round(saved / 1000), "top KB": round(max(images, default=0) / 1000),
                       "columns": max(lines, default=0),
                       "varies": sum("varies" in directives(c.source) for _, c in code_cells(nb))}
    for i, (cell, following) in enumerate(zip(nb.cells, nb.cells[1:])):
        if cell.cell_type == following.cell_type == "markdown" and re.fullmatch(r"#+ .*", cell.source.strip()):
            if following.source.startswith("#"): lesson.warn("a heading over nothing", i + 1)


# --- code ------------------------------------------------------------------------------------------------------------

def code(nb, lesson: Lesson) -> None:
    "The rules of code in each cell, and no public name made twice."
    defined = defaultdict(list)
    for i, cell in code_cells(nb):
        tree = parse(body(cell.source))
        if re.search(r"^\s*(!|%pip|%conda)", cell.source, re.M): lesson.fail("calls a shell or an installer", i)
        imports(tree, lesson, i, lesson.fail if is_exported(cell) else lesson.warn)
        if not is_exported(cell): continue
        magic(tree, lesson, i)
        comments = comment_lines(body(cell.source))
        for node in tree.body:
            if isinstance(node, ast.ClassDef): class_(node, lesson, i, comments)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): function(node, lesson, i, comments)
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)): defined[node.name].append(i)
    for name, cells in defined.items():
        if len(cells) > 1: lesson.fail(f"`{name}` is defined in cells {cells}: one definition of a name in a notebook")
    lesson.figures["names"] = sum(not name.startswith("_") for name in defined)


def imports(tree: ast.Module, lesson: Lesson, cell: int, complain) -> None:
    "Explicit, absolute, in cells of their own."
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(a.name == "*" for a in node.names):
            lesson.fail(f"star import: `{ast.unparse(node)}`; name what is used", cell)
        if isinstance(node, ast.ImportFrom) and node.level:
            lesson.fail(f"relative import: `{ast.unparse(node)}`; write `from course_lib...`", cell)
    if any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree.body) and not is_import(tree):
        complain("imports stand together with other code; give them a cell of their own", cell)


def magic(tree: ast.Module, lesson: Lesson, cell: int) -> None:
    "What hides from its reader how it works, and errors that do not say what came."
    names = {getattr(n, "id", getattr(n, "attr", getattr(n, "name", ""))) for n in ast.walk(tree)}
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    used = sorted(names & MAGIC | called & {"exec", "eval"})
    if used: lesson.fail(f"magic in exported code: {', '.join(used)}", cell)
    for node in ast.walk(tree):
        error = getattr(node, "exc", None) if isinstance(node, ast.Raise) else None
        if isinstance(error, ast.Call) and error.args and isinstance(error.args[0], ast.Constant):
            lesson.warn(f"an error that does not quote what came: {ast.unparse(error)[:70]}", cell)


def comment_lines(source: str) -> set[int]:
    "Numbers of the lines that carry a comment."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    try: return {t.start[0] for t in tokens if t.type == tokenize.COMMENT}
    except (tokenize.TokenError, IndentationError): return set()


def class_(node: ast.ClassDef, lesson: Lesson, cell: int, comments: set[int]) -> None:
    if not node.name.startswith("_") and not ast.get_docstring(node):
        lesson.fail(f"class `{node.name}` has no docstring", cell)
    for inner in node.body:
        if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)): function(inner, lesson, cell, comments, node.name)
        if isinstance(inner, ast.ClassDef): class_(inner, lesson, cell, comments)


def parameters(node: ast.FunctionDef) -> list[ast.arg]:
    "All but self and cls."
    a = node.args
    every = (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg)
    return [p for p in every if p is not None and p.arg not in ("self", "cls")]


def function(node: ast.FunctionDef, lesson: Lesson, cell: int, comments: set[int], owner: str = "") -> None:
    "An exported function or method: size, docstring, annotations, a comment beside each parameter and the result."
    name, args = f"{owner}.{node.name}" if owner else node.name, parameters(node)
    decorators = [ast.unparse(d).split("(")[0] for d in node.decorator_list]
    if "patch" in decorators: lesson.fail(f"`{name}` is patched in: write it in its class", cell)
    lines = node.end_lineno - node.body[0].lineno + 2  # the signature counts as one
    if lines > 40: lesson.fail(f"`{name}` has {lines} lines; at most 40", cell)
    complain = lesson.fail if len(args) > 10 else lesson.warn
    if len(args) > 7: complain(f"`{name}` has {len(args)} parameters; at most 7", cell)
    bare = [a.arg for a in args if a.annotation is None]
    bare += ["the result"] * (node.returns is None and node.name != "__init__")
    if bare: lesson.fail(f"`{name}` lacks type hints: {', '.join(bare)}", cell)
    if owner.startswith("_") or node.name.startswith("_") and node.name != "__init__": return
    if not ast.get_docstring(node) and node.name != "__init__": lesson.fail(f"`{name}` has no docstring", cell)
    mute = uncommented(node, args, comments)
    if any("property" in d for d in decorators): mute = []  # its docstring says it all
    if mute: lesson.fail(f"`{name}` has no comment beside {', '.join(mute)} (meaning, shape, unit)", cell)


def uncommented(node: ast.FunctionDef, args: list[ast.arg], comments: set[int]) -> list[str]:
    "Parameters without a docment: one comment, beside or above, speaks of one of them."
    free, mute = set(comments), []
    for a in args:
        near = free & {a.end_lineno, a.lineno - 1}
        if near: free.discard(max(near))
        else: mute.append(a.arg)
    plain = node.returns is None or ast.unparse(node.returns) in ("None", "bool", "Iterator[None]")
    if not plain and node.returns.end_lineno not in free:
        mute.append("the result")
    return mute


def module(lesson: Lesson, path: Path, root: Path) -> None:
    "The exported file: its name and its length."
    name = module_of(path, root)
    if "utils" in name: lesson.fail(f"exports a module called {name}; name it by the thing")
    target = root / "course_lib" / name
    if name and target.exists(): lesson.figures["module"] = len(target.read_text(encoding="utf-8").splitlines())


# --- the course ------------------------------------------------------------------------------------------------------

def repeated(cells: dict[str, list[tuple[Lesson, int]]]) -> None:
    "The same code cell twice in the course."
    for source, places in cells.items():
        if len(places) < 2: continue
        (lesson, cell), *others = places
        n, there = len(source.splitlines()), ", ".join(f"{o.name} cell {j}" for o, j in others)
        (lesson.fail if n >= 6 else lesson.warn)(f"the same {n} lines stand in {there}: export them once", cell)


def bones(cell) -> str:
    "A cell's code without blank lines, comments and indentation."
    lines = (line.strip() for line in body(cell.source).splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#"))


def measure(paths: list[Path], root: Path = ROOT) -> list[Lesson]:
    "Everything about these notebooks."
    lessons, cells = [], defaultdict(list)
    for path in paths:
        nb, inner = read(path), path.relative_to(root / "nbs").parts
        lesson = Lesson(short(path, root), is_lesson=len(inner) > 1 and inner[0] != "0_core")
        for look in (page, shape, parts, code): look(nb, lesson)
        module(lesson, path, root)
        for aim in lesson.aims():
            value = lesson.figures[aim.name]
            if aim.mark(value): (lesson.fail if aim.mark(value) == "!!" else lesson.warn)(aim.say(value))
        for i, cell in code_cells(nb):
            text = bones(cell)
            if text.count("\n") >= 3 and not is_import(parse(body(cell.source))): cells[text].append((lesson, i))
        lessons.append(lesson)
    repeated(cells)
    return lessons


def table(lessons: list[Lesson]) -> list[str]:
    "The figures of lessons, then of all notebooks; ! beside what is outside its aim, !! beside what fails."
    shapes = figures([x for x in lessons if x.is_lesson], [a for a in AIMS if a.shape])
    return shapes + [""] * bool(shapes) + figures(lessons, [a for a in AIMS if not a.shape])


def figures(lessons: list[Lesson], aims: list[Aim]) -> list[str]:
    "A row for each notebook, a column for each figure."
    if not lessons: return []
    width = max(len(x.name) for x in lessons) - 4
    heads = [(a.name.split() + ["", ""])[:3] for a in aims]
    lines = [" " * width + "".join(f"{h[j]:>9}" for h in heads) for j in range(3)]
    for x in lessons:
        texts = [f"{x.figures[a.name]:g}{a.mark(x.figures[a.name])}" if a.name in x.figures else "-" for a in aims]
        lines.append(f"{x.name[4:]:{width}}" + "".join(f"{t:>9}" for t in texts))
    return [line.rstrip() for line in lines if line.strip()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--root", type=Path, default=ROOT)
    args = parser.parse_args()
    chosen = {p.resolve() for p in args.notebooks}
    every = measure(notebooks(args.root), args.root)
    lessons = [x for x in every if not chosen or (args.root / x.name).resolve() in chosen]
    failures, warnings = ([p for x in lessons for p in getattr(x, kind)] for kind in ("failures", "warnings"))
    print("\n".join([*(f"FAIL {p}" for p in failures), *(f"warning: {p}" for p in warnings), "", *table(lessons)]))
    print(f"\n{len(failures)} failures, {len(warnings)} warnings")
    return int(bool(failures))


if __name__ == "__main__": sys.exit(main())
