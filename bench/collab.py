"""Factors and biases on MovieLens small, one pass: the Recommender's way beside plain loops (`make bench`).

    python bench/collab.py            the race, and what five epochs of each are worth
    python bench/collab.py --big      20 million made-up ratings: seconds and memory of one epoch
"""
import resource
import sys
import time

import torch
from _race import race
from torch.nn import functional as F

from course_lib.core import hardware
from course_lib.recsys.collab import Recommender, merge
from course_lib.recsys.factors import DotBias
from course_lib.recsys.ratings import Index, RatingTable, movielens_table, random_split, table_mse
from course_lib.training.schedules import one_cycle_curves

TRAIN, VALID = random_split(movielens_table()[0])
RATES = {64: 3e-3, 1024: 7e-3}  # for the Recommender


def plain(bs: int, epochs: int = 1, fused: bool = False) -> DotBias:
    "What one would write on the first day: the settings of fastai's collab_learner, PyTorch's AdamW."
    torch.manual_seed(42)
    model = DotBias(TRAIN.n_users, TRAIN.n_items)
    opt = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.1, fused=fused)
    curve = one_cycle_curves(5e-3, warm=0.25)["lr"]
    step, steps = 0, epochs * -(-len(TRAIN) // bs)
    for _ in range(epochs):
        for idx in torch.randperm(len(TRAIN)).split(bs):
            opt.param_groups[0]["lr"] = curve(step / steps)
            F.mse_loss(model(TRAIN.users[idx], TRAIN.items[idx]), TRAIN.scores[idx]).backward()
            opt.step()
            opt.zero_grad()
            step += 1
    return model


def ours(bs: int, epochs: int = 1, seed: int = 42) -> Recommender:
    return Recommender(epochs=epochs, lr=RATES[bs], bs=bs, seed=seed).fit(TRAIN)


def error(model: DotBias | Recommender) -> float:
    "On the held-back ratings."
    if isinstance(model, DotBias):
        with torch.no_grad(): return table_mse(model(VALID.users, VALID.items), VALID, clip=True)
    users, items = VALID.user_ids.ids, VALID.item_ids.ids
    return table_mse(model.predict([users[u] for u in VALID.users], [items[i] for i in VALID.items]), VALID)


def quality() -> None:
    "Five epochs of each."
    print("\nmean squared error after 5 epochs")
    for bs in (64, 1024):
        print(f"  {error(plain(bs, 5)):.4f}  plain loop, batches of {bs}")
        print(f"  {error(ours(bs, 5)):.4f}  Recommender, batches of {bs}")
    models = [ours(1024, 5, seed) for seed in range(15)]
    alone, merged = [error(m) for m in models], [error(merge(models[i:i + 5])) for i in (0, 5, 10)]
    for name, figures in (("one Recommender", alone), ("five merged", merged)):
        mean = sum(figures) / len(figures)
        print(f"  {mean:.4f}  {name}, {min(figures):.4f} to {max(figures):.4f} over {len(figures)}")


def big(n: int = 20_000_000, n_people: int = 138_000, n_films: int = 27_000) -> None:
    "As many ratings, people and films as MovieLens 20M has, at random, some films far more popular."
    gen = torch.Generator().manual_seed(0)
    users = torch.randint(n_people, (n,), generator=gen)
    items = (torch.rand(n, generator=gen).pow(3) * n_films).long()
    scores = torch.randint(1, 11, (n,), generator=gen) / 2
    table = RatingTable(users, items, scores, Index(range(n_people)), Index(range(n_films)), None, 0.5, 5.0)
    begun, wall = time.process_time(), time.perf_counter()
    Recommender(epochs=1, bs=16_384).fit(table)
    print(f"{n:,} ratings, 1 epoch: {time.process_time() - begun:.0f} s of processor, {time.perf_counter() - wall:.0f} s, "
          f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB in all; {hardware()}")


def main() -> None:
    for bs, goal in ((64, 0.6), (1024, 1.1)):
        race(f"{len(TRAIN):,} ratings, batches of {bs}", {
            "plain loop, AdamW": lambda bs=bs: plain(bs) and len(TRAIN),
            "plain loop, fused AdamW": lambda bs=bs: plain(bs, fused=True) and len(TRAIN),
            "course_lib Recommender": lambda bs=bs: ours(bs) and len(TRAIN),
        }, "plain loop, AdamW", {"course_lib Recommender": (goal, "plain loop, AdamW")}, rounds=5)
    quality()


if __name__ == "__main__":
    torch.set_num_threads(1)
    big() if "--big" in sys.argv else main()
