"What a notebook's outputs must be: small, stable, made by the present code, and the same as a fresh run's."
import base64
import hashlib
import io
import math
import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nb import Problem, cell_hashes, code_cells, directives, fingerprint, first_line, is_run, nbformat
from packaging.requirements import Requirement
from PIL import Image, ImageChops, ImageStat

WIDGETS = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w])|(?<![\w.])[-+]?(?:nan|inf)(?!\w)")
IDS = [(re.compile(r"0x[0-9a-fA-F]{6,}"), "0x…"),
       (re.compile(r"\b[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\b"), "ID"),
       (re.compile(r"\bT_[0-9a-f]{5,}"), "T_ID"), (re.compile(r"\b[0-9a-f]{32}\b"), "ID"),
       (re.compile(r"sk-container-id-\d+|sk-estimator-id-\d+"), "ID")]
SVG_IDS = re.compile(r'(id|href|url)[="(#]+[\w-]+')
#          float, integer, pixels of size, mean difference of pixels (of 255)
LIMITS = {"same": (1e-3, 0.0, 3, 1.0), "near": (5e-2, 5e-2, 6, 8.0)}


# --- made small and stable, before saving and before comparing -------------------------------------------------------

def shrink(png: str, colours: int = 256) -> str:
    """A PNG with a palette: a third to a half of the bytes, no colour off by more than a few levels of 256.

    The method matters: the usual median cut turns the rare red of a caption into brown."""
    raw = base64.b64decode(png)
    image, small = Image.open(io.BytesIO(raw)), io.BytesIO()
    clear = "A" in image.getbands() and image.getextrema()[-1][0] < 255
    method = Image.Quantize.FASTOCTREE if clear else Image.Quantize.MAXCOVERAGE  # the only one that knows transparency
    image = image.convert("RGBA" if clear else "RGB").quantize(colours, method, dither=Image.Dither.NONE)
    image.save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode() if small.tell() < len(raw) else png


def stable_ids(nb, name: str):
    "Replace the random ids of widgets by ids made from the notebook's name: a second run gives the same bytes."
    state = nb.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {})
    if not state: return nb
    text = nbformat.writes(nb)
    for i, key in enumerate(state): text = text.replace(key, hashlib.md5(f"{name}-{i}".encode()).hexdigest())
    return nbformat.reads(text, 4)


def merge_streams(outputs: list) -> list:
    "Neighbouring pieces of one stream as one output, with carriage returns played out."
    merged = []
    for out in outputs:
        if merged and out.output_type == "stream" == merged[-1].output_type and out.name == merged[-1].name:
            merged[-1].text += out.text
        else: merged.append(out)
    for out in merged:
        if out.output_type == "stream":
            out.text = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in out.text.split("\n"))
    return [out for out in merged if out.output_type != "stream" or out.text]


def tidy(nb, name: str):
    "The executed notebook as it is saved."
    for cell in nb.cells:
        if cell.cell_type != "code": continue
        cell.outputs = merge_streams(cell.outputs)
        for out in cell.outputs:
            data = out.get("data", {})
            if "image/png" in data: data["image/png"] = shrink(data["image/png"])
            if out.output_type == "error": out.traceback = [ANSI.sub("", line) for line in out.traceback]
            if VIEW in data and len(data) > 1: data.pop("text/html", None)
    nb.metadata = nbformat.from_dict({k: v for k, v in nb.metadata.items() if k in ("kernelspec", "widgets")})
    for model in nb.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {}).values():
        for out in model.get("state", {}).get("outputs", []):  # pictures that `interact` drew
            if "image/png" in out.get("data", {}): out["data"]["image/png"] = shrink(out["data"]["image/png"])
    nb.metadata["language_info"] = {"name": "python"}
    return stable_ids(nb, name)


def stamp(nb) -> None:
    "Write down which code made these outputs, and on what kind of machine."
    nb.metadata["course_lib"] = {"code_sha256": fingerprint(nb), "cells": " ".join(cell_hashes(nb)),
                                 "made_on": machine()}


# --- what made them --------------------------------------------------------------------------------------------------

def machine() -> str:
    "The kind of machine, as far as it can move the last digits of a result."
    arch = platform.machine().lower().replace("amd64", "x86_64")
    if sys.platform != "linux": return f"{sys.platform} {arch}"
    info = Path("/proc/cpuinfo")
    flags = set(re.findall(r"\w+", info.read_text(errors="replace")[:20000])) if info.exists() else set()
    level = next((name for name in ("avx512f", "avx2", "asimd") if name in flags), "plain")
    maker = next((name for name in ("GenuineIntel", "AuthenticAMD") if name in flags), "")  # MKL takes another way on each
    return f"linux {arch} {level} {maker}".rstrip()


