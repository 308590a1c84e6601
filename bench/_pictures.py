"""A net for 28 x 28 pictures, one pass over random ones: the Learner beside a plain loop."""
from collections.abc import Callable

import torch
from _race import race
from torch import nn
from torch.nn import functional as F

from course_lib.core import set_seed
from course_lib.data.loaders import TensorLoader
from course_lib.training.learner import Learner


def race_pictures(
    title: str,                    # what the net is
    make: Callable[[], nn.Module],  # a fresh net: grey pictures to ten logits
    n: int,                        # pictures
    bs: int,                       # pictures in a batch
) -> dict[str, float]:             # ratios to the plain loop
    "The Learner should take at most 0.80 of the plain loop's time."
    set_seed(42)
    x, y = torch.rand(n, 1, 28, 28), torch.randint(10, (n,))

    def net() -> nn.Module:
        set_seed(42)
        return make()

    def plain(layout: torch.memory_format = torch.contiguous_format) -> int:
        "What one would write on the first day."
        model = net().to(memory_format=layout)
        opt = torch.optim.AdamW(model.parameters(), lr=0.01)
        model.train()
        for idx in torch.randperm(n).split(bs):
            F.cross_entropy(model(x[idx].contiguous(memory_format=layout)), y[idx]).backward()
            opt.step()
            opt.zero_grad()
        return n

    def ours() -> int:
        Learner(net(), (TensorLoader(x, y, bs=bs, shuffle=True), None), F.cross_entropy, device="cpu").fit(1, 0.01)
        return n

    print(f"{sum(p.numel() for p in net().parameters()):,} parameters")
    return race(f"{title}, {n:,} pictures, bs {bs}", {
        "plain loop": plain, "plain loop, channels-last": lambda: plain(torch.channels_last), "course_lib Learner": ours,
    }, "plain loop", {"course_lib Learner": (0.8, "plain loop")})
