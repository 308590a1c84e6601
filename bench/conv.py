"""A convolution by im2col beside PyTorch's, forward and slopes for picture and weights (`make bench`)."""
from collections.abc import Callable

import torch
from _race import race
from torch.nn import functional as F

from course_lib.core import set_seed
from course_lib.vision.convolution import conv2d, conv2d_shifts

SIZES = [(64, 1, 28, 8, 5), (64, 16, 14, 32, 3), (64, 32, 7, 64, 3)]  # pictures, channels, rows, windows, window


def by_unfold(x: torch.Tensor, w: torch.Tensor, padding: int) -> torch.Tensor:
    "What one would write with PyTorch's own im2col."
    return (w.flatten(1) @ F.unfold(x, w.shape[2:], padding=padding)).view(len(x), len(w), *x.shape[2:])


def run(fn: Callable, x: torch.Tensor, w: torch.Tensor, back: bool) -> int:
    y = fn(x, w, w.shape[2] // 2)
    if back: torch.autograd.grad(y, (x, w), torch.ones_like(y))
    return len(x)


WAYS = {"F.conv2d": lambda x, w, p: F.conv2d(x, w, padding=p), "F.unfold and a product": by_unfold,
        "shifted pictures": lambda x, w, p: conv2d_shifts(x, w, padding=p),
        "course_lib conv2d": lambda x, w, p: conv2d(x, w, padding=p)}

if __name__ == "__main__":
    for n, c, rows, out, k in SIZES:
        set_seed(42)
        x = torch.randn(n, c, rows, rows, requires_grad=True)
        w = torch.randn(out, c, k, k, requires_grad=True)
        for back in (False, True):
            race(f"({n}, {c}, {rows}, {rows}) -> {out}, window {k}, {'with slopes' if back else 'forward'}",
                 {name: lambda fn=fn, x=x, w=w, back=back: run(fn, x, w, back) for name, fn in WAYS.items()},
                 "F.conv2d", {"course_lib conv2d": (3, "F.conv2d")} if back else None, rounds=15)
