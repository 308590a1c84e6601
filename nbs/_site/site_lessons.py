"""From a saved notebook to a page: nbdev's directives obeyed and dropped, solutions folded, links put in."""
import ast
import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docutils import nodes
from nb import directives, notebooks

DIRECTIVE_LINE = re.compile(r"^(#[ \t]*\|.*|%matplotlib .*)\n?", re.M)
HEAD = re.compile(r"\A\s*#[ \t]+(?P<title>.+?)[ \t]*\n\s*(?P<line>(?:^>.*\n?)+)?", re.M)
LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s#]+)(?P<after>[^)]*\))")
CODE_WORD = re.compile(r"(?<![`\[\w])`(?P<name>[A-Za-z_][\w.]*)(?P<call>\(\))?`(?![`\]])")
EXPORTS = {"export", "exports", "exporti"}
DROPPED = {"hide", "default_exp"}
WIDGET = "application/vnd.jupyter.widget-view+json"
STATES = "application/vnd.jupyter.widget-state+json"
HINT = ("{.widget-hint}\nThe controls above answer in the notebook, where Python runs: download it, or open it in "
        "Colab. Here you see the picture they start from.")
NO_PICTURE = "{.widget-hint}\nHere the notebook shows controls, which need Python: download it, or open it in Colab."


@dataclass(frozen=True)
class Lesson:
    "What the sidebar, the reference and the results need to know of a notebook."
    doc: str            # its name on the site: "2_foundations/02_sgd"
    title: str          # "Stochastic gradient descent"
    line: str           # the one line below the title
    module: str | None  # what it exports, without the package: "foundations.sgd"


def text_of(cell: dict) -> str:
    "A cell's source, which a notebook file keeps as one string or as lines."
    return "".join(cell["source"])


def read_lesson(path: Path, nbs: Path) -> Lesson:
    "Title, line and module of a notebook."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    doc = path.relative_to(nbs).with_suffix("").as_posix()
    head = next((m for c in cells if c["cell_type"] == "markdown" and (m := HEAD.match(text_of(c) + "\n"))), None)
    if head is None: raise ValueError(f"{path} has no title: its first cell must begin with `# Title`")
    found = (directives(text_of(c)).get("default_exp") for c in cells if c["cell_type"] == "code")
    line = re.sub(r"^>[ \t]?", "", head["line"] or "", flags=re.M).strip().replace("\n", " ")
    return Lesson(doc, head["title"], line, next((m for m in found if m), None))


def find_lessons(root: Path) -> list[Lesson]:
    "All notebooks in reading order, the index first."
    return [read_lesson(p, root / "nbs") for p in notebooks(root)]


def part_title(folder: str) -> str:
    "The sidebar's caption for a folder: `1_whole_game` is `1 · Whole game`."
    number, _, name = folder.partition("_")
    return f"{number} · {name.replace('_', ' ').capitalize()}"


def contents(lessons: list[Lesson]) -> str:
    "The table of contents, as MyST: one caption for each folder, then results and reference."
    parts: dict[str, list[str]] = {}
    for lesson in lessons:
        if "/" in lesson.doc: parts.setdefault(lesson.doc.split("/")[0], []).append(lesson.doc)
    blocks = [(part_title(folder), docs) for folder, docs in parts.items()]
    blocks.append(("Looking up", ["results", "workbooks", "reference/index"]))
    return "\n\n".join(f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(docs) + "\n```"
                       for title, docs in blocks)


def link_line(lesson: Lesson, site: dict) -> str:
    "The links below a lesson's title: reference, the notebook itself."
    up = "../" * lesson.doc.count("/")
    source = f"{site['repository']}/blob/{site['branch']}/nbs/{lesson.doc}.ipynb"
    name = f"{site['package']}.{lesson.module}"
    links = [f"[`{name}`](/reference/{name}.md)"] if lesson.module else []
    links += [f'<a href="{up}_sources/{lesson.doc}.ipynb" download>download the notebook</a>',
              f"[its source]({source})"]
    return "{.lesson-links}\n" + " · ".join(links)


def with_links(source: str, lesson: Lesson, site: dict) -> str:
    "The first cell with the link line put below title and blockquote."
    head = HEAD.match(source + "\n")
    return f"{source[:head.end()].rstrip()}\n\n{link_line(lesson, site)}\n\n{source[head.end():].lstrip()}"


def resolve(target: str, here: str, site: dict) -> str:
    "A relative link for the site: pages and pictures stay, other files of the repository lead to their source."
    if re.match(r"[a-z][a-z+.-]*:|[#/{<]", target): return target
    root, nbs = Path(site["root"]), Path(site["nbs"])
    kept = (".ipynb", ".png", ".svg", ".jpg", ".jpeg", ".gif")
    for base in (nbs / here, root):
        path = (base / target).resolve()
        if not path.exists(): continue
        if path.is_relative_to(nbs.resolve()) and path.suffix in kept:
            return "/" + path.relative_to(nbs.resolve()).as_posix()
        kind = "tree" if path.is_dir() else "blob"
        return f"{site['repository']}/{kind}/{site['branch']}/{path.relative_to(root.resolve()).as_posix()}"
    return target


def names_in_use(nb: dict, lesson: Lesson, site: dict) -> dict[str, str]:
    "The public names that this notebook builds or imports, each with its full name in the reference."
    public, own = site["places"], f"{site['package']}.{lesson.module}."
    found = {full.removeprefix(own): full for full in public if full.startswith(own)}
    for cell in nb["cells"]:
        if cell["cell_type"] != "code": continue
        try: tree = ast.parse(text_of(cell))
        except SyntaxError: continue  # a cell with a magic, or one that shows an error
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] != site["package"]: continue
            for alias in node.names:
                full, here = f"{node.module}.{alias.name}", alias.asname or alias.name
                found |= {here + p.removeprefix(full): p for p in public if p == full or p.startswith(full + ".")}
    return found


