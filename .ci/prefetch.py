"Fetch the data that notebooks use before they run, so that downloading does not count against a cell's limit."
import ast
import os
import subprocess
import sys
from pathlib import Path

from nb import ROOT, body, directives, is_run, parse, read

FETCH = """
import sys
try:
    from course_lib.data.download import fetch_all
    from course_lib.data.registry import data_sets
except ImportError: sys.exit(0)
known = {data.name for data in data_sets()}
try: results = fetch_all([name for name in sys.argv[1:] if name in known])
except Exception as error: results = {"data": error}
for name, error in results.items():
    if isinstance(error, Exception): print(f"note: {name} could not be fetched beforehand: {error}".splitlines()[0])
"""


def fetched_in(tree: ast.AST) -> set[str]:
    "Names in `fetch('name')` calls."
    return {node.args[0].value for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args
            and ast.unparse(node.func).split(".")[-1] == "fetch" and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)}


def by_function(root: Path) -> dict[str, set[str]]:
    "For each function of course_lib.data.datasets the data sets that it, or a function that it calls, fetches."
    path = root / "course_lib" / "data" / "datasets.py"
    if not path.exists(): return {}
    defs = {d.name: d for d in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(d, ast.FunctionDef)}
    calls = {n: {x.id for x in ast.walk(d) if isinstance(x, ast.Name)} & set(defs) - {n} for n, d in defs.items()}
    def needs(name: str, seen: frozenset = frozenset()) -> set[str]:
        deeper = [needs(c, seen | {name}) for c in calls[name] if c not in seen]
        return fetched_in(defs[name]).union(*deeper)
    return {name: needs(name) for name in defs}


class Active(ast.NodeTransformer):
    "Leaves out what `by_profile(quick=..., full=...)` does not choose."

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if ast.unparse(node.func).split(".")[-1] == "by_profile":
            chosen = os.environ.get("COURSE_PROFILE", "quick")
            node.keywords = [k for k in node.keywords if k.arg == chosen]
        return node


def data_of(nb, functions: dict[str, set[str]]) -> set[str]:
    "The data sets that a notebook's cells fetch: by name, or through a function of course_lib.data.datasets."
    skipped = ("export", "exporti", "exports")  # definitions: what calls them stands in another cell
    cells = [c for c in nb.cells if is_run(c) and not set(skipped) & directives(c.source).keys()]
    imports = [n for c in nb.cells if c.cell_type == "code" for n in ast.walk(parse(body(c.source)))
               if isinstance(n, ast.ImportFrom)]
    tree = ast.Module([n for c in cells for n in Active().visit(parse(body(c.source))).body], [])
    imported, modules = {}, set()
    for node in imports:
        for alias in node.names:
            if node.module == "course_lib.data.datasets": imported[alias.asname or alias.name] = alias.name
            if (node.module, alias.name) == ("course_lib.data", "datasets"): modules.add(alias.asname or alias.name)
    used = {imported[n.id] for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id in imported}
    used |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) in modules}
    return fetched_in(tree).union(*(functions.get(name, set()) for name in used))


def uses_data(nb) -> bool:
    return any("course_lib.data" in c.source for c in nb.cells if c.cell_type == "code")


def prefetch(paths: list[Path], root: Path = ROOT) -> list[str]:
    "Fetch what the notebooks name and what is in the registry; what can't be had is only noted."
    functions = by_function(root)
    wanted = set().union(*(data_of(nb, functions) for nb in map(read, paths) if uses_data(nb)))
    if not wanted or os.environ.get("COURSE_PREFETCH") == "0": return []
    done = subprocess.run([sys.executable, "-c", FETCH, *sorted(wanted)], cwd=root, text=True,
                          stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)})
    return [line for line in done.stdout.splitlines() if line.startswith("note:")]
