"""Contestants take turns in one process on one thread; what counts is the ratio of their processor times.

A shared machine is fast in one second and slow in the next, so that seconds say little. Within a round all run one after
another, each round in another order, and a contestant's figure is the median of its ratios to the base.
"""
import random
import statistics
import time
from collections.abc import Callable

import torch

from course_lib.core import hardware


def race(
    title: str,                                 # what is raced, with sizes
    contestants: dict[str, Callable[[], int]],  # name: does the work once and returns how many items it handled
    base: str,                                  # whose time is 1
    goals: dict[str, tuple[float, str]] | None = None,  # name: the ratio to reach, and to whom
    rounds: int = 7,                            # turns of each contestant, after one that does not count
) -> dict[str, float]:                          # ratios to the base
    "Print a table of ratios, and beside each goal whether it is met."
    torch.set_num_threads(1)
    order, times = list(contestants), {name: [] for name in contestants}
    counts = {name: contestants[name]() for name in order}
    if len(set(counts.values())) > 1: raise ValueError(f"not the same work: {counts}")
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            begun = time.process_time()
            contestants[name]()
            times[name].append(time.process_time() - begun)
    def ratio(name: str, to: str) -> float: return statistics.median(a / b for a, b in zip(times[name], times[to]))
    print(f"\n{title}; median of {rounds} rounds, {hardware()}")
    for name in sorted(contestants, key=lambda n: ratio(n, base)):
        rate = counts[name] / statistics.median(times[name])
        print(f"  {ratio(name, base):6.2f}  {name:42} {rate:14,.0f} items/s")
    for name, (goal, to) in (goals or {}).items():
        reached = ratio(name, to)
        print(f"  {'met ' if reached <= goal else 'MISSED'}  {name} / {to}: {reached:.2f}, the goal is at most {goal:g}")
    return {name: ratio(name, base) for name in contestants}
