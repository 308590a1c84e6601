"Each fault that `make test` promises to catch is made here on purpose, in a small course, and is caught by name."
import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import check
import export
import nbformat
import notebooks as runner
import outputs
import prefetch
import pytest
import readme
import style
from conftest import ROOT, SQUARE, TITLE, make_notebook
from nb import exercises, final_check, read
from PIL import Image

STUB = '#| exercise: stub\ndef twice(x: int) -> int:\n    "Two of them."\n    ...'
CHECK = '''#| exercise: check
def check_twice(fn):
    assert fn(3) == 6, f"twice(3) gave {fn(3)}, expected 6"

try: check_twice(twice); print("Right.")
except Exception as error: print(f"Not yet: {error}")'''
SOLUTION = '#| exercise: solution\ndef twice(x: int) -> int:\n    "Two of them."\n    return 2 * x\n\ncheck_twice(twice)'


def words(problems: list) -> str:
    return "\n".join(map(str, problems))


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{old!r} is not in {path}"
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def exported(course: Path) -> Path:
    export.export(course)
    readme.write(course)
    return course


# --- running ---------------------------------------------------------------------------------------------------------

def test_failing_hanging_and_greedy_cells_are_named_and_the_rest_goes_on(course: Path):
    folder = course / "nbs" / "2_foundations"
    stubborn = "import time\nwhile True:\n    try: time.sleep(9)\n    except KeyboardInterrupt: print('no')"
    paths = [make_notebook(folder / "01_fails.ipynb", TITLE, "x = 0", "y = 1\ny / x", "1/0"),
             make_notebook(folder / "02_hangs.ipynb", TITLE, "import time\ntime.sleep(99)"),
             make_notebook(folder / "03_deaf.ipynb", TITLE, stubborn),
             make_notebook(folder / "04_greedy.ipynb", TITLE, "x = b'1' * 900_000_000\nimport time; time.sleep(9)"),
             make_notebook(folder / "05_good.ipynb", TITLE, "1 + 1")]
    before = {p: p.read_bytes() for p in paths}
    limits = runner.Limits(cell=4, grace=4, memory=0.6)
    said = []
    reports = runner.run_all(paths, course, jobs=3, limits=limits, say=said.append)
    fails, hangs, deaf, greedy, good = (words(r.problems) for r in reports)
    assert re.match(r"nbs/2_foundations/01_fails.ipynb cell 3: ZeroDivisionError: division by zero\n    \| y = 1", fails)
    assert "----> 2 y / x" in fails and "\x1b" not in fails and "cell 4" not in fails
    assert re.match(r"nbs/2_foundations/02_hangs.ipynb cell 2: stopped after \d+ s; a cell may take 4 s", hangs)
    assert "time.sleep(99)" in hangs and "KeyboardInterrupt" in hangs  # where it hung
    assert re.search(r"03_deaf.ipynb cell 2: stopped after \d+ s; a cell may take 4 s", deaf)
    assert re.search(r"04_greedy.ipynb cell 2: took (0\.[6-9]|1)\S* GB of memory; the limit is 0.6 GB", greedy)
    assert not good and reports[4].memory > 0.02 and reports[4].seconds > 0.1
    assert len(said) == 5 and sum(s.startswith("FAIL") for s in said) == 4
    assert "02_hangs.ipynb cell 2: import time" in "\n".join(runner.summary(reports))  # the slowest cells
    assert before == {p: p.read_bytes() for p in paths}  # nothing was written


@pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")
def test_forked_kernels_know_nothing_of_each_other(course: Path, monkeypatch):
    folder = course / "nbs" / "2_foundations"
    look = ("import sys, os, random\nimport numpy, torch\n"
            "print([m for m in sys.modules if m.startswith('course_lib')], '.ci' in ' '.join(sys.path),"
            " os.path.basename(os.getcwd()))\n"
            "print(random.random(), numpy.random.rand(), torch.rand(1).item())\n'x' in globals(), __name__, sys.path[1:]")
    paths = [make_notebook(folder / f"0{i}_look.ipynb", TITLE, look, "x = 1") for i in range(4)]
    seen = []
    monkeypatch.setattr(runner, "finish", lambda path, root, save, saved, nb, report: seen.append(
        [o.get("text") or o["data"]["text/plain"] for cell in nb.cells for o in cell.get("outputs", [])]))
    assert all(r.ok for r in runner.run_all(paths[:3], course, jobs=2, say=str))
    monkeypatch.setenv("COURSE_COLD", "1")
    assert all(r.ok for r in runner.run_all(paths[3:], course, say=str))
    told = [(out.splitlines()[0], value) for out, value in seen]
    assert told[0][0] == "[] False 2_foundations" and told[0] == told[1] == told[2] == told[3]
    numbers = [set(out.splitlines()[1].split()) for out, _ in seen]
    assert len(set.union(*numbers)) == 12  # each has random numbers of its own


def test_saved_stale_and_drifted_outputs(course: Path):
    path = make_notebook(course / "nbs" / "1_game" / "01_a.ipynb", TITLE, "import random\nfrom pathlib import Path",
                         "#| eval: false\nnever()", "print('score', 0.9511)", "#| varies\nrandom.random()",
                         "#| raises: ValueError\nint('x')", "Path('../data.txt').read_text()")
    (course / "nbs" / "data.txt").write_text("one")
    where = "nbs/1_game/01_a.ipynb"
    assert "its outputs were not saved by `make run" in words(outputs.check_saved(read(path), where))
    assert words(runner.run_one(path, course, save=True).problems) == ""
    assert words(outputs.check_saved(read(path), where)) == ""
    saved = path.read_bytes()
    assert [c.execution_count for c in read(path).cells[1:]] == [1, None, 2, 3, 4, 5]
    assert b'"execution"' not in saved and b"\\u001b" not in saved
    (course / "nbs" / "data.txt").write_text("two")  # something that the notebook reads has changed
    change(path, "score 0.9511", "score 0.9312")
    report = runner.run_one(path, course, save=False)
    said = words(report.problems)
    assert f"{where} cell 4 (print('score', 0.9511)): its output drifted" in said
    assert "saved: score 0.9312\n    fresh: score 0.9511" in said
    assert "saved: 'one'\n    fresh: 'two'" in said and "random.random" not in said
    path.write_bytes(saved)
    change(path, "print('score', 0.9511)", "print('score', 0.95)")
    said = words(outputs.check_saved(read(path), where))
    assert f"{where}: stale outputs: the code was changed after they were made" in said
    assert "    cell 4: print('score', 0.95)" in said


def test_warnings_errors_and_paths_are_not_saved(course: Path):
    path = make_notebook(course / "nbs" / "1_game" / "01_a.ipynb", TITLE, "import warnings\nwarnings.warn('old')",
                         "print('/home/you/data')", "object()")
    before = path.read_bytes()
    said = words(runner.run_one(path, course, save=True).problems)
    assert "cell 2 (import warnings): a saved warning or message on stderr" in said
    assert "cell 3 (print('/home/you/data')): the output holds a path of one machine" in said
    assert "cell 4 (object()): the output holds an address of one run" in said
    assert path.read_bytes() == before


