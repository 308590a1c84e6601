"""Recurrent layers against PyTorch's: 64 sequences of 64 steps, 64 features, 64 cells, one thread, forward and backward.

    python bench/rnn.py
"""
import torch
from _race import race
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.core import set_seed
from course_lib.text.rnn import GRU, LSTM, RNN, lstm_step

GOALS = {"RNN": 1.0, "LSTM": 1.9}  # times PyTorch's layer


def cells(cell: nn.LSTMCell, x: Tensor) -> Tensor:
    "A loop over nn.LSTMCell."
    state, out = None, []
    for step in x.unbind(1):
        state = cell(step, state)
        out.append(state[0])
    return torch.stack(out, 1)


def steps(layer: LSTM, x: Tensor) -> Tensor:
    "Inputs first, then `lstm_step`, with autograd's way back."
    w_ih, w_hh, b_ih, b_hh = layer.weights()
    h = c = x.new_zeros(len(x), layer.n_hidden)
    out = []
    for given in F.linear(x.transpose(0, 1), w_ih, b_ih + b_hh).unbind(0):
        h, c, *_ = lstm_step(given, h, c, w_hh)
        out.append(h)
    return torch.stack(out, 1)


def main() -> None:
    set_seed(42)
    x = torch.randn(64, 64, 64, requires_grad=True)
    def runner(read):
        def work() -> int:
            read().sum().backward()
            return len(x)
        return work
    for ours in (RNN, GRU, LSTM):
        name, mine = ours.__name__, ours(64, 64)
        theirs = getattr(nn, name)(64, 64, batch_first=True)
        contestants = {f"course_lib {name}": runner(lambda m=mine: m(x)[0]), f"nn.{name}": runner(lambda m=theirs: m(x)[0])}
        if name == "LSTM":
            cell = nn.LSTMCell(64, 64)
            contestants |= {"loop of nn.LSTMCell": runner(lambda m=cell: cells(m, x)),
                            "inputs first, autograd's way back": runner(lambda m=mine: steps(m, x))}
        goal = {f"course_lib {name}": (GOALS[name], f"nn.{name}")} if name in GOALS else None
        race(f"{name}: forward and backward", contestants, f"nn.{name}", goal, rounds=21)


if __name__ == "__main__": main()
