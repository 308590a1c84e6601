"""README.md from nbs/index.ipynb: text, code with its outputs, pictures as files of their own (`make export`).

    python .ci/readme.py            write README.md
    python .ci/readme.py --check    say what differs
"""
import argparse
import base64
import difflib
import re
import sys
from pathlib import Path

from nb import ROOT, Problem, body, directives, read

HEAD = "<!-- Made from nbs/index.ipynb by `make export`: edit that. -->"
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)([^)]*\))|((?:src|href)=\")([^\"]+)(\")")


def relink(text: str, root: Path) -> str:
    "Links relative to nbs/ as links relative to the top of the repository; others stay."
    def one(match: re.Match) -> str:
        before, target, after = match.groups()[:3] if match[1] else match.groups()[3:]
        if re.match(r"[a-z]+:|#|/", target) or target.startswith("attachment:"): return match[0]
        moved = target[3:] if target.startswith("../") else f"nbs/{target}"
        return f"{before}{moved}{after}"
    parts = re.split(r"(```.*?```|`[^`\n]*`)", text, flags=re.S)  # code is not touched
    return "".join(p if i % 2 else LINK.sub(one, p) for i, p in enumerate(parts))


def output_text(out, name: str, pictures: dict[str, bytes]) -> str:
    "One output as markdown; a picture becomes a file beside the index."
    data = out.get("data", {})
    if "text/markdown" in data: return data["text/markdown"].strip()
    if "image/png" in data:
        path = f"nbs/images/{name}.png"
        pictures[path] = base64.b64decode(data["image/png"])
        return f"![{name.replace('_', ' ')}]({path})"
    text = out.get("text") or data.get("text/plain", "")
    return "\n".join(f"    {line}".rstrip() for line in text.strip("\n").splitlines())


def render(root: Path = ROOT) -> tuple[str, dict[str, bytes]]:
    "The README's text, and the picture files that it needs."
    parts, pictures = [HEAD], {}
    for i, cell in enumerate(read(root / "nbs" / "index.ipynb").cells):
        found = directives(cell.source)
        if cell.cell_type == "markdown":
            text = "\n".join(line for line in cell.source.splitlines() if not line.startswith("#|"))
            if found.keys() & {"hide"} or not text.strip(): continue
            parts.append(relink(text.strip(), root))
            for file, bundle in cell.get("attachments", {}).items():
                pictures[f"nbs/images/{file}"] = base64.b64decode(next(iter(bundle.values())))
                parts[-1] = parts[-1].replace(f"attachment:{file}", f"nbs/images/{file}")
        elif not ({"hide", "default_exp"} & found.keys() or found.get("include") == "false"):
            if found.get("echo") != "false" and body(cell.source).strip():
                parts.append(f"```python\n{body(cell.source).strip()}\n```")
            texts = [output_text(o, f"index_{i + 1}", pictures) for o in cell.get("outputs", [])]
            parts += [t for t in texts if t]
    return "\n\n".join(parts) + "\n", pictures


def check(root: Path = ROOT) -> list[Problem]:
    "README.md is what the index gives, and its relative links lead somewhere."
    if not (root / "nbs" / "index.ipynb").exists(): return [Problem("nbs/index.ipynb", "is missing: README.md is made of it")]
    text, pictures = render(root)
    path = root / "README.md"
    have = path.read_text(encoding="utf-8") if path.exists() else ""
    found = []
    if have != text:
        diff = difflib.unified_diff(have.splitlines(), text.splitlines(), "README.md", "index", lineterm="", n=0)
        found.append(Problem("README.md", "is not what nbs/index.ipynb gives; change the index and run `make export`",
                             [d for d in diff if not d.startswith("@@")][2:8]))
    for name, data in pictures.items():
        if not (root / name).exists() or (root / name).read_bytes() != data:
            found.append(Problem(name, "is not the picture of nbs/index.ipynb; run `make export`"))
    for match in LINK.finditer(text):
        target = (match[2] or match[5]).split("#")[0]
        if target and not re.match(r"[a-z]+:|/", target) and not (root / target).exists():
            found.append(Problem("README.md", f"a link leads nowhere: {target}"))
    return found


def write(root: Path = ROOT) -> None:
    text, pictures = render(root)
    (root / "README.md").write_text(text, encoding="utf-8")
    for name, data in pictures.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--root", type=Path, default=ROOT)
    args = parser.parse_args()
    if not (args.root / "nbs" / "index.ipynb").exists():
        print("no nbs/index.ipynb yet: README.md is left as it is")
        return int(args.check)
    problems = check(args.root) if args.check else write(args.root) or []
    print("\n".join(map(str, problems)) or "README.md is what nbs/index.ipynb gives")
    return int(bool(problems))


if __name__ == "__main__": sys.exit(main())
