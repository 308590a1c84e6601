"""The data sets that are too large for a notebook: each is checked where it is cached, and said to be skipped where not.

`python data_download.py --all` first, to have them all checked. Also here: the converters for canonical addresses,
on files that are made from the cached ones as the address serves them. They must give the same bytes."""
import functools
import gzip
import hashlib
import shutil
import struct

import numpy as np
import pytest
import torch

from course_lib.data import datasets
from course_lib.data.convert import idx_to_first_digits
from course_lib.data.download import fetch, is_cached
from course_lib.data.registry import data_sets, find


def needs(*names):
    "Skip a test unless these data sets are cached."
    missing = [name for name in names if not is_cached(name)]
    return pytest.mark.skipif(bool(missing), reason=f"not cached: {', '.join(missing)}")


@functools.cache
def pictures(name, *args, **how):
    "A set of images, read once for all tests."
    return getattr(datasets, name)(*args, **how)


IMAGES = {  # name: (how to call it, training images, validation images, shape, classes)
    "mnist": ({}, 60_000, 10_000, (1, 28, 28), 10),
    "mnist_10k": ({}, 8_000, 2_000, (1, 28, 28), 10),
    "mnist_1d": ({}, 4_000, 1_000, (1, 40), 10),
    "fashion_mnist": ({}, 60_000, 10_000, (1, 28, 28), 10),
    "elpv": ({"size": 16}, 2_099, 525, (1, 16, 16), 2),
    "emoji": ({"size": 8}, 1_524, 382, (4, 8, 8), 9),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in IMAGES])
def test_images(name):
    how, n_train, n_valid, shape, n_classes = IMAGES[name]
    data = pictures(name, **how)
    assert (len(data.train.x), len(data.valid.x)) == (n_train, n_valid) == (len(data.train.y), len(data.valid.y))
    assert data.train.x.shape[1:] == data.valid.x.shape[1:] == shape
    assert data.train.x.dtype == (torch.float32 if name == "mnist_1d" else torch.uint8)
    assert data.train.y.dtype == torch.int64 and len(data.classes) == n_classes
    for part in (data.train, data.valid):
        assert set(part.y.tolist()) == set(range(n_classes))
        assert part.y[:200].unique().numel() == n_classes, "the first 200 lack a class: not shuffled"


TABLES = {  # name: (rows of each table in turn, some columns)
    "ames": ((2_589, 341), {"price", "Yr.Sold", "Neighborhood"}),
    "births": ((316_968, 55_896), {"state", "date", "births"}),
    "titanic": ((1_309,), {"name", "title", "age", "survived"}),
    "diamonds": ((53_940,), {"carat", "cut", "price"}),
    "flights": ((252_484, 84_292, 26_115, 3_322, 1_458, 16), {"arr_delay", "time_hour"}),
    "movielens": ((100_004, 9_066), {"user", "movie", "rating"}),
    "names": ((5_494, 88_799), {"name", "sex"}),
    "wordnet": ((117_791,), {"topic", "words", "gloss"}),
    "movie_reviews": ((10_605,), {"score", "text"}),
    "spam": ((5_704,), {"kind", "subject", "text"}),
    "german_english": ((16_909,), {"english", "german"}),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in TABLES])
def test_tables(name):
    rows, columns = TABLES[name]
    tables = getattr(datasets, name)()
    tables = tables if isinstance(tables, tuple) else (tables,)
    assert tuple(map(len, tables)) == rows
    assert columns <= set(tables[0].columns)


@needs("ames", "births", "flights")
def test_later_rows_are_for_validation():
    ames, births, flights = datasets.ames(), datasets.births(), datasets.flights()
    assert ames.train["Yr.Sold"].max() < ames.valid["Yr.Sold"].min()
    assert births.train["date"].max() < births.valid["date"].min()
    assert flights.train["month"].max() < flights.valid["month"].min()


@needs("flights")
def test_flights_join_their_weather():
    flights = datasets.flights()
    joined = flights.valid.merge(flights.weather, on=["origin", "time_hour"], how="left")
    assert len(joined) == len(flights.valid)
    assert joined["temp"].notna().mean() > 0.97


@needs("titanic")
def test_titanic_knows_titles_and_missing_ages():
    people = datasets.titanic()
    assert people["age"].isna().sum() == 263
    assert people["title"].value_counts().head(4).to_dict() == {"Mr": 757, "Miss": 260, "Mrs": 197, "Master": 61}
    assert round(people["survived"].mean(), 3) == 0.382


@needs("diamonds")
def test_diamonds_are_ordered():
    stones = datasets.diamonds()
    assert stones["cut"].min() == "Fair" and stones["clarity"].max() == "IF" and stones["color"].max() == "D"
    assert not stones[["cut", "color", "clarity"]].isna().any(axis=None)


@needs("elpv")
def test_cells_keep_their_share_in_both_parts():
    cells = pictures("elpv", size=16)
    assert int((cells.train.y == 1).sum() + (cells.valid.y == 1).sum()) == 821
    assert set(cells.train_info["file"]).isdisjoint(cells.valid_info["file"])
    kinds = [info["kind"].eq("mono").mean() for info in (cells.train_info, cells.valid_info)]
    assert abs(kinds[0] - kinds[1]) < 0.01
    assert ((cells.train_info["probability"] > 0.5).to_numpy() == cells.train.y.numpy()).all()


