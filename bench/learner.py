"""The training loop beside a raw loop and, where they are installed, beside accelerate, fastai and Lightning.

    python bench/learner.py        (or `make bench`)
"""
import contextlib
import io
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module

import torch
from _race import race
from loaders import by_slices
from torch import nn
from torch.nn import functional as F

from course_lib.core import set_seed
from course_lib.data.loaders import TensorLoader
from course_lib.foundations.sgd import accuracy
from course_lib.training.callbacks import Metrics, Progress
from course_lib.training.learner import Learner
from course_lib.training.loop import Callback, Hooks, Run, train_epoch
from course_lib.training.steps import Output, Update

N, N_VALID = 30_000, 5_000
set_seed(42)
X, Y = torch.rand(N, 784), torch.randint(10, (N,))
VALID = list(TensorLoader(torch.rand(N_VALID, 784), torch.randint(10, (N_VALID,)), bs=128))


def net() -> nn.Module:
    set_seed(42)
    return nn.Sequential(nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))


class Batches:
    "A list that Lightning does not take for several loaders."
    def __init__(self, batches: list): self.batches = batches
    def __len__(self) -> int: return len(self.batches)
    def __iter__(self): return iter(self.batches)


def quiet(work: Callable[[], object]) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()): work()


def raw(dl, full: bool) -> int:
    "What is the least that must be done: with `full`, running loss and accuracy as tensors, no bar."
    model = net()
    opt, total = torch.optim.SGD(model.parameters(), lr=0.1), torch.zeros(())
    for xb, yb in dl:
        loss = F.cross_entropy(model(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()
        if full: total += loss.detach()
    if full:
        hits = torch.zeros(())
        with torch.no_grad():
            for xb, yb in VALID:
                pred = model(xb)
                total += F.cross_entropy(pred, yb)
                hits += (pred.argmax(1) == yb).sum()
    return N


def ours(dl, full: bool) -> int:
    callbacks = [Metrics(accuracy), Progress()] if full else []
    learn = Learner(net(), (dl, VALID if full else None), F.cross_entropy, opt=torch.optim.SGD, callbacks=callbacks, device="cpu")
    quiet(lambda: learn.fit(1, 0.1))
    return N


def with_accelerate(dl, full: bool) -> int:
    from accelerate import Accelerator
    accelerator, model = Accelerator(cpu=True), net()
    model, opt = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    total = torch.zeros(())
    for xb, yb in dl:
        loss = F.cross_entropy(model(xb), yb)
        accelerator.backward(loss)
        opt.step()
        opt.zero_grad()
        if full: total += loss.detach()
    if full:
        with torch.no_grad():
            for xb, yb in VALID: accelerator.gather_for_metrics((model(xb).argmax(1) == yb).sum())
    return N


def with_fastai(dl, full: bool) -> int:
    from fastai.basics import DataLoaders, Recorder
    from fastai.basics import Learner as Theirs
    from fastai.callback.progress import ProgressCallback
    from fastai.metrics import accuracy as theirs
    from fastai.optimizer import OptimWrapper
    learn = Theirs(DataLoaders(dl, VALID), net(), loss_func=F.cross_entropy, lr=0.1, metrics=[theirs] if full else [])
    learn.opt_func = partial(OptimWrapper, opt=torch.optim.SGD)
    if not full: learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, (Recorder, ProgressCallback))])
    quiet(lambda: learn.fit(1))
    return N


def with_lightning(dl, full: bool) -> int:
    import lightning as L
    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net()
        def training_step(self, batch, i):
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            if full: self.log("loss", loss, prog_bar=True)
            return loss
        def validation_step(self, batch, i):
            if full: self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean(), batch_size=len(batch[0]))
        def configure_optimizers(self): return torch.optim.SGD(self.parameters(), lr=0.1)
    options = dict(logger=False, enable_checkpointing=False, enable_model_summary=False) if full else dict(barebones=True)
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", **options)
    quiet(lambda: trainer.fit(Module(), Batches(dl), Batches(VALID) if full else None))
    return N


PEERS = {"accelerate": with_accelerate, "fastai.basics": with_fastai, "lightning": with_lightning}


def can_import(name: str) -> bool:
    try: import_module(name)
    except Exception as error:  # not only missing: some break on parts that do not fit together
        print(f"{name} is left out: {type(error).__name__}: {error}")
        return False
    return True


class Nothing(Callback):
    def before_batch(self, run: Run) -> None: pass
    def after_batch(self, run: Run) -> None: pass


class Idle(Update):
    def backward(self, loss: torch.Tensor) -> None: pass
    def step(self) -> bool: return True


def stub(n_callbacks: int, batches: int = 1000) -> float:
    "Microseconds of a batch in which nothing is computed."
    model, out = nn.Linear(1, 1), Output(torch.ones((), requires_grad=True))
    dl, hooks, times = [(torch.ones(1), torch.ones(1))] * batches, Hooks([Nothing() for _ in range(n_callbacks)]), []
    for _ in range(25):
        begun = time.process_time()
        train_epoch(Run(model), dl, lambda model, batch: out, Idle(None), hooks)
        times.append(time.process_time() - begun)
    return statistics.median(times) / batches * 1e6


def import_seconds(name: str) -> float:
    code = f"import time, {name}; print(time.process_time())"
    return min(float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                                    env={**os.environ, "OMP_NUM_THREADS": "1"}).stdout) for _ in range(4))


def say(what: str, value: float, goal: float, unit: str) -> None:
    print(f"  {'met ' if value <= goal else 'MISSED'}  {what}: {value:.2f} {unit}, the goal is at most {goal:g}")


def main() -> None:
    torch.set_num_threads(1)
    here = {name: run for name, run in PEERS.items() if can_import(name)}
    batches = list(TensorLoader(X, Y, bs=64))
    contestants = {"raw loop": raw, "course_lib": ours, **here}
    for mode, goal in (("bare", 1.05), ("full", 1.15)):
        full = mode == "full"
        entries = {name: lambda run=run, full=full: run(batches, full) for name, run in contestants.items()}
        race(f"one epoch, net 784-50-10, SGD, {len(batches)} batches of 64 that lie ready, {mode}", entries, "raw loop",
             {"course_lib": (goal, "raw loop")})
        race(f"the same with loaders of their own, {mode}", {
            "raw loop, x[idx]": lambda full=full: raw(by_slices(X, Y, 64), full),
            "course_lib": lambda full=full: ours(TensorLoader(X, Y, bs=64, shuffle=True), full),
        }, "raw loop, x[idx]", {"course_lib": (1.05, "raw loop, x[idx]")})
    print("\none batch in which nothing is computed")
    alone, ten = stub(0), stub(10)
    say("the loop", alone, 5, "us")
    say("a callback that does nothing", (ten - alone) / 10, 1, "us")
    print("\nimport")
    say("course_lib.training.learner / torch", import_seconds("course_lib.training.learner") / import_seconds("torch"), 1.15,
        "times")


if __name__ == "__main__": main()