def with_references(source: str, names: dict[str, str]) -> str:
    "Lead each name of the package, where prose first has it as code, to its place in the reference."
    lines, fenced, linked = [], False, set()

    def link(m: re.Match) -> str:
        full = names.get(m["name"])
        if full is None or full in linked: return m[0]
        linked.add(full)
        return f"{{py:obj}}`{m['name']}{m['call'] or ''} <{full}>`"

    for line in source.split("\n"):
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        plain = fenced or line.startswith(("#", "    ", "<"))
        lines.append(line if plain else CODE_WORD.sub(link, line))
    return "\n".join(lines)


def markdown_page(source: str, doc: str, site: dict, names: dict[str, str]) -> str:
    "A markdown cell with its links resolved and its names led to the reference."
    here = posixpath.dirname(doc)
    linked = LINK.sub(lambda m: m["before"] + resolve(m["target"], here, site) + m["after"], source)
    return with_references(linked, names)


def folded(words: dict[str, str], cell: dict) -> None:
    "Set the tags and prompts by which myst-nb folds a cell or a part of it."
    tags = cell["metadata"].setdefault("tags", [])
    for gone in {"hide-input", "hide-output", "hide-cell"} & set(tags): tags.remove(gone)
    if words.get("exercise") == "solution":
        tags.append("hide-cell")
        cell["metadata"]["mystnb"] = {"code_prompt_show": "Show a solution", "code_prompt_hide": "Hide the solution"}
    elif words.get("code-fold") in ("true", "show"):
        tags.append("hide-input")
    if "hide_input" in words or words.get("echo") == "false": tags.append("remove-input")
    if "hide_output" in words or words.get("output") == "false": tags.append("remove-output")
    if EXPORTS & words.keys(): tags += ["exported", f"id-{cell.get('id')}"]
    if "exercise" in words: tags.append(f"exercise-{words['exercise']}")
    cell["metadata"]["tags"] = list(dict.fromkeys(tags))


def models_below(model: str, states: dict) -> Iterator[dict]:
    "The saved state of a widget and of all widgets inside it."
    seen, waiting = set(), [model]
    while waiting:
        if (name := waiting.pop()) in seen or name not in states: continue
        seen.add(name)
        yield states[name]
        waiting += re.findall(r"IPY_MODEL_(\w+)", json.dumps(states[name]["state"]))


def show_widgets(cell: dict, states: dict, alive: bool) -> str | None:
    "Put saved pictures where widgets can't be shown at all; the hint that a widget without a kernel needs, if any."
    hint, outputs = None, []
    for output in cell["outputs"]:
        view = output.get("data", {}).get(WIDGET)
        models = list(models_below(view["model_id"], states)) if view else []
        pictures = [o for m in models if m["model_name"] == "OutputModel" for o in m["state"].get("outputs", [])]
        if pictures: hint = HINT
        elif view and not (models and alive): hint = hint or NO_PICTURE
        if not view or models and alive: outputs.append(output)
        else: outputs += pictures
    cell["outputs"] = outputs
    return hint


def code_page(cell: dict, states: dict, alive: bool) -> list[dict]:
    "A code cell as the site shows it: nothing, the cell, or the cell and a hint about its widget."
    source = text_of(cell)
    words = directives(source)
    if DROPPED & words.keys() or words.get("include") == "false": return []
    cell["source"] = DIRECTIVE_LINE.sub("", source).strip("\n")
    if not cell["source"]: return []
    folded(words, cell)
    hint = show_widgets(cell, states, alive)
    below = dict(cell_type="markdown", id="hint-" + cell.get("id", "x"), metadata={}, source=hint)
    return [cell, below] if hint else [cell]


def page(nb: dict, lesson: Lesson, site: dict, lessons: list[Lesson]) -> dict:
    "The notebook that Sphinx renders, made from the saved one."
    states = nb["metadata"].get("widgets", {}).get(STATES, {}).get("state", {})
    names, cells, titled = names_in_use(nb, lesson, site), [], False
    for cell in nb["cells"]:
        if cell["cell_type"] == "code": cells += code_page(cell, states, bool(site["parts"]))
        elif cell["cell_type"] == "markdown":
            source = text_of(cell)
            if not titled and HEAD.match(source + "\n"):
                titled = True
                if "/" in lesson.doc: source = with_links(source, lesson, site)
            cells.append({**cell, "source": markdown_page(source, lesson.doc, site, names)})
    if lesson.doc == "index":
        cells.append(dict(cell_type="markdown", id="contents", metadata={}, source=contents(lessons)))
    metadata = {**nb["metadata"], "language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    return {**nb, "cells": cells, "metadata": metadata}


def connect(app, site: dict) -> None:
    "Let Sphinx read every notebook through `page`."
    lessons = [Lesson(**known) for known in site["lessons"]]
    by_doc = {lesson.doc: lesson for lesson in lessons}

    def read(app, docname: str, source: list[str]) -> None:
        if docname in by_doc: source[0] = json.dumps(page(json.loads(source[0]), by_doc[docname], site, lessons))

    app.connect("source-read", read)
    app.connect("doctree-read", name_cells)


def name_cells(app, doctree) -> None:
    "Give each exported cell an address, to which the reference leads."
    for node in doctree.findall(nodes.container):
        names = [c.removeprefix("tag_id-") for c in node.get("classes", []) if c.startswith("tag_id-")]
        node["ids"] += [f"cell-{name}" for name in names]
