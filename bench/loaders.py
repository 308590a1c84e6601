"""One shuffled pass over 60,000 pictures in memory: the course's loader beside PyTorch's (`make bench`)."""
import torch
from _race import race
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from course_lib.data.loaders import TensorLoader

N, PIXELS = 60_000, 784


def count(batches) -> int:
    "Take every batch, as training would, and count its rows."
    return sum(len(xb) for xb, _ in batches)


def by_slices(x: Tensor, y: Tensor, bs: int):
    "A shuffled epoch as most hand-written loops make it."
    for idx in torch.randperm(len(x)).split(bs): yield x[idx], y[idx]


def by_index_select(x: Tensor, y: Tensor, bs: int):
    for idx in torch.randperm(len(x)).split(bs): yield x.index_select(0, idx), y.index_select(0, idx)


def main() -> None:
    x, y = torch.rand(N, PIXELS), torch.randint(10, (N,))
    ds = TensorDataset(x, y)
    for bs in (64, 1024):
        whole = BatchSampler(RandomSampler(ds), bs, drop_last=False)
        race(f"loaders, {N:,} x {PIXELS} float32, bs {bs}", {
            "x[idx]": lambda bs=bs: count(by_slices(x, y, bs)),
            "index_select": lambda bs=bs: count(by_index_select(x, y, bs)),
            "course_lib TensorLoader": lambda bs=bs: count(TensorLoader(x, y, bs=bs, shuffle=True)),
            "torch DataLoader": lambda bs=bs: count(DataLoader(ds, batch_size=bs, shuffle=True)),
            "torch DataLoader, whole batches": lambda whole=whole: count(DataLoader(ds, sampler=whole, batch_size=None)),
        }, "x[idx]", {"course_lib TensorLoader": (1.2, "index_select")})


if __name__ == "__main__": main()
