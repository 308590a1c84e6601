"The training loop where no notebook can test it: cost of a step, cost of the import, a process that is really killed."
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_lib.core import set_seed
from course_lib.data.loaders import TensorLoader
from course_lib.training.callbacks import Metrics, Progress, Recorder, _text
from course_lib.training.checkpoint import Checkpoint
from course_lib.training.learner import Learner, load_tensors, save_tensors
from course_lib.training.loop import EVENTS, Callback, Hooks, Run, fire, fitting, train_epoch
from course_lib.training.steps import Accumulate, Output, Update, supervised, to_device

ROOT = Path(__file__).resolve().parents[1]
TRAINING = ("steps", "loop", "callbacks", "learner", "checkpoint", "hooks", "initialization", "normalization", "optim",
            "feedback", "schedules", "regularization")


# --- what it costs ---------------------------------------------------------------------------------------------------

class Idle(Update):
    def backward(self, loss: torch.Tensor) -> None: pass
    def step(self) -> bool: return True


class Nothing(Callback):
    def before_batch(self, run: Run) -> None: pass
    def after_batch(self, run: Run) -> None: pass


def per_step(callbacks: list[Callback], batches: int = 300, repeats: int = 100) -> float:
    "Microseconds of processor time for a batch in which nothing is computed: the best of many short repeats."
    model, out = nn.Linear(1, 1), Output(torch.ones((), requires_grad=True))
    dl, hooks, best = [(torch.ones(1), torch.ones(1))] * batches, Hooks(callbacks), float("inf")
    for _ in range(repeats):
        begun = time.process_time()
        train_epoch(Run(model), dl, lambda model, batch: out, Idle(None), hooks)
        best = min(best, time.process_time() - begun)
    return best / batches * 1e6


def yardstick() -> float:
    "How much slower a fixed piece of Python runs here and now than where the limits were set; at least 1."
    best = float("inf")
    for _ in range(30):
        begun = time.process_time()
        for i in range(20_000): isinstance(i, str)
        best = min(best, time.process_time() - begun)
    return max(1.0, best / 20_000 * 1e6 / 0.045)


def soon(check, tries: int = 6) -> None:
    "A measurement may be disturbed several times in a row, but not always."
    for i in range(tries):
        try: return check()
        except AssertionError:
            if i == tries - 1: raise
            time.sleep(1)


def test_a_step_costs_at_most_five_microseconds():
    def check() -> None:
        room = yardstick()
        cost, room = per_step([]), max(room, yardstick())
        assert cost <= 5 * room, f"{cost:.2f} us a step; this machine is {room:.2f} times slower than where it was set"
    soon(check)


def test_a_callback_that_does_nothing_costs_at_most_one_microsecond():
    def check() -> None:
        cost = (per_step([Nothing() for _ in range(10)]) - per_step([])) / 10
        assert cost <= yardstick(), f"{cost:.2f} us a batch and callback"
    soon(check)


def cpu_of(code: str) -> float:
    "Processor seconds of a fresh Python that runs this."
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code = f"import time\n{code}\nprint(time.process_time())"
    return float(subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout)


def test_the_import_costs_little_beyond_torch():
    pairs = []
    for _ in range(9):
        pairs.append((cpu_of("import torch"), cpu_of("import course_lib.training.learner")))
        ratio = min(b for _, b in pairs) / min(a for a, _ in pairs)
        if len(pairs) > 1 and ratio <= 1.15: return
    pytest.fail(f"import course_lib.training.learner takes {ratio:.2f} times as long as import torch, at most 1.15")


def test_nothing_heavy_is_imported_with_the_learner():
    heavy = ["matplotlib", "pandas", "sklearn", "IPython", "safetensors"]
    modules = ", ".join(f"course_lib.training.{name}" for name in TRAINING)
    code = f"import {modules}, sys; print([m for m in {heavy} if m in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout.strip() == "[]"


# --- a process that is really killed ---------------------------------------------------------------------------------

