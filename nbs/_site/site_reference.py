"""The reference: one page for every module, made from signatures and docments (the comments beside parameters)."""
import ast
import inspect
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastcore.docments import docments
from site_lessons import Lesson

SPAN = re.compile(r"(?P<code>``?.+?``?)|(?P<math>\$[^$\n]+\$)|(?P<link>\[[^\]]+\]\([^)]+\))")

CELL = re.compile(r"# %% \S+\.ipynb #(\S+)")


@dataclass(frozen=True)
class Symbol:
    "One public name of a module."
    name: str
    kind: str           # "function", "class" or "data"
    line: str           # its docstring's first lines, or a short value
    cell: str           # the id of the cell that defines it
    long: bool = False  # is its value too long to be shown?


def inline(text: str) -> str:
    "Markdown of a docstring or comment as reStructuredText: code, maths and links kept, all else literal."
    parts, end = [], 0
    for m in SPAN.finditer(text):
        parts.append(escape(text[end:m.start()]))
        if m["code"]: parts.append("``" + m["code"].strip("`") + "``")
        elif m["math"]: parts.append(f":math:`{m['math'][1:-1]}`")
        else:
            label, _, target = m["link"][1:-1].partition("](")
            parts.append(f"`{label} <{target}>`__")
        end = m.end()
    joined = ""
    for part in [*parts, escape(text[end:])]:  # markup must not touch a letter
        joint = "\\ " if joined and part and (joined[-1] == "`" or part[0] in "`:") and not (
            joined[-1].isspace() or part[0].isspace()) else ""
        joined += joint + part
    return joined


def escape(text: str) -> str: return re.sub(r"([\\*`|]|_(?=\W|$))", r"\\\1", text)


def fields_of(obj: object) -> list[str]:
    "The docments of a function or class as Sphinx's field list."
    try: found = docments(obj, full=True)
    except (TypeError, ValueError, OSError): return []
    lines = []
    for name, about in found.items():
        comment = re.sub(r"\s*\n\s*", " ", about.get("docment") or "").strip()
        if comment: lines.append((":returns: " if name == "return" else f":param {name}: ") + inline(comment))
    return lines


