"""Accidents for a whole batch beside the same ones picture by picture, and their share of a training step (`make bench`)."""
import importlib.util

import torch
from _race import race
from torch import nn
from torch.nn import functional as F

from course_lib.core import set_seed
from course_lib.layers.convnet import conv_net
from course_lib.vision.augment import Copy, Erase, Flip, Light, Rotate, Shift, augment
from course_lib.vision.resnet import resnet

RECIPES = {"shift, flip": [Shift(1), Flip()], "shift, flip, erase": [Shift(1), Flip(), Erase()],
           "all": [Shift(1), Flip(), Rotate(), Light(), Erase(), Copy()]}


def one_by_one(x: torch.Tensor, transforms: list) -> int:
    torch.cat([augment(pic[None], transforms, check=False) for pic in x])
    return len(x)


def whole(x: torch.Tensor, transforms: list) -> int: return len(augment(x, transforms, check=False))


def step(model: nn.Module, x: torch.Tensor, y: torch.Tensor, transforms: list) -> int:
    "Forward and backward, after the accidents if there are any."
    model.zero_grad()
    F.cross_entropy(model(augment(x, transforms, check=False) if transforms else x), y).backward()
    return len(x)


def by_torchvision(x: torch.Tensor) -> dict:
    "Contestants that need torchvision: its transforms picture by picture, since it draws once for a whole batch."
    if importlib.util.find_spec("torchvision") is None:
        print("torchvision is not installed: it does not take part")
        return {}
    from torchvision.transforms import v2
    recipe = v2.Compose([v2.RandomCrop(x.shape[-1], padding=1), v2.RandomHorizontalFlip()])
    return {"torchvision v2, one by one": lambda: len([recipe(pic) for pic in x])}


if __name__ == "__main__":
    set_seed(42)
    x, y = torch.rand(512, 1, 28, 28), torch.randint(10, (512,))
    for name, recipe in RECIPES.items():
        others = by_torchvision(x) if name == "shift, flip" else {}
        ways = {"one by one": lambda r=recipe: one_by_one(x, r), "course_lib, the batch": lambda r=recipe: whole(x, r)}
        race(f"{name}, 512 pictures of 28 by 28", ways | others, "one by one",
             {"course_lib, the batch": (0.2, "one by one")})
    nets = {"conv_net of widths 8, 16, 32": conv_net((8, 16, 32), norm=nn.BatchNorm2d),
            "resnet of widths 16, 32, 64": resnet((16, 32, 64))}
    for name, model in nets.items():
        race(f"a training step of {name}, 512 pictures",
             {"as they are": lambda m=model: step(m, x, y, []),
              **{what: lambda m=model, r=recipe: step(m, x, y, r) for what, recipe in RECIPES.items()}}, "as they are")