def test_exercises_are_proved(course: Path):
    folder = course / "nbs" / "2_foundations"
    filled, wrong = STUB.replace("...", "return 2 * x"), SOLUTION.replace("return 2 * x", "return x")
    skipped = "#| eval: false\n" + wrong  # so that the notebook itself runs, and only the proof finds it
    paths = [make_notebook(folder / "01.ipynb", TITLE, "### Exercise 1: twice", STUB, CHECK, SOLUTION),
             make_notebook(folder / "02.ipynb", TITLE, "### Exercise 1: twice", filled, CHECK, SOLUTION),
             make_notebook(folder / "03.ipynb", TITLE, "### Exercise 7: twice", STUB, CHECK, skipped)]
    good, easy, wrong = (words(r.problems) for r in runner.run_all(paths, course, jobs=3, say=str))
    assert good == ""
    assert "02.ipynb cell 3 (exercise 1): the untouched stub passes its check `check_twice(twice)`" in easy
    assert "the check cell says the same of the stub as of the solution: 'Right.'" in easy
    assert "03.ipynb cell 5 (exercise 7): the solution does not pass its check: AssertionError: twice(3) gave 3" in wrong


def test_exercises_are_laid_out_in_order(tmp_path: Path):
    def said(*cells: str) -> str: return "\n".join(exercises(read(make_notebook(tmp_path / "x.ipynb", *cells)))[1])
    head = "### Exercise 2: twice"
    assert said(head, STUB, CHECK, SOLUTION) == ""
    assert "exercise 2 has no solution cell" in said(head, STUB, CHECK)
    assert "has its solution before its check" in said(head, STUB, SOLUTION, CHECK)
    assert "stands under no heading" in said(STUB)
    assert "unknown `#| exercise: answer`" in said(head, "#| exercise: answer\n1")
    assert "does not end with its check" in said(head, STUB, CHECK, SOLUTION + "\nprint(1)")
    assert final_check("x = 1\ncheck_it(x, k=2)") == "check_it(x, k=2)"


@pytest.mark.parametrize("old, new, same, near", [
    ("loss 0.12345", "loss 0.12349", True, True), ("loss 0.12345", "loss 0.12445", False, True), ("0.95", "0.96", True, True),
    ("torch.Size([64, 10])", "torch.Size([64, 20])", False, False), ("4821 right", "4820 right", False, True),
    ("a b\n c", "a  b\nc", True, True), ("cat", "dog", False, False), ("<x at 0x7f00aa11>", "<x at 0x7f00aa22>", True, True),
    ("1e-9", "-3e-10", True, True), ("nan", "1.0", False, False), ("[1 2 3]", "[1 2]", False, False)])
def test_texts_are_compared_by_their_numbers(old: str, new: str, same: bool, near: bool):
    assert (outputs.compare_text(old, new, "same") == []) is same
    assert (outputs.compare_text(old, new, "near") == []) is near


def test_data_is_found_in_the_source_before_anything_runs(course: Path, monkeypatch):
    (course / "course_lib" / "data").mkdir(parents=True)
    (course / "course_lib" / "data" / "datasets.py").write_text(
        "def _read(name): return fetch(name)\ndef birds(): return _tail('x')\ndef _tail(x): return fetch('birds')\n"
        "def small(): return fetch('small')\ndef big(): return fetch('big')\n")
    nb = read(make_notebook(course / "nbs" / "x.ipynb", "from course_lib.data.datasets import big, birds as b, small",
                            "b()\nfetch('fish')", "names = by_profile(quick=small, full=big)()", "big = 1",
                            "#| eval: false\nfetch('never')",
                            "#| export\ndef later(): return fetch('later')"))
    functions = prefetch.by_function(course)
    monkeypatch.delenv("COURSE_PROFILE", raising=False)
    assert prefetch.data_of(nb, functions) == {"birds", "fish", "small", "big"}  # `big = 1` is a use, to be safe
    nb.cells[3].source = "pass"
    assert prefetch.data_of(nb, functions) == {"birds", "fish", "small"}
    monkeypatch.setenv("COURSE_PROFILE", "full")
    assert prefetch.data_of(nb, functions) == {"birds", "fish", "big"}


