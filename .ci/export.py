"""Make the package from the notebooks (`make export`), or prove that it is already made of them (used by `make test`).

The version stands in settings.ini; the export writes it into `course_lib/__init__.py`.
"""
import argparse
import ast
import contextlib
import difflib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import readme
from house import read_settings
from nb import ROOT, Problem, body, directives, notebooks, parse, read, short

DOT_FILES = ("__init__.py", "_modidx.py")


def export(root: Path = ROOT) -> list[str]:
    "Export all notebooks of the checkout at `root`; modules without a notebook are removed. Returns what changed."
    from nbdev.config import add_init, set_version
    from nbdev.doclinks import _build_modidx
    from nbdev.export import nb_export
    lib = root / "course_lib"
    before = contents(lib)
    lib.mkdir(exist_ok=True)
    with contextlib.chdir(root):
        for notebook in notebooks(root): nb_export(notebook, lib_path=lib)
        modules = {module_of(notebook, root) for notebook in notebooks(root)}
        for path in lib.rglob("*.py"):
            if path.name not in DOT_FILES and path.relative_to(lib).as_posix() not in modules: path.unlink()
        for init in sorted(lib.rglob("__init__.py"), reverse=True):
            alone = not [p for p in init.parent.rglob("*.py") if p.name != "__init__.py"]
            if alone and init.parent != lib: init.unlink()
        for folder in sorted((p for p in lib.rglob("*") if p.is_dir()), reverse=True):
            if not [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"]: shutil.rmtree(folder)
        add_init(lib)
        set_version(lib, version(root))
        _build_modidx(lib, root / "nbs")
    after = contents(lib)
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def version(root: Path) -> str:
    "The one version, of settings.ini."
    return read_settings(str(root / "settings.ini"))["version"]


def contents(lib: Path) -> dict[str, str]:
    return {p.relative_to(lib).as_posix(): p.read_text(encoding="utf-8") for p in lib.rglob("*.py")}


def module_of(path: Path, root: Path = ROOT) -> str:
    "The file in the package that a notebook exports, '' if it exports none."
    cells = [directives(c.source) for c in read(path).cells if c.cell_type == "code"]
    names = [c["default_exp"] for c in cells if "default_exp" in c]
    exports = any({"export", "exporti", "exports"} & c.keys() for c in cells)
    return names[0].replace(".", "/") + ".py" if names and exports else ""


def check(root: Path = ROOT) -> list[Problem]:
    "Is the package exactly what the notebooks export? Each file that is not is named."
    sources = {m: short(p, root) for p in notebooks(root) if (m := module_of(p, root))}
    found, twice = [], [m for p in notebooks(root) if (m := module_of(p, root))]
    found += [Problem(f"course_lib/{m}", "two notebooks export this module") for m in set(twice) if twice.count(m) > 1]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder).resolve()
        for path in (*notebooks(root), root / "pyproject.toml", root / "settings.ini"):
            target = copy / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        done = subprocess.run([sys.executable, __file__, "--root", str(copy)], capture_output=True, text=True)
        if done.returncode:
            return [Problem("export", "nbdev could not export the notebooks", done.stderr.splitlines()[-6:])]
        wanted = contents(copy / "course_lib")
    have = contents(root / "course_lib")
    for name in sorted(wanted.keys() | have.keys()):
        if wanted.get(name) == have.get(name): continue
        where, source = f"course_lib/{name}", sources.get(name, "settings.ini or the notebooks")
        if name not in have: found.append(Problem(where, f"is missing: {source} exports it; run `make export`"))
        elif name not in wanted: found.append(Problem(where, "has no notebook; run `make export`, which removes it"))
        else:
            diff = [d for d in difflib.unified_diff(have[name].splitlines(), wanted[name].splitlines(), "the package",
                                                    "the notebook", lineterm="", n=0) if not d.startswith("@@")][2:8]
            found.append(Problem(where, f"is not what {source} exports: it was edited by hand, or the notebook was "
                                 "changed since; change the notebook and run `make export`", diff))
    return found


# --- imports ---------------------------------------------------------------------------------------------------------

def imported(tree: ast.AST, package: str = "") -> set[str]:
    "All modules of course_lib named in import statements, `from x import y` giving both x and x.y."
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[:len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{a.name}" for a in node.names}
    return {n for n in names if n.split(".")[0] == "course_lib"}


def import_graph(root: Path) -> dict[str, set[str]]:
    "Module of the package -> modules of the package that it imports, lazily or not."
    files = {"course_lib." + n[:-3].replace("/", "."): text for n, text in contents(root / "course_lib").items()
             if Path(n).name not in DOT_FILES}
    return {m: imported(ast.parse(text), m.rpartition(".")[0]) & files.keys() for m, text in files.items()}


def reach(start: set[str], graph: dict[str, set[str]]) -> dict[str, str]:
    "Every module reached from `start`, with the module that imported it."
    seen = dict.fromkeys(start, "")
    queue = list(start)
    while queue:
        for nxt in graph.get(here := queue.pop(), ()):
            if nxt not in seen:
                seen[nxt] = here
                queue.append(nxt)
    return seen


def check_imports(root: Path = ROOT) -> list[Problem]:
    "No notebook meets its own module by import: two classes of one name would appear, and isinstance fails."
    graph, found = import_graph(root), []
    order = {}
    for k, path in enumerate(notebooks(root)):
        own = "course_lib." + module_of(path, root)[:-3].replace("/", ".") if module_of(path, root) else ""
        order[own] = (k, short(path, root))
        for i, cell in enumerate(read(path).cells):
            if cell.cell_type != "code": continue
            seen = reach(imported(parse(body(cell.source))) & graph.keys(), graph)
            if own and own in seen:
                via, chain = own, [own]
                while seen[via]: chain.insert(0, via := seen[via])
                found.append(Problem(f"{short(path, root)} cell {i + 1}", f"imports the module that this notebook "
                                     f"exports: {' -> '.join(chain)}"))
    for module, targets in graph.items():
        for other in targets:
            same = module.split(".")[1] == other.split(".")[1] and module.count(".") > 1 < other.count(".") + 1
            if same and module in order and other in order and order[other][0] > order[module][0]:
                found.append(Problem(order[module][1], f"{module} imports {other}, which is made later in the reading "
                                     f"order ({order[other][1]})"))
    return found


def check_version(root: Path = ROOT) -> list[Problem]:
    "The package says the version of settings.ini."
    text = (root / "course_lib" / "__init__.py").read_text(encoding="utf-8")
    said = (re.findall(r'__version__ = "(.+)"', text) or ["none"])[0]
    if said == version(root): return []
    return [Problem("course_lib/__init__.py", f"says version {said}, settings.ini says {version(root)}: "
                    "run `make export`")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--check", action="store_true", help="change nothing, say what is not as it should be")
    parser.add_argument("--readme", action="store_true", help="write README.md from the index too")
    args = parser.parse_args()
    if args.check:
        problems = check(args.root) + check_imports(args.root)
        print("\n".join(map(str, problems)) or "the package is what the notebooks export")
        return bool(problems)
    changed = export(args.root.resolve())
    if args.readme and (args.root / "nbs" / "index.ipynb").exists(): readme.write(args.root)
    print("exported: " + (", ".join(changed) if changed else "nothing changed"))
    return 0


if __name__ == "__main__": sys.exit(main())
