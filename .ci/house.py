"""The door of the house: makes the environment, then runs what was asked for in it.

    python .ci/house.py lab | test | docs | data | ... [arguments]

Runs under any Python from 3.6 on, so that an old one is told so in one line, and needs nothing but the standard
library. `make` calls it; where there is no make (Windows) call it yourself.
"""
import difflib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from configparser import ConfigParser

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
BIN = os.path.join(VENV, "Scripts" if os.name == "nt" else "bin")
EXE = ".exe" if os.name == "nt" else ""
VENV_PYTHON = os.path.join(BIN, "python" + EXE)
STAMP = os.path.join(VENV, "course_lib.stamp")
CONSTRAINTS = os.path.join(ROOT, ".github", "constraints.txt")
DISK_GB = 4  # the environment, measured with the CPU build of torch, and room to unpack it


def say(message):
    print("house: " + message, flush=True)


def stop(message):
    "End with one clear line."
    sys.exit("house: " + message)


def read_settings(path=""):
    parser = ConfigParser(delimiters=["="], interpolation=None)
    parser.read(path or os.path.join(ROOT, "settings.ini"), encoding="utf-8")
    return parser["DEFAULT"]


def requirements(cfg):
    "Everything that the house needs, in one list: the package's own requirements and all extras."
    return [r for key in cfg for r in cfg[key].split() if key.endswith("requirements")]


def fingerprint(wanted):
    "Changes when the environment has to be made anew."
    with open(CONSTRAINTS, "rb") as f:
        pins = f.read() if wanted["pinned"] else b"newest"
    words = [sys.version, ROOT, wanted["torch"], " ".join(wanted["requirements"])]
    with open(os.path.join(ROOT, "setup.py"), "rb") as f:
        return hashlib.sha256("\n".join(words).encode() + pins + f.read()).hexdigest()


def torch_build():
    "Which build of torch to ask for: '' leaves it to the index, 'cpu' asks for the small build."
    if os.environ.get("UV_TORCH_BACKEND") or sys.platform == "darwin":
        return os.environ.get("UV_TORCH_BACKEND", "")
    if shutil.which("nvidia-smi"):
        return "auto" if os.name == "nt" else ""  # PyPI has CUDA builds for Linux only
    links = os.environ.get("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", "")).split()
    has_wheel = any(os.path.isdir(d) and any(f.startswith("torch-") for f in os.listdir(d)) for d in links)
    return "" if has_wheel else "cpu"


def too_old(cfg):
    return sys.version_info[:2] < tuple(int(n) for n in cfg["min_python"].split("."))


def newer_python(cfg):
    "A Python on this machine that is new enough, '' if none is found."
    least = int(cfg["min_python"].split(".")[1])
    for minor in range(14, least - 1, -1):
        found = shutil.which("python3.%d" % minor)
        ask = [found, "-c", "import sys, venv; print(sys.version_info[1])"]
        if found and subprocess.run(ask, stdout=subprocess.PIPE, stderr=subprocess.PIPE).returncode == 0:
            return found
    return ""


def check_machine(cfg):
    "Say at once, in one line, what would otherwise fail in the middle."
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < DISK_GB:
        stop("%.1f GB free on the disk of %s; the environment needs %d GB: make room and run this again"
             % (free, ROOT, DISK_GB))
    if not os.access(ROOT, os.W_OK):
        stop("%s can't be written to: copy the course to a folder of your own and run this there" % ROOT)


def run_quietly(command, what, env=None):
    "Run a step of the installation; its output is shown only if it fails."
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True)
    if done.returncode == 0:
        return True
    tail = done.stdout.strip().splitlines()[-10:]
    offline = ("dns error", "Temporary failure", "Failed to fetch", "Connection refused", "No matching distribution",
               "timed out", "Network is unreachable", "Name or service not known", "Failed to establish",
               "network was disabled", "error sending request", "tcp connect error")
    full = any("No space left" in line for line in tail)
    net = any(mark in line for mark in offline for line in tail)
    why = "the disk is full" if full else "the package index can't be reached (no network?)" if net else "see above"
    if not (full or net):
        print("\n".join("    " + line for line in tail), flush=True)
    say("%s failed: %s" % (what, why))
    return False


