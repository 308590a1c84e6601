"""Steps of the course's optimizers beside PyTorch's (default, foreach, fused) and, where it is installed, fastai's.

    python bench/optimizers.py        (or `make bench`)
"""
from collections.abc import Callable
from functools import partial
from importlib import import_module

import torch
from _race import race
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.core import set_seed
from course_lib.training.optim import SGD, AdamW

MLP = [(50, 784), (50,), (10, 50), (10,)]


def resnet() -> list[tuple[int, ...]]:
    "Shapes of a small residual net: 63 tensors, 1.23 million numbers."
    shapes, widths = [], [1, 16, 32, 64, 128, 256]
    for n_in, n_out in zip(widths, widths[1:]):
        shapes += [(n_out, n_in, 3, 3), (n_out, n_out, 3, 3), (n_out, n_in, 1, 1), *[(n_out,)] * 9]
    return [*shapes, (10, 256), (10,), (10,)]


def with_grads(shapes: list[tuple[int, ...]]) -> list[Tensor]:
    set_seed(42)
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for p in params: p.grad = torch.randn_like(p)
    return params


def steps(make: Callable, shapes: list[tuple[int, ...]], n: int) -> Callable[[], int]:
    "Made once, so that memories are warm; a turn is `n` steps."
    opt = make(with_grads(shapes))
    def turn() -> int:
        for _ in range(n): opt.step()
        return n
    return turn


def loop(make: Callable, batches: list) -> Callable[[], int]:
    "A raw training loop of the net 784-50-10."
    def turn() -> int:
        set_seed(42)
        model = nn.Sequential(nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))
        opt = make(model.parameters())
        for xb, yb in batches:
            F.cross_entropy(model(xb), yb).backward()
            opt.step()
            opt.zero_grad()
        return len(batches)
    return turn


def with_fastai() -> dict[str, Callable]:
    try: theirs = import_module("fastai.optimizer")
    except Exception as error:  # not only missing: some break on parts that do not fit together
        print(f"fastai is left out: {type(error).__name__}: {error}")
        return {}
    return {"fastai Adam": lambda params: theirs.Adam(params, lr=1e-3, wd=0.01)}


def main() -> None:
    torch.set_num_threads(1)
    theirs = partial(torch.optim.AdamW, lr=1e-3)
    makers = {"torch AdamW": theirs, "torch AdamW foreach": partial(theirs, foreach=True),
              "torch AdamW fused": partial(theirs, fused=True), "course_lib AdamW": partial(AdamW, lr=1e-3), **with_fastai()}
    for what, shapes, n in (("net 784-50-10", MLP, 300), ("residual net", resnet(), 30)):
        size = f"{len(shapes)} tensors, {sum(torch.Size(s).numel() for s in shapes):,} numbers"
        race(f"steps of AdamW, {what}, {size}", {name: steps(make, shapes, n) for name, make in makers.items()}, "torch AdamW",
             {"course_lib AdamW": (0.65, "torch AdamW")}, rounds=15)
    set_seed(42)
    batches = [(torch.rand(64, 784), torch.randint(10, (64,))) for _ in range(400)]
    race("batches of a raw loop, net 784-50-10, batch 64", {
        "torch SGD": loop(partial(torch.optim.SGD, lr=0.1), batches),
        "course_lib SGD": loop(partial(SGD, lr=0.1), batches),
        "torch SGD, momentum": loop(partial(torch.optim.SGD, lr=0.1, momentum=0.9), batches),
        "course_lib SGD, momentum": loop(partial(SGD, lr=0.1, momentum=0.9), batches),
    }, "torch SGD", {"course_lib SGD": (0.90, "torch SGD")}, rounds=15)


if __name__ == "__main__": main()