def test_where_outputs_are_compared_and_how_closely(course: Path, monkeypatch):
    for name in ("COURSE_COMPARE", "COURSE_PROFILE"): monkeypatch.delenv(name, raising=False)
    nb, pins = nbformat.v4.new_notebook(), course / ".github" / "constraints.txt"
    pins.parent.mkdir()
    here = outputs.version("numpy")
    pins.write_text(f"# pins\nnumpy==9.9 ; python_full_version < '3.8'\nnumpy=={here} ; python_full_version >= '3.8'\n")
    outputs.stamp(nb)
    assert outputs.level(nb, course) == ("same", "")
    system, arch, *_ = outputs.machine().split()
    nb.metadata.course_lib["made_on"] = f"{system} {arch} another"
    assert outputs.level(nb, course)[0] == "near"
    nb.metadata.course_lib["made_on"] = f"{system} m68k"
    assert outputs.level(nb, course)[0] == "off"
    outputs.stamp(nb)
    pins.write_text("numpy==9.9\n")
    assert outputs.level(nb, course) == ("off", f"numpy {here} instead of 9.9")
    monkeypatch.setenv("COURSE_COMPARE", "near")
    assert outputs.level(nb, course)[0] == "near"


def picture(width: int, grey: int, dot: int = 0) -> str:
    image, raw = Image.new("RGB", (width, 100), (grey,) * 3), io.BytesIO()
    image.paste((0, 0, 0), (0, 0, dot, 100))
    image.save(raw, "png")
    return base64.b64encode(raw.getvalue()).decode()


def test_pictures_are_compared_by_size_and_pixels():
    assert outputs.compare_images(picture(200, 250), picture(202, 250), "same") == []
    assert "picture of 200 x 100" in outputs.compare_images(picture(200, 250), picture(230, 250), "same")[0]
    assert "differ by 12.5 of 255" in outputs.compare_images(picture(200, 250), picture(200, 250, dot=10), "same")[1]


# --- the package is what the notebooks say ---------------------------------------------------------------------------

def test_a_hand_edited_module_a_stale_one_and_a_missing_one(exported: Path):
    assert words(export.check(exported)) == ""
    lib = exported / "course_lib"
    change(lib / "core.py", "return x * x", "return x ** 2")
    (lib / "left.py").write_text("x = 1\n")
    make_notebook(exported / "nbs" / "0_core" / "02_more.ipynb", TITLE, "#| default_exp data.more", SQUARE)
    said = words(export.check(exported))
    assert "course_lib/core.py: is not what nbs/0_core/01_core.ipynb exports: it was edited by hand" in said
    assert "-    return x ** 2\n    +    return x * x" in said
    assert "course_lib/left.py: has no notebook" in said
    assert "course_lib/data/more.py: is missing: nbs/0_core/02_more.ipynb exports it" in said
    assert export.export(exported) == ["_modidx.py", "core.py", "data/__init__.py", "data/more.py", "left.py"]
    assert words(export.check(exported)) == "" and not (lib / "left.py").exists()
    assert export.export(exported) == []  # a second export changes nothing


def test_one_version(exported: Path):
    assert export.check_version(exported) == []
    change(exported / "settings.ini", "version = ", "version = 9.")
    assert re.search(r"says version [\d.]+, settings.ini says 9\.", words(export.check_version(exported)))


def test_an_upward_import_and_a_wing_in_a_wing(exported: Path):
    lib = exported / "course_lib"
    assert check.check_floors(exported) == []
    for name, text in {"foundations/low": "from ..training.high import x", "training/high": "x = 1",
                       "text/a": "x = 1", "generative/b": "from ..text.a import x"}.items():
        (lib / name).parent.mkdir(exist_ok=True)
        (lib / name).parent.joinpath("__init__.py").touch()
        (lib / f"{name}.py").write_text(text + "\n")
    said = words(check.check_floors(exported))
    assert "course_lib.foundations is not allowed to import course_lib.training" in said
    assert "course_lib.foundations.low -> course_lib.training.high" in said
    assert "course_lib.generative is not allowed to import course_lib.text" in said


