"""Kernels from a process that has already imported what most lessons import: a fork of it begins at once.

Importing torch and what its optimizers import takes each notebook three seconds of processor. The forked kernel has run no
cell, knows no name, has its own seeds, folder, environment and process group; no module of the course is loaded.
Linux only: elsewhere, with COURSE_COLD=1, or for one or two notebooks, kernels are started as usual.
"""
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from typing import Any

# Not pandas and not tqdm.auto: on import they look whether they are in a notebook.
LOADED = ("torch", "torch._dynamo", "numpy", "matplotlib.pyplot", "ipykernel.kernelapp")


# --- in the process that is forked ---------------------------------------------------------------------------------

def become_kernel(order: dict[str, Any]) -> None:
    "In the child: its own place in the world, then the kernel's main loop."
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    with open(order["log"], "ab") as log, open(os.devnull, "rb") as nothing:
        for target, source in ((0, nothing), (1, log), (2, log)): os.dup2(source.fileno(), target)
    import random

    import numpy as np
    import torch
    random.seed()
    np.random.seed()
    torch.seed()
    sys.argv = [*order["argv"], f"--IPKernelApp.parent_handle={os.getppid()}"]  # it ends when its parent does
    from ipykernel import kernelapp
    kernelapp.launch_new_instance()


def bury(*_: Any) -> None:
    "Take note of children that have ended, so that their processor time is counted."
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]: pass


def serve() -> None:
    "Import, then fork a kernel for each line that comes; ends with its input."
    signal.signal(signal.SIGCHLD, bury)
    sys.path.remove(os.path.dirname(os.path.abspath(__file__)))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in LOADED: __import__(name)
    if early := {"course_lib", "pandas", "tqdm.auto", "ipywidgets"} & sys.modules.keys(): sys.exit(f"too early: {early}")
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            answers.close()
            become_kernel(json.loads(line))
            os._exit(0)
        print(pid, file=answers, flush=True)


# --- in the process that runs notebooks ----------------------------------------------------------------------------

class Forked:
    "A process that is a child of another: what jupyter_client wants of a Popen."
    stdin = stdout = stderr = None

    def __init__(self, pid: int): self.pid, self.fd = pid, os.pidfd_open(pid)

    def poll(self) -> int | None:
        return 0 if self.fd is None or select.select([self.fd], [], [], 0)[0] else None

    def wait(self) -> int:
        if self.fd is not None:
            select.select([self.fd], [], [])
            os.close(self.fd)
            self.fd = None
        return 0

    def send_signal(self, number: int) -> None:
        if self.poll() is None: signal.pidfd_send_signal(self.fd, number)

    def kill(self) -> None: self.send_signal(signal.SIGKILL)

    def terminate(self) -> None: self.send_signal(signal.SIGTERM)


class Nursery:
    "The process that is forked, and a lock, since two notebooks may ask at once."

    def __init__(self, env: dict[str, str]):
        env = {**env, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # read when matplotlib is imported
        self.process = subprocess.Popen([sys.executable, __file__], env=env, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.lock = threading.Lock()

    @classmethod
    def start(cls, env: dict[str, str], n: int) -> "Nursery | None":
        "For `n` notebooks; None where it is not worth while, or not possible."
        usable = sys.platform == "linux" and hasattr(os, "pidfd_open") and not os.environ.get("COURSE_COLD")
        return cls(env) if usable and n > 2 else None

    def launch(self, cmd: list[str], cwd: str, env: dict[str, str], log: str) -> Forked:
        "A kernel by the command that would start it in a process of its own."
        argv = cmd[cmd.index("ipykernel_launcher"):]
        try:
            with self.lock:
                print(json.dumps(dict(argv=argv, cwd=cwd, env=env, log=log)), file=self.process.stdin, flush=True)
                return Forked(int(self.process.stdout.readline()))
        except (OSError, ValueError) as error:
            raise RuntimeError(f"no kernel could be forked ({error}): COURSE_COLD=1 starts them one by one") from error

    def close(self) -> None:
        with contextlib.suppress(OSError): self.process.stdin.close()
        self.process.wait(10)


def provisioner(nursery: Nursery, log: str, **options: Any) -> Any:
    "What jupyter_client starts its kernel with: a child of the nursery."
    from jupyter_client.provisioning import LocalProvisioner

    class ForkProvisioner(LocalProvisioner):
        async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> dict:
            self.process = nursery.launch(cmd, str(kwargs["cwd"]), kwargs["env"], log)
            self.pid = self.pgid = self.process.pid
            self.cwd = kwargs["cwd"]
            return self.connection_info
    return ForkProvisioner(**options)


if __name__ == "__main__": serve()
