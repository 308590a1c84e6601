"""`make test-browser`: a real Chromium reads a lesson in a real JupyterLab and the built site.

    .ci/browser.py [--notebook 2_foundations/02_sgd.ipynb] [--shots FOLDER] [--site FOLDER] [--only lab | site]

In JupyterLab, on a copy of the notebooks: open, run all, no error, move a slider, see the picture change. On the site: no
request fails or leaves the site, search finds, dark is dark, a widget shows its saved picture, a phone needs no sideways
scrolling. The last line is `browser: N passed, M failed`; without Chromium the test is skipped, which it says.
"""
import argparse
import contextlib
import functools
import http.server
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(os.environ.get("COURSE_ROOT") or Path(__file__).resolve().parents[1])
LESSON = "2_foundations/02_sgd.ipynb"
NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge"]
APPS = ["/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium"]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-renderer-backgrounding",
         "--disable-backgrounding-occluded-windows", "--disable-background-timer-throttling"]
SETTINGS = {"apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
            "notebook-extension/tracker": {"windowingMode": "none"},
            "docmanager-extension/plugin": {"autosave": False}}

# Runs every cell; then tells of each code cell whether it ran and which error it shows that it was not meant to show.
RUN_ALL = """async () => {
  const app = window.jupyterapp, panel = app.shell.currentWidget;
  await panel.context.ready; await panel.sessionContext.ready;
  const kernel = panel.sessionContext.session.kernel;
  await kernel.info;
  await kernel.requestExecute({code: '0', silent: true}).done;  // a kernel that answers once answers always
  const ok = await app.commands.execute('notebook:run-all-cells');
  const cells = [...panel.content.model.cells].filter(c => c.type == 'code' && c.sharedModel.getSource().trim());
  const meant = c => (c.getMetadata('tags') || []).includes('raises-exception');
  const errors = c => c.outputs.toJSON().filter(o => o.output_type == 'error').map(o => o.ename + ': ' + o.evalue);
  return {ok, cells: cells.length, ran: cells.filter(c => c.executionCount).length,
          errors: cells.filter(c => !meant(c)).flatMap(errors)};
}"""

# Notes when the pointer moved and when the pictures of the slider's cell first became other ones.
WATCH = """slider => {
  const cell = slider.closest('.jp-Cell');
  const pictures = () => [...cell.querySelectorAll('.jp-OutputArea img, .jp-OutputArea svg, .jp-OutputArea canvas')]
    .map(e => e.src || (e.toDataURL ? e.toDataURL() : e.outerHTML)).join();
  const before = pictures(), watch = window.courseWatch = {before, moved: null, changed: null};
  addEventListener('pointermove', e => { if (e.buttons && watch.moved === null) watch.moved = performance.now(); }, true);
  const look = () => {
    const now = pictures();
    if (now && now !== before && watch.moved !== null) { watch.changed = performance.now(); watch.after = now; }
    else requestAnimationFrame(look);
  };
  look();
  return before.length;
}"""


class Skip(Exception):
    "Why a check was not done."


class Tally:
    "Counts checks; a failed one does not stop the others."

    def __init__(self) -> None: self.passed, self.failed, self.skipped = 0, 0, 0

    def check(self, name: str, work: Callable[[], str]) -> bool:
        "Do one check; `work` returns what it saw, or raises."
        start = time.perf_counter()
        try: said, word = work(), "ok"
        except Skip as e: said, word = str(e), "skipped"
        except AssertionError as e: said, word = str(e), "FAILED"
        except Exception as e: said, word = f"{type(e).__name__}: {e}\n{traceback.format_exc(limit=-2)}", "FAILED"
        self.passed, self.failed = self.passed + (word == "ok"), self.failed + (word == "FAILED")
        self.skipped += word == "skipped"
        print(f"browser: {word:7} {name} ({time.perf_counter() - start:.1f} s): {said}", flush=True)
        return word == "ok"


