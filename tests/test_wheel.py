"The package as others get it: a wheel, installed in an empty environment, imports and says what settings.ini says."
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email.parser import Parser
from pathlib import Path

import house
import pytest
from conftest import ROOT

BIN = Path(sys.executable).parent
UV = shutil.which("uv", path=str(BIN)) or shutil.which("uv")
CFG = ConfigParser(delimiters=["="], interpolation=None)
CFG.read(ROOT / "settings.ini", encoding="utf-8")
IMPORT_ALL = """
import importlib, importlib.metadata, json, pkgutil, course_lib
names = [m.name for m in pkgutil.walk_packages(course_lib.__path__, "course_lib.")]
for name in names: importlib.import_module(name)
print(json.dumps([names, course_lib.__file__, course_lib.__version__, importlib.metadata.version("course_lib")]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    "Built from a copy, so that the checkout stays as it is."
    copy = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "course_lib", copy / "course_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE"): shutil.copy(ROOT / name, copy)
    done = subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."], cwd=copy,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "deprecated" not in done.stdout.lower(), [x for x in done.stdout.splitlines() if "deprecated" in x.lower()]
    built, = (copy / "dist").glob("*.whl")
    return built


def test_every_module_is_in_the_wheel(wheel: Path):
    source = wheel.parents[1]
    here = {p.relative_to(source).as_posix() for p in (source / "course_lib").rglob("*") if p.is_file()}
    inside = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("course_lib/")}
    assert inside == here


def test_its_metadata_are_those_of_settings_ini(wheel: Path):
    archive, cfg = zipfile.ZipFile(wheel), CFG["DEFAULT"]
    folder = f"{cfg['lib_name']}-{cfg['version']}.dist-info/"
    meta = Parser().parsestr(archive.read(folder + "METADATA").decode())
    assert (meta["Name"], meta["Version"], meta["Summary"]) == (cfg["lib_name"], cfg["version"], cfg["description"])
    assert (meta["License-Expression"] or meta["License"]) == cfg["license"] == "Apache-2.0"
    assert any("LICENSE" in n for n in archive.namelist()) and meta["Requires-Python"] == f">={cfg['min_python']}"
    def parts(requirement: str) -> tuple[str, list[str]]:
        return re.split("[<>=]", requirement)[0].lower(), sorted(re.findall(r"[<>=]=?[\d.]+", requirement))
    needs = [parts(r) for r in meta.get_all("Requires-Dist") if "extra ==" not in r]
    assert sorted(needs) == sorted(map(parts, cfg["requirements"].split()))
    extras = {m[1] for r in meta.get_all("Requires-Dist") if (m := re.search(r'extra == "(\w+)"', r))}
    assert extras == {"lab", "dev", "docs", "all"}


@pytest.mark.skipif(UV is None, reason="uv is not in this environment: `make test` installs it")
def test_it_installs_in_an_empty_environment_and_every_module_imports(wheel: Path, tmp_path: Path):
    env = {**os.environ, "UV_FIND_LINKS": os.environ.get("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", ""))}
    for name in ("VIRTUAL_ENV", "PYTHONPATH"): env.pop(name, None)
    if build := house.torch_build(): env["UV_TORCH_BACKEND"] = build  # the build that .venv has, so that it is cached
    python = tmp_path / "empty" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, str(tmp_path / "empty")], check=True, env=env)
    install = [UV, "pip", "install", "-q", "--python", str(python), "-c", str(ROOT / ".github" / "constraints.txt")]
    tries = [[*install, "--offline", str(wheel)], [*install, str(wheel)]]  # what is cached first, then the network
    if os.environ.get("COURSE_VERSIONS") == "newest": tries = [[x for x in tries[1] if x not in install[-2:]]]
    done = [subprocess.run(t, env=env, capture_output=True, text=True) for t in tries[:1]]
    if done[0].returncode: done += [subprocess.run(t, env=env, capture_output=True, text=True) for t in tries[1:]]
    if done[-1].returncode and re.search("dns error|network|fetch", done[-1].stderr):
        pytest.skip("no network, and uv's cache does not hold every requirement")
    assert done[-1].returncode == 0, done[-1].stderr
    run = subprocess.run([str(python), "-c", IMPORT_ALL], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    names, where, said, installed = json.loads(run.stdout)
    here = {n.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            for n in zipfile.ZipFile(wheel).namelist() if n.endswith(".py")}
    assert {*names, "course_lib"} == here and str(tmp_path) in where and said == installed == CFG["DEFAULT"]["version"]