def pinned_versions_differ(root: Path) -> list[str]:
    "The packages that decide about numbers and pictures, where they are not the pinned ones."
    path = root / ".github" / "constraints.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    pinned = [Requirement(line) for line in lines if "==" in line and not line.startswith("#")]
    pins = {r.name: str(r.specifier)[2:] for r in pinned if r.marker is None or r.marker.evaluate()}
    differ = []
    for name in ("torch", "numpy", "matplotlib", "pandas", "scikit-learn"):
        try: here = version(name).split("+")[0]
        except PackageNotFoundError: continue
        if name in pins and pins[name] != here: differ.append(f"{name} {here} instead of {pins[name]}")
    return differ


def level(nb, root: Path) -> tuple[str, str]:
    "How closely fresh outputs must equal the saved ones here ('same', 'near', 'off'), and why."
    asked = os.environ.get("COURSE_COMPARE", "")
    if asked: return asked, "COURSE_COMPARE"
    made_on = nb.metadata.get("course_lib", {}).get("made_on", "")
    if made_on.split()[:2] != machine().split()[:2]: return "off", f"saved on {made_on or '?'}, this is {machine()}"
    if os.environ.get("COURSE_PROFILE", "quick") != "quick": return "off", "not the quick profile"
    differ = pinned_versions_differ(root)
    if differ: return "off", ", ".join(differ)
    return ("same", "") if made_on == machine() else ("near", f"saved on {made_on}, this is {machine()}")


# --- do the saved outputs belong to the present code? (nothing is run) -----------------------------------------------

def check_saved(nb, where: str) -> list[Problem]:
    "Everything that can be seen to be wrong with saved outputs without running the notebook."
    mend = f"`make run NB={where}`"
    meta = nb.metadata.get("course_lib", {})
    if "code_sha256" not in meta: return [Problem(where, f"its outputs were not saved by {mend}")]
    found = []
    if meta["code_sha256"] != fingerprint(nb):
        old, cells = meta.get("cells", "").split(), [c for c in code_cells(nb) if c[1].source.strip()]
        changed = [(i, c) for i, c in cells if cell_hashes_of(c) not in old]
        lines = [f"cell {i}: {first_line(c)}" for i, c in changed[:4]] or ["cells were moved or removed"]
        found.append(Problem(where, f"stale outputs: the code was changed after they were made; run {mend}", lines))
    counts = [c.execution_count for c in nb.cells if is_run(c)]
    if counts != list(range(1, len(counts) + 1)):
        found.append(Problem(where, f"execution counts are {counts[:6]}..., not 1..{len(counts)}: this is not one run "
                             f"from top to bottom; run {mend}"))
    for i, cell in code_cells(nb): found += check_cell_outputs(cell, where, i)
    return found


def cell_hashes_of(cell) -> str:
    return hashlib.sha256(cell.source.encode()).hexdigest()[:6]


def check_cell_outputs(cell, where: str, number: int) -> list[Problem]:
    "Outputs that must not be shown to a reader: errors, warnings, paths and addresses of one machine."
    found, here = [], f"{where} cell {number} ({first_line(cell)})"
    expected = directives(cell.source).get("raises")
    errors = [o for o in cell.outputs if o.output_type == "error"]
    for out in errors:
        if expected is None or out.ename != expected:
            found.append(Problem(here, f"a saved error: {out.ename}: {out.evalue[:120]}"))
    if expected is not None and is_run(cell) and not errors:
        found.append(Problem(here, f"says `#| raises: {expected}`, but no error came"))
    for out in cell.outputs:
        text = text_of(out)
        if out.output_type == "stream" and out.name == "stderr":
            found.append(Problem(here, "a saved warning or message on stderr", text.strip().splitlines()[:3]))
        home = re.search(r"(?:/(?:home|Users|root|tmp)/|C:\\\\?Users)[\w./\\-]*", text)
        if home and out.output_type != "error":
            found.append(Problem(here, f"the output holds a path of one machine: {home[0][:60]}"))
        address = re.search(r"\bat 0x[0-9a-fA-F]{6,}", text)
        if address: found.append(Problem(here, f"the output holds an address of one run: {address[0]}"))
    return found


def text_of(out) -> str:
    "All text of an output."
    if out.output_type == "stream": return out.text
    if out.output_type == "error": return f"{out.ename}: {out.evalue}"
    return "\n".join(str(v) for k, v in out.get("data", {}).items() if k.startswith("text/") and VIEW not in out["data"])


# --- are fresh outputs the saved ones? -------------------------------------------------------------------------------

