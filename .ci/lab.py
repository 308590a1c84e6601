"""JupyterLab at the map of the lessons (`make lab`). Settings, workspaces and histories stay inside .venv.

    python .ci/lab.py [notebook] [--no-browser] [--port N]
"""
import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path

from nb import ROOT, notebooks, read
from prefetch import by_function, data_of, prefetch

HOME = Path(sys.prefix) / "share" / "course_lab"
QUIET = {"@jupyterlab/apputils-extension/notification.jupyterlab-settings":
         {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": False}}


def say(message: str) -> None:
    print(f"lab: {message}", flush=True)


def first_lesson_data(root: Path) -> None:
    "The data of the first lesson, so that it runs on a train too; what can't be had is only said."
    from course_lib.data.download import is_cached
    lesson = next((p for p in notebooks(root) if p.parent.parent == root / "nbs" and p.parent.name != "0_core"), None)
    names = data_of(read(lesson), by_function(root)) if lesson else set()
    missing = sorted(n for n in names if not is_cached(n))
    if not missing: return
    say(f"fetching the data of the first lesson: {', '.join(missing)} (once)")
    for note in prefetch([lesson], root): say(note)


def trust(root: Path) -> None:
    "The saved outputs of the course's own notebooks are shown as they are."
    from nbformat.sign import NotebookNotary
    notary = NotebookNotary(data_dir=str(HOME / "data"))
    for path in notebooks(root): notary.sign(read(path))


def environment() -> dict[str, str]:
    "Where Jupyter and the kernels keep their things: inside .venv, and nothing of the reader's own."
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
              "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython"}
    for folder in places.values(): (HOME / folder).mkdir(parents=True, exist_ok=True)
    for name, value in QUIET.items():
        path = HOME / "settings" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value), encoding="utf-8")
    env = {**os.environ, **{name: str(HOME / folder) for name, folder in places.items()}}
    env.pop("MPLBACKEND", None)
    return env


def free_port(wanted: int) -> int:
    "The first free port from `wanted` on."
    for port in range(wanted, wanted + 100):
        with socket.socket() as s:
            if os.name != "nt": s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one just closed is free
            try: s.bind(("127.0.0.1", port))
            except OSError: continue
            return port
    sys.exit(f"lab: no free port from {wanted} to {wanted + 99}")


def has_screen() -> bool:
    "Is there a screen on which a browser could open?"
    if os.environ.get("SSH_CONNECTION"): return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def command(port: int, root: Path) -> list[str]:
    root_user = hasattr(os, "geteuid") and os.geteuid() == 0
    return [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ServerApp.port_retries=0",
            "--ip=127.0.0.1", f"--ServerApp.root_dir={root}", f"--config={Path(__file__).with_name('lab_config.py')}",
            "--log-level=ERROR", *(["--allow-root"] if root_user else [])]


def wait_until_up(process: subprocess.Popen, base: str, log: Path, seconds: float = 90) -> None:
    "Return when the server answers; end with its own words if it does not."
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try: return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{base}/api", timeout=5).close()
        except (urllib.error.URLError, OSError): time.sleep(0.1)
    process.terminate()
    print("\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-10:]))
    sys.exit("lab: JupyterLab did not start; see above")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebook", nargs="?", default="nbs/index.ipynb")
    parser.add_argument("--no-browser", action="store_true")
    parser.add_argument("--port", type=int, default=8888)
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    token = os.environ.get("JUPYTER_TOKEN") or secrets.token_hex(16)
    port, page = free_port(args.port), args.notebook if (ROOT / args.notebook).exists() else "nbs"
    base = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "log"
        with log.open("w") as sink:
            process = subprocess.Popen(command(port, ROOT), cwd=ROOT, env=environment() | {"JUPYTER_TOKEN": token},
                                       stdout=sink, stderr=sink, start_new_session=True)
        try:
            trust(ROOT)
            first_lesson_data(ROOT)
            wait_until_up(process, base, log)
            url = f"{base}/lab/tree/{page}?token={token}"
            opened = has_screen() and not args.no_browser and webbrowser.open(url)
            say(("the lessons are open in your browser; " if opened else "open this in a browser: ") + url)
            say("Ctrl-C ends it")
            return process.wait()
        except KeyboardInterrupt:
            print()
            say("closed")
            return 0
        finally:
            process.terminate()
            try: process.wait(15)
            except subprocess.TimeoutExpired: process.kill()


if __name__ == "__main__": sys.exit(main())