SCRIPT = textwrap.dedent("""
    import os, random, signal, sys
    import numpy as np, torch
    from torch import nn
    from torch.nn import functional as F
    from course_lib.core import set_seed
    from course_lib.data.loaders import make_loaders
    from course_lib.training.checkpoint import Checkpoint
    from course_lib.training.learner import Learner
    from course_lib.training.loop import Callback

    where, die_at, final = sys.argv[1], int(sys.argv[2]), sys.argv[3]

    class Die(Callback):
        def after_batch(self, run):
            if run.step == die_at: os.kill(os.getpid(), signal.SIGKILL)

    class Noise(Callback):
        "Uses the random numbers of all three."
        def before_batch(self, run):
            xb, yb = run.batch
            run.batch = (xb + 0.01 * random.random() + 0.01 * np.random.rand() + 0.01 * torch.randn_like(xb), yb)

    set_seed(1)
    x = torch.randn(600, 20)
    y = (x @ torch.randn(20, 4)).argmax(1)
    net = nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4))
    learn = Learner(net, make_loaders((x, y), (x[:100], y[:100]), bs=20), F.cross_entropy, device="cpu")
    watch = [Noise(), Checkpoint(where, 7, learn.recorder), Die()] if where else [Noise()]
    learn.fit_one_cycle(3, 0.01, callbacks=watch)
    learn.save(final)
""")


def run_script(checkpoint: Path | str, die_at: int, final: Path) -> int:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", SCRIPT, str(checkpoint), str(die_at), str(final)], env=env).returncode


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, torch.Tensor]:
    "The weights of the fit that nobody kills."
    final = tmp_path_factory.mktemp("whole") / "net"
    assert run_script("", 0, final) == 0
    return load_tensors(final)[0]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("die_at", [3, 44, 60])  # before the first writing, within an epoch, at the end of one
def test_a_killed_fit_is_resumed_bit_for_bit(tmp_path, whole, die_at):
    kept, never, final = (tmp_path / name for name in ("fit.safetensors", "never", "resumed"))
    assert run_script(kept, die_at, never) == -signal.SIGKILL and not never.exists()
    assert run_script(kept, 0, final) == 0
    resumed = load_tensors(final)[0]
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    assert load_tensors(kept)[1]["step"] == 90 and len(load_tensors(kept)[1]["recorder"]["losses"]) == 90


def test_a_file_that_is_being_written_never_replaces_a_whole_one(tmp_path, monkeypatch):
    path = save_tensors(tmp_path / "a.safetensors", {"w": torch.ones(3)}, {"n": 1})
    def no_space(*_): raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"): save_tensors(path, {"w": torch.zeros(3)}, {"n": 2})
    tensors, about = load_tensors(path)
    assert about == {"n": 1} and torch.equal(tensors["w"], torch.ones(3))