def starts(browser: str) -> bool:
    "Is it a browser, and not Ubuntu's note that one could be installed?"
    try: return subprocess.run([browser, "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired): return False


def find_chromium() -> str | None:
    "The browser to use: $COURSE_CHROMIUM, or the first installed one that starts."
    if wished := os.environ.get("COURSE_CHROMIUM"): return wished
    found = [*map(shutil.which, NAMES), *(a for a in APPS if Path(a).exists())]
    return next((f for f in found if f and starts(f)), None)


def shot(page, folder: Path, name: str) -> None:
    with contextlib.suppress(Exception): page.screenshot(path=folder / f"{name}.png")


# --- JupyterLab -------------------------------------------------------------------------------------------------------

def copy_notebooks(root: Path, folder: Path) -> Path:
    "A copy to play with, since JupyterLab saves; cells that are not to be run become text."
    nbs = folder / "nbs"
    shutil.copytree(root / "nbs", nbs, ignore=shutil.ignore_patterns("_*", ".*"))
    for path in nbs.rglob("*.ipynb"):
        nb = json.loads(path.read_text(encoding="utf-8"))
        for cell in nb["cells"]:
            if cell["cell_type"] == "code" and re.search(r"^#\s*\|\s*eval:\s*false", "".join(cell["source"]), re.M):
                cell["cell_type"] = "raw"
                for key in ("outputs", "execution_count"): del cell[key]
        path.write_text(json.dumps(nb), encoding="utf-8")
    return nbs


def lab_environment(folder: Path, root: Path, token: str) -> dict[str, str]:
    "Settings, histories and results of this JupyterLab stay in the temporary folder."
    places = ["JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
              "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR", "COURSE_RESULTS"]
    for name, value in SETTINGS.items():
        path = folder / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")
    env = {**os.environ, **{name: str(folder / name) for name in places}, "JUPYTER_TOKEN": token,
           "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    env.pop("MPLBACKEND", None)
    return env


def ask(base: str, token: str, path: str, data: dict | None = None) -> dict:
    "One request to the server's API, past any proxy."
    headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(base + path, data=json.dumps(data).encode() if data else None, headers=headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        return json.load(answer)


def address(process: subprocess.Popen, folder: Path, log: Path, seconds: float = 90) -> str:
    "Where the server listens: it takes a free port itself and writes down which."
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        for path in (folder / "JUPYTER_RUNTIME_DIR").glob("jpserver-*.json"):
            with contextlib.suppress(ValueError, KeyError, OSError):
                base = f"http://127.0.0.1:{json.loads(path.read_text(encoding='utf-8'))['port']}"
                ask(base, "", "/api")
                return base
        time.sleep(0.1)
    raise AssertionError("JupyterLab did not start:\n" + log.read_text(encoding="utf-8", errors="replace")[-1500:])


@contextlib.contextmanager
def jupyterlab(root: Path) -> Iterator[tuple[str, str]]:
    "A running JupyterLab on a copy of the notebooks: its address and token."
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True, prefix="course_lab_") as name:
        folder = Path(name)
        nbs, log = copy_notebooks(root, folder), folder / "log"
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0",
                   "--expose-app-in-browser", f"--ServerApp.root_dir={nbs}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0: command.append("--allow-root")
        with log.open("w") as sink:
            process = subprocess.Popen(command, stdout=sink, stderr=sink, cwd=nbs, env=lab_environment(folder, root, token))
        try: yield address(process, folder, log), token
        finally:
            process.terminate()
            try: process.wait(20)
            except subprocess.TimeoutExpired: process.kill()


def open_notebook(page, base: str, token: str, notebook: str) -> str:
    "Open the notebook with its kernel already there, so that no dialog asks for one."
    ask(base, token, "/api/sessions", dict(path=notebook, name=Path(notebook).name, type="notebook",
                                           kernel=dict(name="python3")))
    page.goto(f"{base}/lab/tree/{notebook}?token={token}&reset")
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').first.wait_for()
    dialogs = page.locator(".jp-Dialog").count()
    assert not dialogs, f"a dialog is in the way: {page.locator('.jp-Dialog').first.inner_text()!r}"
    return notebook


def run_all(page) -> str:
    "Run every cell: all have run, none shows an error."
    seen = page.evaluate("() => window.courseRun")
    assert not seen["errors"], f"errors in {len(seen['errors'])} cells: {seen['errors'][:3]}"
    assert seen["ok"] and seen["ran"] == seen["cells"] > 0, f"{seen['ran']} of {seen['cells']} code cells ran"
    return f"{seen['ran']} code cells ran, no error"


def move_slider(page) -> str:
    "Drag the first slider that shows a picture; the picture must become another one."
    sliders = page.locator(".widget-slider")
    with contextlib.suppress(Exception): sliders.first.wait_for(timeout=20000)
    with_picture = [i for i in range(sliders.count()) if sliders.nth(i).evaluate(
        "s => !!s.closest('.jp-Cell').querySelector('.jp-OutputArea img, .jp-OutputArea svg, .jp-OutputArea canvas')")]
    assert with_picture, f"{sliders.count()} sliders, but none in a cell that shows a picture"
    slider = sliders.nth(with_picture[0])
    slider.scroll_into_view_if_needed()
    assert slider.evaluate(WATCH), "the slider's cell shows no picture"
    read = slider.locator(".widget-readout").first
    before = read.inner_text()
    drag(page, slider)
    page.wait_for_function("() => window.courseWatch.changed !== null", timeout=20000)
    took = page.evaluate("courseWatch.changed - courseWatch.moved") / 1000
    after = read.inner_text()
    assert after != before, f"the slider still says {before}"
    return f"{before} -> {after}, a new picture {took:.2f} s after the move"


def drag(page, slider) -> None:
    "Take the handle to the other end of its track in one go."
    handle = slider.locator(".noUi-handle").first.bounding_box()
    track = slider.locator(".noUi-target").first.bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    middle = track["x"] + track["width"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(track["x"] + track["width"] * (0.8 if x < middle else 0.2), y)
    page.mouse.up()


def start_run(page) -> None:
    "Begin to run all cells, without waiting for the end."
    page.evaluate(f"() => {{ window.courseRun = ({RUN_ALL})(); }}")


@contextlib.contextmanager
def lab_check(browser, root: Path, notebook: str, shots: Path, tally: Tally) -> Iterator[None]:
    "The lesson in JupyterLab; what is inside the `with` is done while its cells run."
    with contextlib.ExitStack() as stack:
        opened = None

        def open_lab() -> str:
            nonlocal opened
            if not (root / "nbs" / notebook).exists(): missing(root / "nbs" / notebook)
            base, token = stack.enter_context(jupyterlab(root))
            page = browser.new_context(viewport=dict(width=1300, height=1400)).new_page()
            page.set_default_timeout(180000)
            stack.callback(shot, page, shots, "lab")
            said = open_notebook(page, base, token, notebook)
            start_run(page)
            opened = page
            return said

        tally.check("JupyterLab opens the lesson", open_lab)
        yield
        if opened and tally.check("run all cells", lambda: run_all(opened)):
            tally.check("a slider moves the picture", lambda: move_slider(opened))


def missing(what: object) -> str: raise AssertionError(f"{what}" if isinstance(what, str) else f"{what} is missing")


# --- the site ---------------------------------------------------------------------------------------------------------

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None: pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    "The site's address while it is served from this machine."
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f"http://127.0.0.1:{server.server_port}"
    finally: server.shutdown()


class Visit:
    "A page that writes down every request that fails or leaves the site, and every script error."

    def __init__(self, browser, base: str, width: int = 1400, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport=dict(width=width, height=1000), color_scheme=scheme)
        self.page, self.base, self.faults = self.context.new_page(), base, []
        self.page.set_default_timeout(30000)
        self.context.route("**/*", self.admit)
        self.page.on("response", lambda r: self.faults.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        self.page.on("pageerror", lambda e: self.faults.append(f"script error: {e}"))

    def admit(self, route) -> None:
        if route.request.url.startswith((self.base, "data:", "blob:")): return route.continue_()
        self.faults.append(f"request to {route.request.url}")
        return route.abort()

    def open(self, path: str):
        self.page.goto(f"{self.base}/{path}", wait_until="load")
        return self.page

    def __enter__(self): return self

    def __exit__(self, *_): self.context.close()


def some_pages(site: Path, lesson: str, most: int = 10) -> list[str]:
    "The pages to look at: index, results, reference, the lesson, and others spread over the whole site."
    first = ["index.html", "results.html", "reference/index.html", lesson]
    pages = sorted(p.relative_to(site).as_posix() for p in site.rglob("*.html")
                   if not {"_static", "_modules"} & set(p.relative_to(site).parts))
    others = [p for p in pages if p not in first]
    n = max(0, most - len(first))
    return first + [others[i * len(others) // n] for i in range(min(n, len(others)))]


def pages_are_whole(browser, base: str, pages: list[str]) -> str:
    "Nothing missing, nothing from elsewhere, no script error, every picture there."
    with Visit(browser, base) as visit:
        for path in pages:
            page = visit.open(path)
            page.wait_for_timeout(200)
            broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src.slice(0, 99))")
            assert not broken, f"{path}: pictures that do not show: {broken}"
            assert not visit.faults, f"{path}: {visit.faults[:4]}"
    return f"{len(pages)} pages, no request failed or left the site"


def search_finds(browser, base: str, lesson: str, shots: Path) -> str:
    "The search box finds the lesson by a word of its title."
    with Visit(browser, base) as visit:
        page = visit.open("index.html")
        visit.page.goto(f"{base}/{lesson}")
        word = re.findall(r"\w{4,}", page.locator("h1").first.inner_text())[-1]
        page.goto(f"{base}/index.html")
        page.keyboard.press("Control+k")
        box = page.locator("dialog[open] input[type=search], .search-button__search-container input[type=search]").first
        box.fill(word)
        box.press("Enter")
        page.locator(f'#search-results a[href*="{lesson}"]').first.wait_for()
        shot(page, shots, "site-search")
        assert not visit.faults, visit.faults[:4]
        return f"{word!r} finds {lesson}"


def theme_switches(browser, base: str) -> str:
    "The button leads from light to dark, and the page really is dark."
    shade = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 3"
    with Visit(browser, base) as visit:
        page = visit.open("index.html")
        light = page.evaluate(shade)
        page.locator("button.theme-switch-button:visible").first.click()
        page.locator('.theme-switch-container .dropdown-menu [data-mode="dark"]:visible').first.click()
        page.wait_for_timeout(300)
        dark = page.evaluate(shade)
        assert light > 200 and dark < 60, f"mean brightness of the page {light:.0f}, after the switch {dark:.0f}"
        page.reload()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.dataset.theme") == "dark", "the choice is forgotten on the next page"
        return f"brightness {light:.0f} -> {dark:.0f}, and it stays"


def widget_is_shown(browser, base: str, lesson: str, shots: Path) -> str:
    "Without a kernel the widget shows the picture it was saved with."
    with Visit(browser, base) as visit:
        page = visit.open(lesson)
        if not page.locator(".widget-hint").count(): raise Skip(f"{lesson} has no widget")
        if not page.locator("script[data-jupyter-widgets-cdn], script[src*='widgets/']").count():
            return f"built without npm: {page.locator('div.cell_output img').count()} saved pictures"
        picture = page.locator(".jupyter-widgets img").first
        picture.wait_for()
        size = picture.evaluate("async i => { await i.decode(); return [i.naturalWidth, i.naturalHeight]; }")
        page.locator(".widget-slider").first.scroll_into_view_if_needed()
        shot(page, shots, "site-widget")
        assert min(size) > 50, f"the widget's picture is {size[0]} x {size[1]} pixels"
        assert not visit.faults, visit.faults[:4]
        return f"{page.locator('.widget-slider').count()} sliders, a picture of {size[0]} x {size[1]}"


EXPLORER = "0_core/10h_explorer.html"


def explorer_computes(browser, base: str, shots: Path) -> str:
    "The page's own convolution, at first and after a weight was changed, against NumPy's on the numbers that are shown."
    import numpy as np
    numbers = ("rows => rows.map(r => [...r.querySelectorAll('td')].map(c => Number((c.querySelector('input') || "
               "{value: c.textContent}).value.replace('\u2212', '-'))))")
    with Visit(browser, base) as visit:
        page = visit.open(EXPLORER)
        if not page.locator("script[data-jupyter-widgets-cdn], script[src*='widgets/']").count():
            raise Skip("built without npm")
        page.locator(".convx .result td").first.wait_for()
        for weight in (None, "5"):
            if weight: page.locator(".convx input").nth(4).fill(weight)
            x, w, out = (np.array(page.eval_on_selector_all(f".convx {table} tr", numbers))
                         for table in (".picture", ".window", ".result"))
            want = np.einsum("rcij,ij->rc", np.lib.stride_tricks.sliding_window_view(x, w.shape), w)
            assert np.abs(out - want).max() < 0.051, f"the page is off by {np.abs(out - want).max():.2f}"
        page.locator(".convx .result tr").nth(4).locator("td").nth(6).hover()
        assert page.locator(".convx .picture .under").count() == w.size, "the window under the pointer is not marked"
        said = page.locator(".convx .sum").inner_text()
        assert said.startswith("row 4, column 6:") and said.count("\u00b7") == w.size, said
        shot(page, shots, "site-explorer")
        assert not visit.faults, visit.faults[:4]
        return f"{out.size} places equal, twice; {said.split('=')[-1].strip()} under the pointer"


def phone_fits(browser, base: str, pages: list[str], shots: Path) -> str:
    "At the width of a phone no page scrolls sideways."
    wide = []
    with Visit(browser, base, width=390, scheme="dark") as visit:
        for path in pages:
            page = visit.open(path)
            page.wait_for_timeout(150)
            over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            if over > 0: wide.append(f"{path}: {over} px too wide")
            if path in pages[:4]: shot(page, shots, "phone-" + path.removesuffix(".html").replace("/", "-"))
    assert not wide, "; ".join(wide)
    return f"{len(pages)} pages at 390 px"


def desk_shots(browser, base: str, pages: list[str], shots: Path) -> None:
    for scheme in ("light", "dark"):
        with Visit(browser, base, scheme=scheme) as visit:
            for path in pages[:4]: shot(visit.open(path), shots, f"{scheme}-" + path.removesuffix(".html").replace("/", "-"))


def check_site(browser, site: Path, notebook: str, shots: Path, tally: Tally) -> None:
    "The built pages."
    lesson = notebook.removesuffix(".ipynb") + ".html"
    if not (site / lesson).exists():
        tally.check("the lesson's page on the site", lambda: missing(site / lesson))
        return
    pages = some_pages(site, lesson)
    with served(site) as base:
        tally.check("pages are whole", lambda: pages_are_whole(browser, base, pages))
        tally.check("search", lambda: search_finds(browser, base, lesson, shots))
        tally.check("light and dark", lambda: theme_switches(browser, base))
        tally.check("a widget without a kernel", lambda: widget_is_shown(browser, base, lesson, shots))
        if (site / EXPLORER).exists():
            tally.check("a convolution to touch, without a kernel", lambda: explorer_computes(browser, base, shots))
        tally.check("phone", lambda: phone_fits(browser, base, pages, shots))
        desk_shots(browser, base, pages, shots)


def build_site(root: Path, tally: Tally) -> Path:
    "The site as `make docs` builds it, made anew where notebooks changed."
    def work() -> str:
        done = subprocess.run([sys.executable, str(Path(__file__).with_name("docs.py")), "--root", str(root)], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout[-1500:]
        return done.stdout.strip().splitlines()[-1].removeprefix("docs: ")
    tally.check("the site builds", work)
    return root / "_docs"


def main() -> int:
    parser = argparse.ArgumentParser(description="Read a lesson in JupyterLab and the site in a real browser.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository to test")
    parser.add_argument("--notebook", default=LESSON, help="below nbs/")
    parser.add_argument("--shots", type=Path, help="where screenshots go (default: $COURSE_SHOTS or a new temporary folder)")
    parser.add_argument("--site", type=Path, help="a site that is already built (default: build it)")
    parser.add_argument("--only", choices=["lab", "site"])
    args = parser.parse_args()
    chromium = find_chromium()
    if chromium is None:
        print("browser: skipped: Chromium is not installed (apt install chromium)\nbrowser: 0 passed, 0 failed, 1 skipped")
        return 0
    from playwright.sync_api import sync_playwright
    named = args.shots or os.environ.get("COURSE_SHOTS")
    root, shots = args.root.resolve(), Path(named or tempfile.mkdtemp(prefix="course_shots_"))
    shots.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch, sync_playwright() as playwright:
        home = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), scratch)  # not the reader's
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS, env={**os.environ, **home})
        lab = lab_check(browser, root, args.notebook, shots, tally) if args.only != "site" else contextlib.nullcontext()
        with lab:
            if args.only != "lab":
                check_site(browser, args.site or build_site(root, tally), args.notebook, shots, tally)
        browser.close()
    if named or tally.failed: print(f"browser: screenshots in {shots}")
    else: shutil.rmtree(shots, ignore_errors=True)
    skipped = f", {tally.skipped} skipped" * bool(tally.skipped)
    print(f"browser: {tally.passed} passed, {tally.failed} failed{skipped}")
    return int(tally.failed > 0)


if __name__ == "__main__": sys.exit(main())