def pin_of(name):
    "The exact version of a package in the constraints file, as a requirement."
    with open(CONSTRAINTS, encoding="utf-8") as f:
        return next((line.split(";")[0].strip() for line in f if line.startswith(name + "==")), name)


def make_environment(wanted):
    "A fresh `.venv` with everything in it, the package itself editable, and the notebook kernel."
    say("making .venv with Python %s (once; about a minute, and 1 GB to fetch)" % sys.version.split()[0])
    python = own_python()
    shutil.rmtree(VENV, ignore_errors=True)
    try:
        import ensurepip  # noqa: F401  (Debian and Ubuntu ship Python without it)
    except ImportError:
        stop("this Python has no venv module: on Debian and Ubuntu `apt install python3-venv`, then run this again")
    ok = run_quietly([python, "-m", "venv", VENV], "making the environment")
    ok = ok and run_quietly([VENV_PYTHON, "-m", "pip", "install", "-q", "--retries", "2", pin_of("uv")], "installing uv")
    if not ok:
        stop("nothing was installed; mend that and run this again")
    env = dict(os.environ, VIRTUAL_ENV=VENV, UV_NO_CONFIG="1", UV_LINK_MODE=os.environ.get("UV_LINK_MODE", "copy"))
    if "PIP_FIND_LINKS" in env:  # pip's setting; uv has its own name for it
        env.setdefault("UV_FIND_LINKS", env["PIP_FIND_LINKS"])
    if wanted["torch"]:
        env["UV_TORCH_BACKEND"] = wanted["torch"]
    install = [os.path.join(BIN, "uv" + EXE), "pip", "install", "-q", "--python", VENV_PYTHON]
    install += ["-c", CONSTRAINTS] if wanted["pinned"] else ["--upgrade"]
    install += wanted["requirements"] + ["setuptools", "wheel"]
    if not run_quietly(install, "installing the packages", env):
        if not wanted["torch"] or "UV_TORCH_BACKEND" in os.environ:
            stop("the environment is not complete; mend that and run this again")
        say("trying once more without the CPU-only index of torch (on Linux this build is 2 GB larger)")
        del env["UV_TORCH_BACKEND"]
        if not run_quietly(install, "installing the packages", env):
            stop("the environment is not complete; mend that and run this again")
    here = [VENV_PYTHON, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", "."]
    kernel = [VENV_PYTHON, "-m", "ipykernel", "install", "--sys-prefix", "--name", "python3",
              "--display-name", "course_lib"]
    if not (run_quietly(here, "installing course_lib") and run_quietly(kernel, "registering the kernel")):
        stop("the environment is not complete; mend that and run this again")
    with open(STAMP, "w") as f:
        f.write(fingerprint(wanted))


def own_python():
    "The Python to build with: not the one inside .venv, which is about to be moved away."
    return getattr(sys, "_base_executable", sys.executable) if sys.prefix == VENV else sys.executable


def is_made(wanted):
    "Is the environment there, and the one that is wanted?"
    if not (os.path.exists(STAMP) and os.path.exists(VENV_PYTHON)):
        return False
    with open(STAMP) as f:
        return f.read() == fingerprint(wanted)


def wait_for_others():
    "One call at a time makes the environment; the system lets go of the lock when that call ends, however it ends."
    name = "course_lib-%s.lock" % hashlib.sha256(VENV.encode()).hexdigest()[:16]
    lock = open(os.path.join(tempfile.gettempdir(), name), "a")
    try:
        import fcntl
        fcntl.flock(lock, fcntl.LOCK_EX)
    except ImportError:  # Windows
        import msvcrt
        while True:
            try:
                msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
                break
            except OSError:
                time.sleep(1)
    return lock


def environment(cfg):
    "Make the environment if it is not there or no longer what is wanted; a tenth of a second if it is."
    wanted = dict(requirements=requirements(cfg), torch=torch_build(),
                  pinned=os.environ.get("COURSE_VERSIONS", "pinned") != "newest")
    if is_made(wanted):
        return
    with wait_for_others():
        if not is_made(wanted):
            check_machine(cfg)
            replace_environment(wanted)


def replace_environment(wanted):
    "Make the environment; if that fails and there was a whole one, that one stays in use."
    old = os.path.join(ROOT, "build", "venv.old")
    shutil.rmtree(old, ignore_errors=True)
    whole = os.path.exists(STAMP) and os.path.exists(VENV_PYTHON)
    if whole:
        say("what .venv should hold has changed")
        os.makedirs(os.path.dirname(old), exist_ok=True)
        os.rename(VENV, old)
    try:
        make_environment(wanted)
    except (SystemExit, KeyboardInterrupt, OSError) as error:
        if not whole:
            raise
        shutil.rmtree(VENV, ignore_errors=True)
        os.rename(old, VENV)
        if isinstance(error, KeyboardInterrupt):
            raise
        print("%s\nhouse: going on with the environment as it was" % error, flush=True)
    shutil.rmtree(old, ignore_errors=True)


def call(command, env=None):
    "Run a command to its end; Ctrl-C reaches it directly, and it is given the time to end well."
    process = subprocess.Popen(command, cwd=ROOT, env=env)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            pass


def commands():
    "What can be asked for: name -> scripts to run, one after another, with their own arguments."
    bench = os.path.join(ROOT, "bench")
    races = sorted(f for f in os.listdir(bench) if f.endswith(".py") and f[0] != "_") if os.path.isdir(bench) else []
    tools = dict(lab="lab", test="check", run="notebooks", export="export", style="style", docs="docs",
                 browser="browser", sheets="sheets", pins="pins")
    found = {name: [os.path.join(".ci", tool + ".py")] for name, tool in tools.items()}
    found.update(data=["data_download.py"], bench=[os.path.join("bench", f) for f in races], env=[])
    return found


def main(args):
    known = commands()
    name = args[0] if args else "lab"
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        stop("no command %r%s; there are: %s" % (name, ", did you mean %r?" % close[0] if close else "", ", ".join(known)))
    cfg = read_settings()
    if too_old(cfg):
        newer = newer_python(cfg)
        if not newer:
            stop("this is Python %s; %s or newer is needed: install it, then `make PYTHON=python%s %s`"
                 % (sys.version.split()[0], cfg["min_python"], cfg["min_python"], name))
        say("this is Python %s, which is too old; going on with %s" % (sys.version.split()[0], newer))
        return call([newer, os.path.abspath(__file__)] + args)
    try:
        environment(cfg)
    except KeyboardInterrupt:
        stop("interrupted; the environment is made anew next time")
    env = dict(os.environ, PATH=BIN + os.pathsep + os.environ.get("PATH", ""), VIRTUAL_ENV=VENV)
    if env.pop("PYTHONDONTWRITEBYTECODE", ""):  # no compiled files beside the sources, but importing torch ten times over
        env["PYTHONPYCACHEPREFIX"] = os.path.join(VENV, "pycache")  # needs them somewhere
    env.setdefault("PYTHONUTF8", "1")  # Windows would write and read in a code page of 256 letters
    for place in ("COURSE_DATA", "COURSE_RESULTS"):
        if env.get(place):  # kernels run in folders of their own
            env[place] = os.path.abspath(os.path.expanduser(env[place]))
    env.pop("PYTHONPATH", None)
    env.pop("PYTHONHOME", None)
    if name == "bench" and not known[name]:
        say("bench/ holds no race yet")
    return max([call([VENV_PYTHON, os.path.join(ROOT, script)] + args[1:], env) for script in known[name]] or [0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
