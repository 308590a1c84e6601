"Make `.github/constraints.txt` anew: the newest versions that fit `settings.ini` together, for every Python and system."
import os
import re
import subprocess
import sys
from pathlib import Path

from house import BIN, CONSTRAINTS, EXE, read_settings, requirements

HEAD = ("# Exact versions for every install (make lab, make test, CI). Made by `make pins`; the ranges stand in "
        "settings.ini.\n")
BY_TORCH = re.compile(r"^(nvidia-|cuda-|triton)")  # torch names these exactly itself, and its CPU build needs none


def main(torch: str = "") -> None:
    env = {**os.environ, "UV_FIND_LINKS": os.environ.get("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", ""))}
    wanted = "\n".join([*requirements(read_settings()), "uv", "setuptools", "wheel", *[f"torch=={torch}"] * bool(torch)])
    flags = "--universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url --no-emit-find-links -q"
    done = subprocess.run([Path(BIN) / f"uv{EXE}", "pip", "compile", "-", *flags.split()], input=wanted, env=env,
                          capture_output=True, text=True)
    if done.returncode: sys.exit(done.stderr)
    lines = [re.sub(r"^(torch==[\d.]+)\+\w+", r"\1", line)  # not the build of this machine
             for line in done.stdout.splitlines() if not BY_TORCH.match(line)]
    Path(CONSTRAINTS).write_text(HEAD + "\n".join(dict.fromkeys(lines)) + "\n", encoding="utf-8", newline="\n")
    print(f"{len(set(lines))} versions pinned")


if __name__ == "__main__": main(*sys.argv[1:])
