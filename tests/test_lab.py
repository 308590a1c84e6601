"`make lab` as a reader meets it: one address, no questions, nothing written into the home folder or the checkout."
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT

NOTEBOOK = "nbs/0_core/01_core.ipynb"


class Lab:
    "A running `lab.py`, and its REST interface."

    def __init__(self, root: Path, home: Path):
        env = {**os.environ, "COURSE_ROOT": str(root), "HOME": str(home), "PYTHONUNBUFFERED": "1", "COURSE_PREFETCH": "0"}
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "JUPYTER_TOKEN"): env.pop(name, None)
        args = [sys.executable, str(ROOT / ".ci" / "lab.py"), "--port", "8990", "--no-browser"]
        self.process = subprocess.Popen(args, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        start_new_session=True)
        self.said: list[str] = []
        while "Ctrl-C" not in "".join(self.said[-1:]):
            line = self.process.stdout.readline()
            assert line, "".join(self.said)
            self.said.append(line)
        self.url = re.search(r"http://\S+", "".join(self.said))[0]
        self.base, self.token = self.url.split("/lab/")[0], self.url.split("token=")[1]

    def ask(self, path: str, data: dict | None = None) -> dict:
        request = urllib.request.Request(self.base + path, data=data and json.dumps(data).encode(),
                                         method="PUT" if data else "GET",
                                         headers={"Authorization": f"token {self.token}"})
        return json.load(urllib.request.urlopen(request, timeout=30))


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent in another way there")
def test_lab_opens_at_the_map_and_ends_quietly(course: Path, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    before = (course / NOTEBOOK).read_bytes()
    begun = time.monotonic()
    lab = Lab(course, home)
    try:
        assert len(lab.said) == 2 and lab.said[0].startswith("lab: open this in a browser: http://127.0.0.1:")
        assert "/lab/tree/nbs/index.ipynb?token=" in lab.url and time.monotonic() - begun < 60
        page = urllib.request.urlopen(lab.url, timeout=30).read().decode()
        config = json.loads(re.search(r'id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.S)[1])
        assert config["token"] == lab.token and not config.get("news", {}).get("url")
        model = lab.ask(f"/api/contents/{NOTEBOOK}")
        assert all(c["metadata"].get("trusted", True) for c in model["content"]["cells"])
        model["content"]["metadata"]["language_info"] = {"name": "python", "version": "3.99"}  # as Lab does on opening
        lab.ask(f"/api/contents/{NOTEBOOK}", {"type": "notebook", "format": "json", "content": model["content"]})
        saved = nbformat.read(course / NOTEBOOK, 4)
        assert saved.metadata.language_info == {"name": "python"}
        assert saved.cells == nbformat.reads(before.decode(), 4).cells
    finally: lab.process.send_signal(signal.SIGINT)
    rest, _ = lab.process.communicate(timeout=30)
    assert lab.process.returncode == 0 and rest.strip() == "lab: closed"
    with pytest.raises(OSError): urllib.request.urlopen(lab.base, timeout=3)
    assert not [p for p in home.rglob("*") if p.is_file()]  # not even by npm, which Lab's language servers look for