def test_loaded_tensors_do_not_change_with_the_file(tmp_path):
    path = save_tensors(tmp_path / "a.safetensors", {"w": torch.ones(3)}, {})
    tensors, _ = load_tensors(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(tensors["w"], torch.ones(3))


# --- odd cases -------------------------------------------------------------------------------------------------------

def learner(**options) -> Learner:
    set_seed(0)
    x, y = torch.randn(64, 4), torch.arange(64) % 3
    dls = (TensorLoader(x, y, bs=16, shuffle=True), TensorLoader(x, y, bs=16))
    return Learner(nn.Linear(4, 3), dls, F.cross_entropy, device="cpu", **options)


def test_every_after_fit_is_called_even_if_others_fail():
    heard = []
    class Bad(Callback):
        def after_fit(self, run): heard.append("bad"); raise KeyError("late")
    class Good(Callback):
        def after_fit(self, run): heard.append("good")
    class Early(Callback):
        def before_fit(self, run): raise ValueError("early")
    with pytest.raises(KeyError): learner(callbacks=[Bad(), Good()]).fit(1)
    assert heard == ["bad", "good"]
    with pytest.raises(ValueError, match="early"): learner(callbacks=[Early(), Good()]).fit(1)
    assert heard == ["bad", "good", "good"]


def test_an_error_keeps_its_type_and_gets_a_note():
    class Bad(Callback):
        def after_batch(self, run): raise LookupError("mine")
    with pytest.raises(LookupError) as caught: learner(callbacks=[Bad()]).fit(1)
    assert caught.value.__notes__ == ["raised in Bad.after_batch, epoch 0, step 1"]


def test_ctrl_c_runs_after_fit_and_the_learner_goes_on():
    class CtrlC(Callback):
        done = False
        def after_batch(self, run): raise KeyboardInterrupt
        def after_fit(self, run): self.done = True
    watch, learn = CtrlC(), learner()
    with pytest.raises(KeyboardInterrupt): learn.fit(1, callbacks=[watch])
    assert watch.done and len(learn.recorder.losses) == 1
    learn.fit(1)
    assert len(learn.recorder.losses) == 5


@pytest.mark.parametrize("name", ["after_bacth", "befor_fit", "afterbatch", "after_train_batch", "on_epoch_end", "before_step"])
def test_a_misspelt_event_is_refused_with_a_guess(name):
    with pytest.raises(TypeError, match="did you mean"): type("Mine", (Callback,), {name: lambda self, run: None})


@pytest.mark.parametrize("name", ["rows", "plot", "afterwards", "state", "mean", "_after_batch", "fit", "batch"])
def test_other_methods_are_free(name):
    type("Mine", (Callback,), {name: lambda self: None})


def test_hooks_follow_inheritance_and_order():
    class First(Callback):
        def after_batch(self, run): run.row.setdefault("heard", []).append(type(self).__name__)
    class Second(First): pass
    hooks, run = Hooks([Second(), First()]), Run(nn.Linear(1, 1))
    fire(hooks.after_batch, run)
    assert run.row["heard"] == ["Second", "First"]
    assert [e for e in EVENTS if getattr(hooks, e)] == ["after_batch"]


def test_lists_mappings_and_named_tuples_keep_their_kind():
    from collections import namedtuple
    Pair = namedtuple("Pair", "a b")
    moved = to_device(Pair(torch.ones(1), {"x": [torch.ones(2), 3]}), "meta")
    assert type(moved) is Pair and moved.b["x"][0].device.type == "meta" and moved.b["x"][1] == 3


def test_a_loader_without_a_length_and_without_validation():
    def batches():
        for _ in range(3): yield torch.randn(8, 4), torch.zeros(8, dtype=torch.long)
    class Stream:
        def __iter__(self): return batches()
    learn = Learner(nn.Linear(4, 3), (Stream(), None), F.cross_entropy, device="cpu").fit(2)
    assert len(learn.recorder.losses) == 6 and "valid_loss" not in learn.recorder.rows[0]


def test_a_torch_dataloader_is_as_good_and_resumes(tmp_path):
    from torch.utils.data import DataLoader, TensorDataset
    def made() -> Learner:
        set_seed(3)
        data = TensorDataset(torch.randn(64, 4), torch.arange(64) % 3)
        return Learner(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.2)), (DataLoader(data, 8, shuffle=True), None),
                       F.cross_entropy, device="cpu")
    class Cut(Callback):
        def after_batch(self, run):
            if run.step == 11: raise OSError
    whole, path = made().fit(2, 0.01), tmp_path / "fit.safetensors"
    with pytest.raises(OSError): made().fit(2, 0.01, callbacks=[Cut(), Checkpoint(path, 2)])
    torch.rand(5)
    back = made().fit(2, 0.01, callbacks=[Checkpoint(path, 2)])
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), back.model.parameters()))


@pytest.mark.parametrize("opt", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adadelta"])
def test_every_optimizer_of_torch_is_resumed(tmp_path, opt):
    class Cut(Callback):
        def after_batch(self, run):
            if run.step == 6: raise OSError
    make = lambda: learner(opt=getattr(torch.optim, opt))
    path, whole = tmp_path / "fit.safetensors", make().fit(2, 0.01)
    with pytest.raises(OSError): make().fit(2, 0.01, callbacks=[Cut(), Checkpoint(path, 5)])
    back = make().fit(2, 0.01, callbacks=[Checkpoint(path, 5)])
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), back.model.parameters()))