def lead_back(places: dict, app, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    "Close the description with a link to the cell of the lesson."
    if name in places: lines += ["", f"`see it built <{places[name]}>`__", ""]


def process(app, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    "Sphinx's docstring: escaped, and followed by the docments."
    of_type = (inspect.getdoc(type(obj)) or "").split("\n")[0]
    if what == "module" or what in ("data", "attribute") and lines and lines[0] == of_type: lines[:] = []
    if what not in ("function", "method", "class", "exception", "property"): return
    doc = inspect.cleandoc("\n".join(lines)).splitlines()
    if what in ("class", "exception") and re.match(rf"{re.escape(obj.__name__)}\(", "".join(doc[:1])): doc = []
    lines[:] = ["" if not line.strip() else line if line.startswith((" ", ">>>")) else inline(line) for line in doc]
    found = fields_of(obj)
    if found: lines += ["", *found, ""]


def skip(app, what: str, name: str, obj: object, skipped: bool, options: object) -> bool | None:
    "Leave out the fields of a dataclass, which its parameters already tell."
    if what == "class" and (inspect.ismemberdescriptor(obj) or not callable(obj) and not isinstance(obj, property)):
        return True
    return None


def read_symbols(path: Path) -> list[Symbol]:
    "The public names of an exported module, in the order of its lesson."
    text = path.read_text(encoding="utf-8")
    cells = {n: m[1] for n, line in enumerate(text.splitlines(), 1) if (m := CELL.match(line))}
    tree = ast.parse(text)
    assigned = [(t.id, node) for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)
                for t in getattr(node, "targets", [getattr(node, "target", None)]) if isinstance(t, ast.Name)]
    public = next((set(ast.literal_eval(node.value)) for name, node in assigned if name == "__all__"), set())
    defined = [(node.name, node) for node in tree.body
               if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    found = {name: symbol_of(name, node, cells) for name, node in sorted(assigned + defined, key=lambda p: p[1].lineno)}
    return [symbol for name, symbol in found.items() if name in public]


def symbol_of(name: str, node: ast.stmt, cells: dict[int, str]) -> Symbol:
    "What the reference must know of one definition."
    cell = next((cells[n] for n in sorted(cells, reverse=True) if n < node.lineno), "")
    if isinstance(node, ast.Assign | ast.AnnAssign):
        value = ast.unparse(node.value) if node.value else ""
        return Symbol(name, "data", value if len(value) <= 60 else "", cell, len(value) > 120)
    kind = "class" if isinstance(node, ast.ClassDef) else "function"
    return Symbol(name, kind, (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " "), cell)


def directive(module: str, symbol: Symbol) -> str:
    "The lines that make Sphinx document one name."
    options = {"class": "   :members:\n   :undoc-members:\n", "data": "   :no-value:\n" * symbol.long, "function": ""}
    return f".. auto{symbol.kind}:: {module}.{symbol.name}\n{options[symbol.kind]}"


def module_file(root: Path, package: str, module: str) -> Path:
    "Where nbdev wrote a module."
    path = root / package / f"{module.replace('.', '/')}.py"
    if not path.exists(): raise ValueError(f"{path} is missing: `nbdev-export` writes it from its notebook")
    return path


def module_page(package: str, lesson: Lesson, symbols: list[Symbol]) -> str:
    "The page of one module, as MyST: a list of what is in it, then each thing."
    name = f"{package}.{lesson.module}"
    lines = [f"`{x.line}`" if x.kind == "data" and x.line else x.line for x in symbols]
    rows = [f"| {{py:obj}}`{x.name} <{name}.{x.name}>` | {cell_text(line)} |" for x, line in zip(symbols, lines, strict=True)]
    things = "\n".join(directive(name, x) for x in symbols)
    return (f"# {name}\n\n> {lesson.line}\n\n{{.lesson-links}}\nbuilt in the lesson "
            f"[{lesson.title}](/{lesson.doc}.ipynb)\n\n{{.summary}}\n| | |\n|---|---|\n" + "\n".join(rows) +
            f"\n\n```{{eval-rst}}\n.. py:module:: {name}\n   :no-index-entry:\n\n{things}```\n")


def cell_text(text: str) -> str: return text.replace("|", "\\|")


def index_page(package: str, lessons: list[Lesson]) -> str:
    "The list of modules, as MyST."
    rows = [f"| [`{package}.{x.module}`](/reference/{package}.{x.module}.md) | [{x.title}](/{x.doc}.ipynb) "
            f"| {cell_text(x.line)} |" for x in lessons]
    pages = "\n".join(f"{package}.{x.module}" for x in lessons)
    return ("# Reference\n\n> Every module of the package, with the lesson that builds it.\n\n"
            "| module | lesson | what it is about |\n|---|---|---|\n" + "\n".join(rows) +
            f"\n\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n")


def reference(root: Path, package: str, lessons: list[Lesson]) -> tuple[dict[str, str], dict[str, str]]:
    "File name and text of every page; and for each public name the place in its lesson where it is built."
    exporting = [x for x in lessons if x.module]
    pages, places = {"reference/index.md": index_page(package, exporting)}, {}
    for lesson in exporting:
        symbols = read_symbols(module_file(root, package, lesson.module))
        pages[f"reference/{package}.{lesson.module}.md"] = module_page(package, lesson, symbols)
        places |= {f"{package}.{lesson.module}.{x.name}": f"../{lesson.doc}.html#cell-{x.cell}" for x in symbols if x.cell}
    return pages, places


def connect(app, site: dict) -> None:
    "Let autodoc use docments, and lead every name back to its lesson."
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-docstring", partial(lead_back, site["places"]), priority=600)
    app.connect("autodoc-skip-member", skip)
