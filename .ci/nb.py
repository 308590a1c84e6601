"What all tools know about notebooks: where they are, their directives, their fingerprint, their exercises."
import ast
import hashlib
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

# jsonschema, which nbformat imports, would build a grammar of web addresses: more than a second in every process
sys.modules.setdefault("rfc3987_syntax", None)

import nbformat  # noqa: E402

ROOT = Path(os.environ.get("COURSE_ROOT") or Path(__file__).resolve().parents[1])
_DIRECTIVE = re.compile(r"^#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$")


@dataclass
class Exercise:
    "One exercise with code: the indices of its three cells."
    number: str
    stub: int
    check: int | None = None
    solution: int | None = None


@dataclass
class Problem:
    "One finding: where, what, and lines that show it."
    where: str
    what: str
    lines: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([f"{self.where}: {self.what}", *(f"    {line}" for line in self.lines)])


def notebooks(root: Path = ROOT) -> list[Path]:
    "Every notebook of the course in reading order; folders that start with `_` or `.` are no lessons."
    found = [p for p in (root / "nbs").rglob("*.ipynb")
             if not any(part[0] in "._" for part in p.relative_to(root / "nbs").parts)]
    return sorted(found, key=lambda p: (p.parent != root / "nbs", p.as_posix()))


def short(path: Path, root: Path = ROOT) -> str:
    "The path as it is named in messages."
    path = Path(path).resolve()
    return path.relative_to(root.resolve()).as_posix() if path.is_relative_to(root.resolve()) else str(path)


def read(path: Path) -> nbformat.NotebookNode:
    try: return nbformat.read(path, 4)
    except Exception as error:  # conflict marks of git, half a file, another format
        said = (str(error).splitlines() or [type(error).__name__])[0][:150]
        raise ValueError(f"{short(path)} is no notebook that can be read: {said}") from error


def directives(source: str) -> dict[str, str]:
    "The leading `#| name: value` lines of a cell."
    found = {}
    for line in source.splitlines():
        if line.strip() and not line.startswith("%%"):
            match = _DIRECTIVE.match(line)
            if not match: break
            found[match[1]] = match[2]
    return found


def body(source: str) -> str:
    "A cell's source without its directives."
    lines = source.splitlines()
    while lines and (not lines[0].strip() or _DIRECTIVE.match(lines[0])): lines.pop(0)
    return "\n".join(lines)


def is_run(cell) -> bool:
    "Is this a code cell that is executed?"
    return (cell.cell_type == "code" and bool(cell.source.strip()) and directives(cell.source).get("eval") != "false"
            and "skip-execution" not in cell.metadata.get("tags", []))


def code_cells(nb) -> list[tuple[int, object]]:
    "Pairs of cell number (from 1, all kinds of cells counted) and code cell."
    return [(i + 1, c) for i, c in enumerate(nb.cells) if c.cell_type == "code"]


def first_line(cell) -> str:
    "The first line of code, to name a cell by."
    text = body(cell.source) or cell.source
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:70]


def parse(source: str) -> ast.Module:
    "The cell as a syntax tree; lines with magics are left out, a cell that is not Python is empty."
    lines = ["" if re.match(r"\s*[%!?]", line) else line for line in source.splitlines()]
    try: return ast.parse("" if source.lstrip().startswith("%%") else "\n".join(lines))
    except SyntaxError: return ast.Module([], [])


def cell_hashes(nb) -> list[str]:
    return [hashlib.sha256(c.source.encode()).hexdigest()[:6] for c in nb.cells if c.cell_type == "code"]


def fingerprint(nb) -> str:
    "Changes with any code cell, and with their order."
    return hashlib.sha256("\0".join(c.source for c in nb.cells if c.cell_type == "code").encode()).hexdigest()


def exercises(nb) -> tuple[list[Exercise], list[str]]:
    "The exercises with code, and what is wrong with how they are laid out."
    found, wrong, number = [], [], ""
    for i, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown":
            match = re.search(r"^#+ Exercise (\w+)", cell.source, re.M)
            number = match[1] if match else ("" if re.match(r"#{1,3} ", cell.source) else number)
            continue
        kind = directives(cell.source).get("exercise")
        if kind is None: continue
        here = found[-1] if found and found[-1].number == number else None
        if kind not in ("stub", "check", "solution"):
            wrong.append(f"cell {i + 1}: unknown `#| exercise: {kind}`; there are stub, check, solution")
        elif not number:
            wrong.append(f"cell {i + 1}: an exercise {kind} stands under no heading `### Exercise N: ...`")
        elif kind == "stub" and here is None: found.append(Exercise(number, i))
        elif kind == "stub": wrong.append(f"cell {i + 1}: exercise {number} has a second stub")
        elif here is None: wrong.append(f"cell {i + 1}: exercise {number} has a {kind} before its stub")
        elif getattr(here, kind) is not None: wrong.append(f"cell {i + 1}: exercise {number} has a second {kind}")
        elif kind == "solution" and here.check is None:
            wrong.append(f"cell {i + 1}: exercise {number} has its solution before its check")
        else: setattr(here, kind, i)
    for ex in found:
        wrong += [f"cell {ex.stub + 1}: exercise {ex.number} has no {kind} cell (`#| exercise: {kind}`)"
                  for kind in ("check", "solution") if getattr(ex, kind) is None]
        if ex.solution is not None and not final_check(nb.cells[ex.solution].source):
            wrong.append(f"cell {ex.solution + 1}: the solution of exercise {ex.number} does not end with its check, "
                         "a call like `check_name(name)`")
    return found, wrong


def final_check(source: str) -> str:
    "The last statement of a solution if it is a call of a check, else ''."
    tree = parse(source).body
    last = tree[-1] if tree else None
    if not (isinstance(last, ast.Expr) and isinstance(last.value, ast.Call)): return ""
    name = ast.unparse(last.value.func).split(".")[-1]
    return ast.unparse(last) if name.startswith(("check", "test_")) else ""


def tag(nb) -> None:
    "Derive tags and folding from the directives: exercises, expected errors."
    ours = {"exercise-stub", "exercise-check", "exercise-solution", "raises-exception", "hide-input"}
    for cell in nb.cells:
        if cell.cell_type != "code": continue
        found = directives(cell.source)
        tags = [t for t in cell.metadata.get("tags", []) if t not in ours]
        if "exercise" in found: tags.append(f"exercise-{found['exercise']}")
        if "raises" in found: tags.append("raises-exception")
        solution = found.get("exercise") == "solution"
        if solution: tags.append("hide-input")
        cell.metadata = {k: v for k, v in cell.metadata.items() if k not in ("tags", "jupyter", "execution")}
        if tags: cell.metadata["tags"] = tags
        if solution: cell.metadata["jupyter"] = {"source_hidden": True}
