"""The results page: every figure that a lesson recorded, newest first, beside what others published."""
from html import escape
from pathlib import Path

from course_lib.core import result_rows
from site_lessons import Lesson

COLUMNS = ("measure", "here", "published", "data", "epochs", "profile", "time", "hardware", "date")
SAME = ("lesson", "measure", "data", "epochs", "profile", "hardware")
INTRO = """# Results

> What the lessons measured, beside what others published for the same task.

Every row was written by `record_result` while its lesson ran. *quick* is the run of a minute on a laptop; *full* has the
whole data and the published number of epochs.
"""
EMPTY = "\nNo lesson has recorded a figure yet: `make run` runs the lessons and keeps what they measure.\n"


def newest(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    "The last row of each kind, and the ones that it replaced; both newest first."
    last: dict[tuple, dict] = {}
    older = []
    for row in sorted(rows, key=lambda r: r.get("date", "")):
        key = tuple(row.get(k) for k in SAME)
        if key in last: older.append(last.pop(key))
        last[key] = row
    by_date = lambda found: sorted(found, key=lambda r: r.get("date", ""), reverse=True)
    return by_date(last.values()), by_date(older)


def number(x: float | None) -> str:
    "Four digits that count, or nothing."
    return "" if x is None else f"{x:,.0f}" if abs(x) >= 1000 and x == int(x) else f"{x:.4g}"


def cells(row: dict) -> list[str]:
    "The texts of a row, in the order of COLUMNS, as HTML."
    said = number(row.get("published"))
    if row.get("source"): said += f' <small>{escape(row["source"])}</small>'
    seconds = row.get("seconds")
    took = "" if seconds is None else f"{seconds:.1f}&nbsp;s" if seconds < 120 else f"{seconds / 60:.1f}&nbsp;min"
    texts = [escape(str(row.get(k) or "")) for k in ("measure", "data", "profile", "hardware", "date")]
    return [texts[0], f"<b>{number(row.get('value'))}</b>", said, texts[1], number(row.get("epochs")), texts[2], took,
            texts[3], texts[4].replace("-", "&#8209;")]


def table(rows: list[dict], lessons: list[Lesson]) -> str:
    "The rows as one HTML table with a line for each lesson, in reading order."
    titles = {x.doc: x.title for x in lessons}
    order = [*titles, *sorted({r["lesson"] for r in rows} - titles.keys())]
    out = ['<div class="results-box"><table class="results">', "<thead><tr>",
           *(f"<th>{c}</th>" for c in COLUMNS), "</tr></thead><tbody>"]
    for doc in order:
        mine = [r for r in rows if r["lesson"] == doc]
        title = escape(titles.get(doc, doc))
        link = f'<a href="{escape(doc)}.html">{title}</a>' if doc in titles else title
        if mine: out.append(f'<tr class="lesson"><th colspan="{len(COLUMNS)}">{link}</th></tr>')
        for row in mine:
            tds = (f'<td data-name="{c}">{text}</td>' for c, text in zip(COLUMNS, cells(row), strict=True) )
            out.append('<tr class="result">' + "".join(tds) + "</tr>")
    return "\n".join([*out, "</tbody></table></div>"])


def results_page(folder: Path, lessons: list[Lesson]) -> str:
    "The page, as MyST."
    rows, older = newest(result_rows(folder))
    if not rows: return INTRO + EMPTY
    text = INTRO + f"\n```{{raw}} html\n{table(rows, lessons)}\n```\n"
    if older:
        text += (f"\n```{{raw}} html\n<details class=\"older\"><summary>Earlier runs ({len(older)})</summary>\n"
                 f"{table(older, lessons)}\n</details>\n```\n")
    return text
