"""A small convolutional net on 28 x 28 pictures, one pass: the Learner beside a plain loop (`make bench`)."""
from _pictures import race_pictures
from torch import nn


def net() -> nn.Module:
    "Six convolutions with batch norm, all but the first with stride 2; 110,286 parameters."
    sizes, layers = [1, 8, 16, 32, 64, 128, 10], []
    for i, (a, b) in enumerate(zip(sizes, sizes[1:])):
        layers += [nn.Conv2d(a, b, 3, stride=1 if i == 0 else 2, padding=1), nn.BatchNorm2d(b)]
        layers += [nn.LeakyReLU(0.1)] * (i < 5)
    return nn.Sequential(*layers, nn.Flatten())


if __name__ == "__main__": race_pictures("small CNN", net, 4096, 1024)
