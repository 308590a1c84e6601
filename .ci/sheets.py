"""The workbooks of the course, with real data in them (`make sheets`): written into `_sheets/`, and offered by the site.

    .ci/sheets.py [--out FOLDER]
"""
import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HOME = Path(__file__).resolve().parents[1]


def workbooks(
    steps: int = 87,  # rows of the sheets on descent
) -> Iterator[tuple[str, str, object]]:
    "Name of the file, what it shows, and the book; one after the other, for some take a second to make."
    from course_lib.data.datasets import mnist_10k, movielens, titanic
    from course_lib.sheets.convolution import convolution_book, edge_net
    from course_lib.sheets.descent import descent_book
    from course_lib.sheets.factors import busiest, factors_book
    from course_lib.sheets.linear import linear_book
    from course_lib.sheets.losses import losses_book
    from course_lib.sheets.matrices import matrix_book
    digits = mnist_10k()
    learned = digits.train.x[:2000, 0].numpy() / 255, digits.train.y[:2000].numpy()
    net, seven = edge_net(*learned), digits.valid.x[3, 0].numpy() / 255
    yield ("convolution", "A net that reads a handwritten digit: two layers of two windows, a pool, a dense layer, ten "
           "probabilities. Draw another digit.", convolution_book(seven, net))
    people = titanic().dropna()
    chance = np.random.default_rng(42).random((2, 24, 24))
    yield ("convolution_dropout", "The same net with dropout: a mask from a share that you choose, and what is kept "
           "divided by what is left.", convolution_book(seven, net, chance))
    yield ("descent", "A line fitted by gradient descent, one row a step: SGD, momentum, Adagrad, RMSProp, Adam, Eve, "
           "annealing. Change a rate.", descent_book(steps=steps))
    yield ("losses", "Softmax, cross-entropy and its safe form, for one right answer and for yes or no.", losses_book())
    yield ("linear", "Who survived the Titanic? A linear model and a network of two ReLUs, each coefficient in a cell.",
           linear_book(people.assign(family=people.sibsp + people.parch).iloc[::13]))
    yield ("matrices", "A matrix product, broadcasting, the bias of a moving average, a Gram matrix.", matrix_book())
    yield ("factors", "Fifteen people, fifteen films, some ratings missing: five numbers for each, a product, biases, one "
           "step by formula, what is learned, and the same by looking up.", factors_book(busiest(*movielens())))


def page(found: list[tuple[str, str, int]]) -> str:
    "The page of the site that offers them."
    rows = "\n".join(f"| {{download}}`{name}.xlsx <sheets/{name}.xlsx>` | {what} | {n} |" for name, what, n in found)
    if not found: return "# Workbooks\n\n> None could be made: `make data` fetches what they show.\n"
    return ("# Workbooks\n\n> Spreadsheets whose cells compute: change a weight, and everything downstream follows.\n\n"
            "Excel, LibreOffice and Google Sheets open them. There are formulas and no macros; what stands on yellow may be "
            "changed. Every formula is computed anew by another program in the tests of the course and compared with "
            "NumPy.\n\n| workbook | what it shows | sheets |\n|---|---|---|\n" + rows + "\n")


def write(out: Path) -> list[tuple[str, str, int]]:
    "Write them all; name, what it shows and number of sheets of each."
    found = []
    for name, what, book in workbooks():
        book.save(out / f"{name}.xlsx")
        found.append((name, what, len(book.sheets)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the workbooks.")
    parser.add_argument("--out", type=Path, default=HOME / "_sheets")
    out = parser.parse_args().out.resolve()
    for name, what, n in write(out): print(f"{out / name}.xlsx  {n} sheets: {what}")


if __name__ == "__main__": sys.exit(main())