def compare(saved, fresh, where: str, how: str) -> list[Problem]:
    "Each cell whose fresh output differs from its saved one, with both shown; at most four."
    found = []
    for (number, old), (_, new) in zip(code_cells(saved), code_cells(fresh)):
        loose = "varies" in directives(old.source)
        lines = compare_cell(old.outputs, new.outputs, how, loose)
        if lines:
            found.append(Problem(f"{where} cell {number} ({first_line(old)})", "its output drifted: a fresh run gives "
                                 "another one than is saved", lines))
    if len(found) > 4: found[4:] = [Problem(where, f"{len(found) - 4} more cells drifted")]
    return found


def kinds(outputs: list) -> list[str]:
    return [f"{o.output_type}:{o.get('name') or '+'.join(sorted(o.get('data', {})))}" for o in outputs]


def compare_cell(old: list, new: list, how: str, loose: bool = False) -> list[str]:
    "What differs between two lists of outputs; [] if nothing does."
    old, new = merge_streams(list(old)), merge_streams(list(new))
    if kinds(old) != kinds(new):
        return [f"saved: {', '.join(kinds(old)) or 'nothing'}", f"fresh: {', '.join(kinds(new)) or 'nothing'}"]
    if loose: return []
    for a, b in zip(old, new):
        lines = compare_text(a.text, b.text, how) if a.output_type == "stream" else []
        for mime in a.get("data", {}):
            x, y = a["data"][mime], b["data"][mime]
            if VIEW in a["data"]: continue  # the widget's ids and its plain-text fallback
            if mime in ("image/png", "image/jpeg"): lines = compare_images(x, y, how)
            elif mime == "image/svg+xml": lines = compare_text(SVG_IDS.sub("", x), SVG_IDS.sub("", y), how)
            elif mime.startswith("text/") or "json" in mime: lines = compare_text(str(x), str(y), how)
            if lines: break
        if lines: return lines
    return []


def compare_text(old: str, new: str, how: str) -> list[str]:
    "The first place where two texts differ by more than their numbers may."
    for pattern, word in IDS: old, new = pattern.sub(word, old), pattern.sub(word, new)
    words = [re.split(r"\s+", NUMBER.sub("#", t).strip()) for t in (old, new)]
    numbers = [NUMBER.findall(t) for t in (old, new)]
    if [w.strip("-=") for w in words[0]] != [w.strip("-=") for w in words[1]] or len(numbers[0]) != len(numbers[1]):
        return side_by_side(old, new, lambda a, b: a.split() != b.split())
    if all(close(a, b, how) for a, b in zip(*numbers)): return []
    return side_by_side(old, new, lambda a, b: not all(
        close(x, y, how) for x, y in zip(NUMBER.findall(a), NUMBER.findall(b))))


def close(a: str, b: str, how: str) -> bool:
    "Are two printed numbers equal, for this kind of machine? The last printed digit may always differ by one."
    if a == b: return True
    real, whole, _, _ = LIMITS[how]
    x, y = float(a), float(b)
    if math.isnan(x) or math.isnan(y) or math.isinf(x) or math.isinf(y): return a.lstrip("+") == b.lstrip("+")
    if not re.search(r"[.eE]", a + b):
        return abs(x - y) <= (max(3.0, whole * max(abs(x), abs(y))) if whole else 0.0)
    if max(abs(x), abs(y)) < 1e-6: return True
    return abs(x - y) <= max(real * max(abs(x), abs(y)), 1.01 * max(unit(a), unit(b)))


def unit(number: str) -> float:
    "What one step of the last printed digit is worth: 0.01 for '3.14'."
    mantissa, _, exponent = number.lower().partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def side_by_side(old: str, new: str, differs) -> list[str]:
    "The first line that differs, as saved and as fresh."
    before, after = old.strip().splitlines(), new.strip().splitlines()
    for a, b in zip(before, after):
        if differs(a, b): return [f"saved: {a.strip()[:150]}", f"fresh: {b.strip()[:150]}"]
    extra = (before[len(after):] or after[len(before):] or [old])[0].strip()[:120]
    return [f"saved: {len(before)} lines", f"fresh: {len(after)} lines; the first that only one has: {extra}"]


def compare_images(old: str, new: str, how: str) -> list[str]:
    "Equal in size within a few pixels, and in the mean difference of their pixels."
    _, _, pixels, bound = LIMITS[how]
    if old == new: return []
    a, b = (Image.open(io.BytesIO(base64.b64decode(x))).convert("RGBA") for x in (old, new))
    if max(abs(a.width - b.width), abs(a.height - b.height)) > pixels:
        return [f"saved: picture of {a.width} x {a.height}", f"fresh: picture of {b.width} x {b.height}"]
    box = (0, 0, min(a.width, b.width), min(a.height, b.height))
    mean = max(ImageStat.Stat(ImageChops.difference(a.crop(box), b.crop(box))).mean)
    return [] if mean <= bound else [f"saved: picture {a.width} x {a.height}",
                                     f"fresh: its pixels differ by {mean:.1f} of 255 on average (allowed {bound:g})"]