def test_a_notebook_that_imports_its_own_module(exported: Path):
    make_notebook(exported / "nbs" / "0_core" / "02_b.ipynb", TITLE, "#| default_exp b",
                  "#| export\nfrom course_lib.core import square", "#| export\ny = square(2)")
    export.export(exported)
    assert export.check_imports(exported) == []
    path = make_notebook(exported / "nbs" / "0_core" / "01_core.ipynb", TITLE, "#| default_exp core", SQUARE,
                         "from course_lib.b import y")
    said = words(export.check_imports(exported))
    assert "01_core.ipynb cell 4: imports the module that this notebook exports: course_lib.b -> course_lib.core" in said
    assert path.exists()


def test_a_readme_that_is_not_the_index(exported: Path):
    assert readme.check(exported) == []
    assert "(nbs/0_core/01_core.ipynb)" in (exported / "README.md").read_text()
    change(exported / "README.md", "Small.", "Large.")
    (exported / "nbs" / "0_core" / "01_core.ipynb").unlink()
    said = words(readme.check(exported))
    assert "README.md: is not what nbs/index.ipynb gives" in said and "-> Large.\n    +> Small." in said
    assert "a link leads nowhere: nbs/0_core/01_core.ipynb" in said


# --- style -----------------------------------------------------------------------------------------------------------

def test_faults_of_style_are_named(exported: Path):
    path = make_notebook(exported / "nbs" / "2_foundations" / "01_x.ipynb", "# No line", "from math import *",
                         "#| export\nimport os\ndef f(x):\n    return exec(x)",
                         "#| export\ndef f(x: int) -> int:\n    'Doc.'\n    return x",
                         *["a = 1\nb = 2\nc = 3\nd = 4\ne = 5\nf = 6"] * 2, "x = '" + "y" * 130 + "'")
    lesson, = (x for x in style.measure([path], exported))
    said = words(lesson.failures)
    for part in ("01_x.ipynb cell 1: does not begin with a title", "cell 2: star import: `from math import *`",
                 "cell 3: imports stand together with other code", "cell 3: magic in exported code: exec",
                 "cell 3: `f` lacks type hints: x, the result", "cell 3: `f` has no docstring",
                 "`f` is defined in cells [3, 4]", "cell 4: `f` has no comment beside x, the result",
                 "cell 5: the same 6 lines stand in nbs/2_foundations/01_x.ipynb cell 6", "sets no seed",
                 "136 columns in the longest line of code", "0 checks", "0 exercises; must be 4 to 12"):
        assert part in said, f"{part!r} is not in\n{said}"
    assert any("136!!" in row for row in style.table([lesson]))


def test_a_good_export_has_no_fault_of_style(exported: Path):
    lessons = style.measure([exported / "nbs" / "0_core" / "01_core.ipynb"], exported)
    assert words(lessons[0].failures) == ""


# --- all together ----------------------------------------------------------------------------------------------------

def test_the_last_line_counts_and_the_exit_code_tells(exported: Path):
    done = subprocess.run([sys.executable, str(ROOT / ".ci" / "check.py"), "--root", str(exported), "--only", "static"],
                          capture_output=True, text=True)
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"\d+ passed, [1-9]\d* failed", last) and done.returncode == 1
    tail = done.stdout[done.stdout.index("--- failures"):]  # failures are said again above the last line
    assert "its outputs were not saved" in tail and "holds no workflow" in tail


# --- the door --------------------------------------------------------------------------------------------------------

@pytest.fixture
def house(monkeypatch, tmp_path: Path):
    import house
    python = tmp_path / ".venv" / Path(house.VENV_PYTHON).relative_to(house.VENV)  # Scripts/python.exe on Windows
    for name in ("ROOT", "VENV"): monkeypatch.setattr(house, name, str(tmp_path / (".venv" if name == "VENV" else "")))
    monkeypatch.setattr(house, "STAMP", str(tmp_path / ".venv" / "course_lib.stamp"))
    monkeypatch.setattr(house, "VENV_PYTHON", str(python))
    monkeypatch.setattr(house, "BIN", str(python.parent))
    monkeypatch.setattr(house, "read_settings", lambda: {"min_python": "3.11", "requirements": "numpy>=1"})
    monkeypatch.setattr(house, "fingerprint", lambda wanted: "now")
    return house


