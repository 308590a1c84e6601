"""A small residual net on 28 x 28 pictures, one pass: the Learner beside a plain loop (`make bench`)."""
import torch
from _race import race
from torch import nn
from torch.nn import functional as F

from course_lib.core import record_result, set_seed
from course_lib.data.loaders import TensorLoader
from course_lib.training.learner import Learner
from course_lib.vision.resnet import resnet

N, BS = 1024, 512
set_seed(42)
X, Y = torch.rand(N, 1, 28, 28), torch.randint(10, (N,))


def net() -> nn.Module:
    "Six residual blocks, all but the first with stride 2; 1,228,394 parameters."
    set_seed(42)
    return resnet()


def plain(layout: torch.memory_format = torch.contiguous_format) -> int:
    "What one would write on the first day."
    model = net().to(memory_format=layout)
    opt = torch.optim.AdamW(model.parameters(), lr=0.01)
    model.train()
    for idx in torch.randperm(N).split(BS):
        F.cross_entropy(model(X[idx].contiguous(memory_format=layout)), Y[idx]).backward()
        opt.step()
        opt.zero_grad()
    return N


def ours() -> int:
    dls = TensorLoader(X, Y, bs=BS, shuffle=True), None
    Learner(net(), dls, F.cross_entropy, device="cpu").fit(1, 0.01)
    return N


if __name__ == "__main__":
    print(f"{sum(p.numel() for p in net().parameters()):,} parameters")
    found = race(f"residual net, {N:,} pictures, bs {BS}", {
        "plain loop": plain, "plain loop, channels-last": lambda: plain(torch.channels_last), "course_lib Learner": ours,
    }, "plain loop", {"course_lib Learner": (0.8, "plain loop")})
    record_result("4_vision/03_resnet", "time a picture, Learner / plain contiguous loop", round(found["course_lib Learner"], 2),
                  data=f"{N:,} pictures of 28 x 28, bs {BS}, six stages", epochs=1)
