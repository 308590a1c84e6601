"Every workbook of the course, computed anew: by the `formulas` package, and by LibreOffice where it is installed."
import importlib.util
import shutil
import subprocess
from pathlib import Path

import openpyxl
import pytest

from course_lib.core import cache_dir
from course_lib.sheets.check import check_book, recalculate

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("convolution", "convolution_dropout", "descent", "losses", "linear", "matrices", "factors")
ALWAYS = """<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry"><item oor:path="/org.openoffice.Office.Calc/Formula/Load">
<prop oor:name="OOXMLRecalcMode" oor:op="fuse"><value>0</value></prop></item></oor:items>"""

DATA = ("mnist_10k", "titanic", "movielens")

needs_data = pytest.mark.skipif(not all((cache_dir() / name).is_dir() for name in DATA),
                                reason=f"not all of {', '.join(DATA)} are in the cache")


def books(**options: int) -> dict:
    spec = importlib.util.spec_from_file_location("sheets", ROOT / ".ci" / "sheets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: book for name, _, book in module.workbooks(**options)}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("sheets")
    return {name: (book, book.save(folder / f"{name}.xlsx")) for name, book in books().items()}


@pytest.fixture(scope="module")
def shorter(tmp_path_factory) -> dict:
    "With twelve steps of descent in place of 87: `formulas` is thorough, but slow."
    folder = tmp_path_factory.mktemp("shorter")
    return {name: (book, book.save(folder / f"{name}.xlsx")) for name, book in books(steps=12).items()}


@needs_data
@pytest.mark.parametrize("name", NAMES)
def test_formulas_say_what_numpy_says(shorter, name):
    book, path = shorter[name]
    assert check_book(book, recalculate(path)) > 20


@needs_data
@pytest.mark.skipif(not shutil.which("soffice"), reason="LibreOffice is not installed")
def test_libreoffice_says_the_same(written, tmp_path):
    user = tmp_path / "profile" / "user"
    user.mkdir(parents=True)
    (user / "registrymodifications.xcu").write_text(ALWAYS)  # else it believes the values that are in the file
    out, files = tmp_path / "out", [str(path) for _, path in written.values()]
    subprocess.run(["soffice", "--headless", "--norestore", f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}",
                    "--convert-to", "xlsx:Calc MS Excel 2007 XML", "--outdir", str(out), *files],
                   check=True, capture_output=True, timeout=240)
    for name, (book, _) in written.items():
        again = openpyxl.load_workbook(out / f"{name}.xlsx", data_only=True)
        values = {s.title: {c.coordinate: c.value for row in s.iter_rows() for c in row if c.value is not None}
                  for s in again}
        assert check_book(book, values) > 20


@needs_data
def test_each_workbook_has_no_macro_and_every_sheet_says_what_to_do(written):
    assert set(written) == set(NAMES)
    for book, path in written.values():
        assert path.stat().st_size < 500_000
        for sheet in book.sheets:
            assert sheet.title and (sheet.note or sheet.words), f"{sheet.name} of {path.name} says nothing"