def test_an_old_python_is_told_so_or_passed_by(house, monkeypatch):
    monkeypatch.setattr(house.sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(house, "newer_python", lambda cfg: "")
    with pytest.raises(SystemExit, match=r"3.11 or newer is needed: install it, then `make PYTHON=python3.11 lab`"):
        house.main(["lab"])
    called = []
    monkeypatch.setattr(house, "newer_python", lambda cfg: "/usr/bin/python3.13")
    monkeypatch.setattr(house, "call", lambda command, env=None: called.append(command[0]) or 0)
    assert house.main(["lab"]) == 0 and called == ["/usr/bin/python3.13"]


def test_a_full_disk_is_told(house, monkeypatch):
    monkeypatch.setattr(house.shutil, "disk_usage", lambda path: type("U", (), {"free": 1.2e9}))
    with pytest.raises(SystemExit, match=r"1.2 GB free on the disk of .*; the environment needs 4 GB: make room"):
        house.main(["test"])


def test_an_unknown_command_is_told(house):
    with pytest.raises(SystemExit, match=r"no command 'tset', did you mean 'test'\?; there are: .*test"):
        house.main(["tset"])


def test_no_network_is_told_and_a_whole_environment_is_kept(house, monkeypatch, capsys, tmp_path: Path):
    monkeypatch.setattr(house, "pin_of", lambda name: "no-such-package-of-this-course")
    for name, value in {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": "/dev/null",
                        "PIP_NO_INDEX": "0"}.items(): monkeypatch.setenv(name, value)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"): monkeypatch.delenv(name, raising=False)
    real = house.run_quietly  # pip is the real one; the empty environment that it would be in takes six seconds to make
    monkeypatch.setattr(house, "run_quietly", lambda command, what, env=None: what == "making the environment"
                        or real([sys.executable, *command[1:]], what, env))
    whole = tmp_path / ".venv"
    Path(house.VENV_PYTHON).parent.mkdir(parents=True)
    Path(house.VENV_PYTHON).touch()
    (whole / "course_lib.stamp").write_text("before")
    house.environment(house.read_settings())
    said = capsys.readouterr().out
    assert "installing uv failed: the package index can't be reached (no network?)" in said
    assert "nothing was installed; mend that and run this again\nhouse: going on with the environment as it was" in said
    assert (whole / "course_lib.stamp").read_text() == "before" and not list((tmp_path / "build").iterdir())
    monkeypatch.setattr(house, "run_quietly", lambda *a, **k: False)
    (whole / "course_lib.stamp").unlink()  # not a whole one: nothing to go back to
    with pytest.raises(SystemExit, match="nothing was installed; mend that and run this again"):
        house.environment(house.read_settings())


def test_nothing_is_done_when_nothing_changed(house, monkeypatch, tmp_path: Path):
    Path(house.VENV_PYTHON).parent.mkdir(parents=True)
    Path(house.VENV_PYTHON).touch()
    (tmp_path / ".venv" / "course_lib.stamp").write_text("now")
    monkeypatch.setattr(house, "make_environment", lambda wanted: pytest.fail("made again"))
    house.environment(house.read_settings())


def test_notebooks_are_read_as_saved():
    "The format that the tools write is the one that Jupyter writes: no difference after opening and saving."
    for path in sorted((ROOT / "nbs").rglob("*.ipynb"))[:5]:
        if ".ipynb_checkpoints" in path.parts: continue
        text = path.read_text(encoding="utf-8")
        assert nbformat.writes(nbformat.reads(text, 4)).rstrip() == text.rstrip(), path
