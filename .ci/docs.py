"""`make docs`: the rendered site in `_docs/`, from the notebooks with their saved outputs. Nothing is run but imports.

    .ci/docs.py [--root FOLDER] [--out FOLDER] [--no-parts]

Copies notebooks and pictures to `_proc/site`, adds the pages that are made from the package and from results/, lets Sphinx
build them (a warning is an error), and refuses a site that would ask another host for anything.
"""
import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
SITE = HOME / "nbs" / "_site"
sys.path[:0] = [str(SITE), str(Path(__file__).resolve().parent)]

import sheets  # noqa: E402
import site_parts  # noqa: E402
from site_lessons import Lesson, find_lessons  # noqa: E402
from site_reference import reference  # noqa: E402
from site_results import results_page  # noqa: E402

KEPT = {".ipynb", ".png", ".svg", ".jpg", ".jpeg", ".gif"}
LOADED = {"script": ["src"], "img": ["src", "srcset"], "source": ["src", "srcset"], "iframe": ["src"], "video": ["src"],
          "audio": ["src"], "embed": ["src"], "object": ["data"], "track": ["src"], "input": ["src"], "image": ["href"]}
LOADING_RELS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest",
                "apple-touch-icon", "mask-icon", "shortcut"}
ELSEWHERE = re.compile(r"(?:https?:)?//[\w.-]+", re.I)
CSS_LOAD = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""", re.I)


def say(message: str) -> None: print(f"docs: {message}", flush=True)


class Loads(HTMLParser):
    "Collects everything that a page makes the browser fetch from another host."

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {k: v or "" for k, v in attrs}
        self.in_style = tag == "style"
        wanted = [values.get(name, "") for name in LOADED.get(tag, [])]
        if tag == "link" and LOADING_RELS & set(values.get("rel", "").lower().split()): wanted.append(values["href"])
        if tag == "meta" and values.get("http-equiv", "").lower() == "refresh":
            wanted.append(values.get("content", "").partition("url=")[2])
        self.found += [f"<{tag}> {value}" for value in wanted if ELSEWHERE.match(value.strip())]
        self.found += [f"<{tag} style> {url}" for url in CSS_LOAD.findall(values.get("style", ""))]

    def handle_data(self, data: str) -> None:
        if self.in_style: self.found += [f"<style> {url}" for url in CSS_LOAD.findall(data)]

    def handle_endtag(self, tag: str) -> None: self.in_style = False


def loads_from_elsewhere(out: Path) -> list[str]:
    "Every script, style, font or picture that the site would take from another host, with the page that does it."
    found = []
    for path in sorted(out.rglob("*")):
        if path.suffix == ".html":
            page = Loads()
            page.feed(path.read_text(encoding="utf-8"))
            found += [f"{path.relative_to(out)}: {what}" for what in page.found]
        elif path.suffix == ".css":
            urls = CSS_LOAD.findall(path.read_text(encoding="utf-8"))
            found += [f"{path.relative_to(out)}: {url}" for url in urls]
    return found


def addresses(root: Path) -> tuple[str, str]:
    "The repository's and the site's address: from pyproject.toml, or from GitHub where it builds the site."
    urls = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    owner, _, name = os.environ.get("GITHUB_REPOSITORY", "").partition("/")
    if not name: return urls["Repository"].rstrip("/"), urls["Site"].rstrip("/")
    server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
    return f"{server}/{owner}/{name}", f"https://{owner.lower()}.github.io/{name}"


def describe(root: Path, lessons: list[Lesson], places: dict[str, str], parts: Path | None) -> dict:
    "What the build must know, as it is kept in site.json."
    parser = ConfigParser(delimiters=["="], interpolation=None)
    parser.read(root / "settings.ini", encoding="utf-8")
    cfg = parser["DEFAULT"]
    repository, url = addresses(root)
    own = b"".join(p.read_bytes() for p in sorted(SITE.rglob("*")) if p.suffix in (".py", ".css", ".js", ".toml"))
    site = dict(name=cfg["lib_name"], package=cfg["lib_name"], author=cfg["author"], license=cfg["license"],
                repository=repository, url=url, branch="main", root=str(root), nbs=str(root / "nbs"),
                parts=str(parts) if parts else None, places=places, lessons=[asdict(x) for x in lessons])
    return {**site, "state": hashlib.sha256(own + json.dumps(site).encode()).hexdigest()}


def write_if_new(path: Path, data: bytes) -> None:
    "Keep the file's date if nothing changed, so that Sphinx reads again only what did."
    if path.exists() and path.read_bytes() == data: return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def sources(root: Path, lessons: list[Lesson], pages: dict[str, str], books: Path) -> dict[str, bytes]:
    "Name and content of everything that Sphinx reads: notebooks, pictures, and the pages that are made."
    nbs = root / "nbs"
    hidden = re.compile(r"(^|/)[._]")
    files = {p.relative_to(nbs).as_posix(): p for p in nbs.rglob("*") if p.suffix in KEPT}
    kept = {name: p.read_bytes() for name, p in files.items() if not hidden.search(name)}
    made = {**pages, "results.md": results_page(root / "results", lessons)}
    return {**kept, **workbooks(root, books), **{name: text.encode() for name, text in made.items()}}


def workbooks(root: Path, folder: Path) -> dict[str, bytes]:
    "The workbooks, made anew where their code changed, and the page that offers them; their data may be out of reach."
    code = sorted((root / "course_lib" / "sheets").glob("*.py"))
    if not code: return {"workbooks.md": sheets.page([]).encode()}
    state = hashlib.sha256(b"".join(p.read_bytes() for p in [*code, Path(sheets.__file__)])).hexdigest()
    about = folder / "about.json"
    if not about.exists() or json.loads(about.read_text(encoding="utf-8"))["state"] != state:
        try: found = sheets.write(folder)
        except OSError as e:
            say(f"the site offers no workbooks: {e}")
            return {"workbooks.md": sheets.page([]).encode()}
        about.write_text(json.dumps({"state": state, "found": found}), encoding="utf-8")
    files = {f"sheets/{p.name}": p.read_bytes() for p in sorted(folder.glob("*.xlsx"))}
    return {**files, "workbooks.md": sheets.page(json.loads(about.read_text(encoding="utf-8"))["found"]).encode()}


def prepare(root: Path, stage: Path, parts: Path | None) -> tuple[bool, str]:
    "Fill the folder that Sphinx reads. Whether pages came or went since the last time; a fingerprint of everything."
    lessons = find_lessons(root)
    if not any(x.doc == "index" for x in lessons):
        raise ValueError(f"{root / 'nbs' / 'index.ipynb'} is missing: it is the site's first page")
    pages, places = reference(root, "course_lib", lessons)
    wanted = sources(root, lessons, pages, stage.parent / "sheets")
    there = {p.relative_to(stage).as_posix() for p in stage.rglob("*") if p.is_file()} - {"site.json"}
    for gone in there - wanted.keys(): (stage / gone).unlink()
    for name, data in wanted.items(): write_if_new(stage / name, data)
    site = json.dumps(describe(root, lessons, places, parts), indent=1).encode()
    write_if_new(stage / "site.json", site)
    modules = [p.read_bytes() for p in sorted((root / "course_lib").rglob("*.py"))]
    names = "\n".join(f"{name} {len(data)}" for name, data in wanted.items()).encode()
    return there != wanted.keys(), hashlib.sha256(b"".join([site, names, *wanted.values(), *modules])).hexdigest()


def get_parts(no_parts: bool) -> Path | None:
    "The folder of JavaScript files, or None, which is said."
    import anywidget

    from course_lib.core import cache_dir
    try:
        if no_parts: raise OSError("they were not asked for")
        folder = site_parts.fetch_parts(cache_dir())
    except (OSError, subprocess.TimeoutExpired) as e:
        say(f"formulas stay in TeX and widgets are shown as their saved pictures: {e}")
        return None
    shutil.copyfile(Path(anywidget.__file__).parent / "nbextension" / "index.js", folder / "widgets" / "anywidget.js")
    return folder


def sphinx(root: Path, stage: Path, out: Path, trees: Path) -> int:
    "Build; every warning is shown and is an error."
    env = {**os.environ, "PYTHONPATH": str(root), "COURSE_SITE_STAGE": str(stage), "OMP_NUM_THREADS": "1",
           "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "-c", str(SITE), "-d", str(trees),
               str(stage), str(out)]
    return subprocess.run(command, env=env, cwd=root).returncode  # the modules of `root`, not of where we are


def build(root: Path, out: Path, no_parts: bool = False, proc: Path | None = None) -> int:
    "Prepare, build and check; 0 if the site is good."
    start = time.perf_counter()
    proc = proc or root / "_proc"
    stage, trees, html = proc / "site", proc / "doctrees", proc / "html"  # myst-nb also writes beside `html`
    stage.mkdir(parents=True, exist_ok=True)
    stamp = proc / "built"
    other_pages, fingerprint = prepare(root, stage, get_parts(no_parts))
    wanted = f"{fingerprint} {out}"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted and (out / "index.html").exists():
        say(f"nothing changed: {(out / 'index.html').as_uri()}")
        return 0
    stamp.unlink(missing_ok=True)
    if other_pages:
        shutil.rmtree(html, ignore_errors=True)
        shutil.rmtree(trees, ignore_errors=True)
    if sphinx(root, stage, html, trees):
        say("the site was not built: see the warnings above")
        return 1
    (html / ".nojekyll").touch()
    if elsewhere := loads_from_elsewhere(html):
        print("\n".join("    " + line for line in elsewhere[:20]))
        say(f"{len(elsewhere)} things would be fetched from another host, but a reader must need only this site")
        return 1
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(html, out)
    stamp.write_text(wanted, encoding="utf-8")
    n = sum(1 for _ in pages_of(out))
    say(f"{n} pages in {time.perf_counter() - start:.1f} s: {(out / 'index.html').as_uri()}")
    return 0


def pages_of(out: Path) -> Iterator[Path]:
    "The pages that a reader sees, without the listings of source code."
    return (p for p in out.rglob("*.html") if "_modules" not in p.parts and "_static" not in p.parts)


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the site from the saved notebooks.")
    parser.add_argument("--root", type=Path, default=HOME, help="the repository to build from")
    parser.add_argument("--out", type=Path, help="where to build (default: _docs in the repository)")
    parser.add_argument("--no-parts", action="store_true", help="build without the JavaScript files from npm")
    args = parser.parse_args()
    root = args.root.resolve()
    try: return build(root, (args.out or root / "_docs").resolve(), args.no_parts)
    except ValueError as e:
        say(str(e))
        return 1


if __name__ == "__main__": sys.exit(main())