def test_lr_find_leaves_everything_as_it_was():
    learn = learner(callbacks=[Metrics(n=lambda pred, target: 1.0)]).fit(1, 0.1)
    before = ({k: v.clone() for k, v in learn.model.state_dict().items()}, str(learn.opt.state_dict()), torch.get_rng_state())
    rows = list(learn.recorder.losses)
    assert len(learn.lr_find(steps=30).lrs) <= 30
    assert all(torch.equal(v, before[0][k]) for k, v in learn.model.state_dict().items())
    assert str(learn.opt.state_dict()) == before[1] and torch.equal(torch.get_rng_state(), before[2])
    assert learn.recorder.losses == rows and not any(p.grad is not None for p in learn.model.parameters())


def test_a_nan_in_the_inputs_is_told():
    step, model = supervised(F.cross_entropy), nn.Linear(2, 2)
    bad = [(torch.ones(4, 2), torch.zeros(4).long()), (torch.full((4, 2), torch.nan), torch.zeros(4).long())]
    run = Run(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(FloatingPointError, match="batch 1 of epoch 0 is nan; first seen in the batch"):
        train_epoch(run, bad, step, Update(run.opt))
    assert all(p.isfinite().all() for p in model.parameters())  # it was told before the step


def test_accumulation_tells_no_step_before_the_weights_move():
    moves = []
    class Watch(Callback):
        def after_step(self, run): moves.append(run.step)
    learner(callbacks=[Watch()]).fit(1, update=lambda opt: Accumulate(opt, 2))
    assert moves == [2, 4]


def test_progress_in_a_file_is_rows_only(capsys):
    learner(callbacks=[Metrics(n=lambda pred, target: 1.0), Progress(0)]).fit(2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].split() == ["epoch", "train_loss", "valid_loss", "n"]
    assert len({len(line.rstrip("\r ")) for line in lines}) == 1
    assert _text([{"epoch": 1}, {"epoch": 2, "late": 0.5}]).splitlines()[1].split() == ["1"]


_IN_A_TERMINAL = """
import torch
from torch import nn
from torch.nn import functional as F
from course_lib.data.loaders import make_loaders
from course_lib.training.callbacks import Progress
from course_lib.training.learner import Learner
data = torch.rand(64, 2), torch.zeros(64).long()
Learner(nn.Linear(2, 2), make_loaders(data, data, bs=16), F.cross_entropy, callbacks=[Progress(0)], device="cpu").fit(2, 0.1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals there")
def test_progress_in_a_terminal_draws_a_bar_and_wipes_it():
    import pty
    ours, theirs = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", _IN_A_TERMINAL], stdout=theirs, cwd=ROOT)
    os.close(theirs)
    seen = b""
    while True:
        try: part = os.read(ours, 4096)
        except OSError: break  # what Linux says at the end of a terminal
        if not part: break
        seen += part
    assert child.wait(60) == 0
    text = seen.decode()
    assert "epoch 1/2 |" in text and "epoch 2/2 |" in text and "4/4  loss" in text
    # what stays on the screen
    shown = [line.split("\r")[-1].split() for line in text.replace("\r\n", "\n").split("\n") if line]
    assert shown[0] == ["epoch", "train_loss", "valid_loss"] and [row[0] for row in shown[1:]] == ["1", "2"]


def test_a_recorder_hears_an_own_loop():
    recorder, model = Recorder(), nn.Linear(1, 1)
    run = Run(model, torch.optim.SGD(model.parameters(), lr=0.5))
    hooks = Hooks([recorder])
    with fitting(run, hooks):
        for value in (3.0, 2.0):
            run.losses.append(torch.tensor(value))
            fire(hooks.after_batch, run)
    assert recorder.losses == [3.0, 2.0] and recorder.lrs == [0.5, 0.5]


def test_no_callback_of_a_fit_stays_behind():
    learn = learner()
    learn.fit_one_cycle(1, 0.1)
    assert learn.callbacks == [] and learn.opt.param_groups[0]["lr"] == 0.1
    assert type(learn.opt).step is torch.optim.AdamW.step and "step" not in vars(learn.opt)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_the_same_and_nan_is_told():
    learn = learner()
    learn = Learner(learn.model, learn.dls, F.cross_entropy, device="cuda").fit(2, 0.01)
    assert learn.model.weight.device.type == "cuda" and learn.predict().pred.device.type == "cpu"
    with pytest.raises(FloatingPointError): learn.fit(1, 1e38)
