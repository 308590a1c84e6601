"What the tests share: the tools of the house can be imported, and a small course can be built in a temporary folder."
import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".ci"))

from nb import nbformat  # noqa: E402  (it makes the import of nbformat a quick one)

os.environ.setdefault("OMP_NUM_THREADS", "1")


def make_notebook(path: Path, *cells: str) -> Path:
    "A notebook from texts; one that starts with `#` and a space, or with `>`, is prose."
    made = []
    for i, text in enumerate(cells):
        prose = text.startswith(("# ", "## ", "### ", "> ", "[", "!"))
        cell = (nbformat.v4.new_markdown_cell if prose else nbformat.v4.new_code_cell)(text)
        cell["id"] = f"cell-{i}"
        made.append(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    spec = {"display_name": "course_lib", "language": "python", "name": "python3"}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": spec}), path)
    return path


TITLE = "# A small thing\n\n> See how small it is."
SQUARE = '''#| export
def square(
    x: float,  # any number
) -> float:  # its square
    "Multiply `x` by itself."
    return x * x'''


@pytest.fixture
def course(tmp_path: Path) -> Path:
    "A course of one module and an index, with the settings of this one."
    for name in ("pyproject.toml", "settings.ini", "setup.py", "LICENSE"): shutil.copy(ROOT / name, tmp_path / name)
    make_notebook(tmp_path / "nbs" / "index.ipynb", "# The course\n\n> Small.", "[a lesson](0_core/01_core.ipynb)")
    make_notebook(tmp_path / "nbs" / "0_core" / "01_core.ipynb", TITLE, "#| default_exp core", SQUARE, "square(3)")
    return tmp_path