@needs("emoji")
def test_emoji_come_in_pairs_and_glyphs_stay_together():
    google, twitter = pictures("emoji", size=8), pictures("emoji", "twitter", size=8)
    assert google.valid_info.equals(twitter.valid_info) and not google.valid.x.equal(twitter.valid.x)
    every = datasets.emoji("google", skin_tones=True, size=8)
    assert len(every.train.y) + len(every.valid.y) == 3_781
    assert set(every.train_info["base"]) == set(google.train_info["base"])
    assert set(every.train_info["base"]).isdisjoint(every.valid_info["base"])
    with pytest.raises(ValueError, match="artist is 'apple'"):
        datasets.emoji("apple")


@needs("shakespeare")
def test_shakespeare():
    works = datasets.shakespeare()
    assert len(works) == 42 and "hamlet" in works
    assert sum(len(text.encode()) for text in works.values()) == 5_057_198


@needs("spam")
def test_no_address_is_left_in_the_mails():
    mails = datasets.spam()
    left = mails["text"].str.findall(r"[\w.+-]+@[\w-]+\.[a-z]{2,}").explode().dropna()
    assert set(left) == {"someone@example.org"}
    assert not mails["text"].duplicated().any()


@needs("glove")
def test_king_and_queen():
    words, vectors = datasets.glove()
    assert vectors.shape == (400_000, 50) and len(words) == 400_000
    number = {word: i for i, word in enumerate(words[:30_000])}
    unit = torch.nn.functional.normalize(vectors[:30_000], dim=1)
    wish = vectors[number["king"]] - vectors[number["man"]] + vectors[number["woman"]]
    best = (unit @ wish).topk(3).indices.tolist()
    assert "queen" in [words[i] for i in best]


@needs("efficientnet_lite0", "minilm")
def test_weights():
    lite, minilm = datasets.efficientnet_lite0(), datasets.minilm()
    assert len(lite) == 296 and len(minilm) == 104
    assert sum(w.numel() for name, w in lite.items() if "running" not in name and "num_batches" not in name) == 4_652_008


# --- the same bytes from the canonical address ---

def as_idx(path, array):
    "Write an array as the canonical addresses of MNIST and Fashion-MNIST serve it."
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(head + array.tobytes(), compresslevel=1))


def idx_files(name, raw):
    "The files of a cached set with an official split, laid out as an address would."
    for k, (split, part, file) in enumerate((("train", "x", "train-images-idx3-ubyte.gz"),
                                             ("train", "y", "train-labels-idx1-ubyte.gz"),
                                             ("valid", "x", "t10k-images-idx3-ubyte.gz"),
                                             ("valid", "y", "t10k-labels-idx1-ubyte.gz"))):
        as_idx(raw / str(k) / file, np.load(fetch(name) / f"{split}_{part}.npy"))


def canonical(name):
    "The converter of the first canonical source."
    return next(source.convert for source in find(name).sources if source.kind == "canonical")


def checksums(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in ("mnist", "fashion_mnist")])
def test_idx_from_the_address(name, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    out.mkdir()
    idx_files(name, raw)
    canonical(name)(raw, out)
    assert checksums(out) == dict(find(name).files)


@needs("mnist")
def test_first_digits_from_the_full_set(tmp_path):
    "Two packages by different people and the address agree on the first 10,000 digits."
    raw, out = tmp_path / "raw", tmp_path / "out"
    out.mkdir()
    idx_files("mnist", raw)
    assert canonical("mnist_10k") is idx_to_first_digits
    canonical("mnist_10k")(raw, out)
    assert checksums(out) == dict(find("mnist_10k").files)


@needs("glove")
def test_glove_from_text(tmp_path):
    "The commonest words and the rarest, which are the odd ones; all 400,000 would take a minute."
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir(), out.mkdir()
    words, vectors = datasets.glove()
    some = [*range(15_000), *range(395_000, 400_000)]
    words, vectors = [words[i] for i in some], vectors[some].numpy()
    with (raw / "glove.6B.50d.txt").open("w", encoding="utf-8", newline="\n") as file:
        for word, vector in zip(words, vectors, strict=True):
            file.write(f"{word} {' '.join(map(str, vector))}\n")
    canonical("glove")(raw, out)
    assert (out / "words.txt").read_text(encoding="utf-8").split("\n") == words
    assert np.load(out / "vectors.npy").tobytes() == vectors.tobytes()


@needs("minilm")
def test_minilm_from_the_address(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for k, file in enumerate(find("minilm").files):
        (tmp_path / f"raw/{k}").mkdir(parents=True)
        shutil.copyfile(fetch("minilm") / file, tmp_path / f"raw/{k}" / file)
    canonical("minilm")(tmp_path / "raw", out)
    assert checksums(out) == dict(find("minilm").files)


def test_every_data_set_has_a_function():
    assert {data.name for data in data_sets()} <= {name for name in dir(datasets) if not name.startswith("_")}
