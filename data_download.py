#!/usr/bin/env python
"""Fetches the data sets of the course by name.

    python data_download.py                          lists them
    python data_download.py fashion_mnist movielens  fetches these
    python data_download.py --all                    fetches all of them
    python data_download.py --verify [NAME ...]      reads what is cached and compares checksums
    python data_download.py --remove NAME ...        deletes from the cache

COURSE_DATA names another folder for the cache. COURSE_SOURCES=package tries packages before the
addresses of the authors, COURSE_SOURCES=canonical the other way round.
"""
import argparse
import os
import shutil
import subprocess
import sys
import textwrap
from functools import partial
from itertools import zip_longest
from pathlib import Path

try:
    from course_lib.core import cache_dir
    from course_lib.data import download
    from course_lib.data.files import human_size
    from course_lib.data.registry import DataError, data_sets, find
except (ImportError, SyntaxError) as e:
    venv = Path(__file__).resolve().parent / ".venv"
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.exists() and Path(sys.prefix).resolve() != venv:  # the course's own Python, made by `make lab`
        sys.exit(subprocess.call([str(python), __file__, *sys.argv[1:]]))
    sys.exit(f"data_download.py: this Python ({sys.executable}) is not the one of the course ({e}): "
             "use `make data`, which makes one")


def print_row(texts, widths):
    "Print a row of a table; texts that are too long go on in the next line."
    cells = [textwrap.wrap(text, width) or [""] for text, width in zip(texts, widths, strict=True)]
    for line in zip_longest(*cells, fillvalue=""):
        columns = (f"{text:{width}}" for text, width in zip(line, widths, strict=True))
        print("  ".join(columns).rstrip())


def describe(data):
    "A data set as a row of the table."
    size = human_size(data.bytes) if data.bytes else "made here"
    cached = "yes" if download.is_cached(data) else "-"
    return data.name, cached, size, data.about, data.licence


def list_data_sets():
    "Print name, cached or not, size of the download, what it is, and licence."
    head = ("name", "cached", "download", "what it is", "licence")
    rows = [describe(data) for data in data_sets()]
    narrow = [max(len(row[i]) for row in [head, *rows]) for i in range(3)]
    terminal = shutil.get_terminal_size((100, 24)).columns
    rest = max(50, min(100, terminal) - sum(narrow) - 4 * 2)
    widths = [*narrow, rest * 6 // 10, rest - rest * 6 // 10]
    for row in (head, ["-" * width for width in widths], *rows):
        print_row(row, widths)
    print(f"\nThe cache is {cache_dir()}. Fetch with: python data_download.py NAME ...")


def fetch_data_sets(names):
    "Fetch and say where they are; returns the number of failures."
    results = download.fetch_all(names, partial(print, flush=True))
    for name, result in results.items():
        if isinstance(result, DataError):
            print(f"data_download.py: {result}", file=sys.stderr)
        else:
            print(f"{name}: {result}")
    return sum(isinstance(result, DataError) for result in results.values())


def for_each(names, action):
    "Do something with each data set; returns the number of failures."
    failures = 0
    for name in names:
        try:
            print(f"{name}: {action(name)}", flush=True)
        except DataError as e:
            failures += 1
            print(f"data_download.py: {e}", file=sys.stderr)
    return failures


def verify(name):
    "Read a data set again; returns what to say."
    n = download.verify(name)
    return f"sha256 of {n} file{'s' * (n > 1)} as expected"


def remove(name):
    "Delete a data set; returns what to say."
    return "removed" if download.remove(name) else "was not in the cache"


def parse(args):
    "The wish on the command line."
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="data sets, see the list")
    parser.add_argument("--all", action="store_true", help="all data sets")
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--verify", action="store_true",
                      help="compare checksums of NAME ..., or of all that are cached")
    task.add_argument("--remove", action="store_true", help="delete NAME ... from the cache")
    wish = parser.parse_args(args)
    if wish.remove and not (wish.names or wish.all):
        parser.error("--remove needs a NAME, or --all")
    return wish


def main(args=None):
    "Do what the command line says; returns the number of failures."
    wish = parse(args)
    names = [data.name for data in data_sets()] if wish.all else list(dict.fromkeys(wish.names))
    for name in names:
        find(name)
    if wish.verify:
        there = [data.name for data in data_sets() if download.data_folder(data).is_dir()]
        if not wish.names and not there:
            print(f"nothing is cached yet in {cache_dir()}")
        return for_each(wish.names or there, verify)
    if wish.remove:
        return for_each(names, remove)
    return fetch_data_sets(names) if names else list_data_sets()


if __name__ == "__main__":
    try:
        sys.exit(min(main() or 0, 1))
    except (ValueError, DataError, OSError) as e:
        sys.exit(f"data_download.py: {e}")
    except KeyboardInterrupt:
        sys.exit("data_download.py: stopped; the next run goes on from here")
