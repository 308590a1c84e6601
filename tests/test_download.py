"Fetching data from a server that misbehaves, out of packages, in several processes, onto a full disk."
import errno
import gzip
import hashlib
import io
import lzma
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import threading
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from faulty_server import FaultyServer, Page

from course_lib.data import download, files, packages, unpack, web
from course_lib.data.download import fetch, fetch_all, is_cached, remove, verify
from course_lib.data.registry import DataError, DataSet, Package, Source, Url
from course_lib.data.web import Patience

ROOT = Path(__file__).parent.parent
HASTY = Patience(connect=9, stall=9, client=60, attempts=3, pause=0.01)  # tries again at once, but waits for a busy machine
BODY = "".join(f"{n},{n * n}\n" for n in range(60_000)).encode()  # about 0.9 MB, no two lines alike
POSIX = os.name == "posix"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def copy_all(raw, out):
    "The converter of the toy data sets: every file below raw/<part>/ by its name."
    for path in raw.rglob("*"):
        if path.is_file():
            shutil.copyfile(path, out / path.name)


def toy(*parts, files=None, name="toy", members=None, convert=copy_all):
    "A data set with one source."
    files = files or {"toy.csv": sha256(BODY)}
    return DataSet(name, "a toy", "CC0", "nobody, 2026", 9, files, (Source(parts, members or {}, convert),))


def snapshot(cache):
    "All that is in the cache but locks, which are empty files and stay."
    files = {p.relative_to(cache).as_posix(): sha256(p.read_bytes()) for p in cache.rglob("*") if p.is_file()}
    folders = {p.name for p in cache.iterdir() if p.name != ".work"}
    building = {p.name for p in (cache / ".work" / "build").glob("*")}
    return {path: s for path, s in files.items() if not path.startswith(".work/locks/")}, folders, building


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "An empty cache, and a process that remembers nothing about the network."
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv("COURSE_SOURCES", raising=False)
    for proxy in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    web.forget_hosts()
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def server():
    with FaultyServer() as running:
        yield running


def get(data, said=None):
    return fetch(data, (said if said is not None else []).append, progress=False, patience=HASTY)


def refused(data, *words, cache):
    "Fetching fails with a message that has these words, on one line, and leaves the cache exactly as it was."
    before = snapshot(cache)
    with pytest.raises(DataError) as caught:
        get(data)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and f"python data_download.py {data.name}" in message
    assert snapshot(cache) == before
    assert not is_cached(data)


@pytest.fixture
def other(cache):
    "Something else is in the cache already, so that 'exactly as it was' says something."
    get(DataSet("other", "another", "CC0", "nobody", 0, {"a.txt": sha256(b"a")},
                (Source((), {}, lambda raw, out: (out / "a.txt").write_bytes(b"a")),)))


# --- the web ---------------------------------------------------------------------------------------------------


def test_good_server(cache, server):
    server.pages["/toy.csv"] = Page(BODY)
    said, data = [], toy(Url(server.url("/toy.csv"), len(BODY), sha256(BODY)))
    folder = get(data, said)
    assert folder == cache / "toy" and [p.name for p in folder.iterdir()] == ["toy.csv"]
    assert (folder / "toy.csv").read_bytes() == BODY
    host = server.url("").removeprefix("http://")
    assert said == [f"toy: from {host}, {files.human_size(len(BODY))}; sha256 of 1 file as expected"]
    assert get(data, said) == folder and len(said) == 1 and len(server.asked) == 1  # the second time: from the cache
    assert "course_lib" in server.asked[0][2]
    assert {p.name for p in cache.iterdir()} == {"toy", ".work"}
    assert not list((cache / ".work/build").iterdir()) and not list((cache / ".work/partial").iterdir())
    assert stat.S_IMODE(folder.stat().st_mode) & 0o055 == (0o055 & ~current_umask()) or not POSIX


def current_umask():
    os.umask(old := os.umask(0))
    return old


def test_cut_off_in_the_middle_is_resumed(cache, server):
    server.pages["/toy.csv"] = Page(BODY, cuts=[100_000, 50_000])
    get(toy(Url(server.url("/toy.csv"), len(BODY), sha256(BODY))))
    assert server.ranges("/toy.csv") == [None, "bytes=100000-", "bytes=150000-"]
    assert server.sent == len(BODY)  # not one byte twice


def test_cut_off_without_a_length_is_noticed_by_size(cache, server):
    server.pages["/toy.csv"] = Page(BODY, cuts=[100_000], length=-1)
    get(toy(Url(server.url("/toy.csv"), len(BODY), sha256(BODY))))
    assert server.ranges("/toy.csv") == [None, "bytes=100000-"]


def test_range_ignored(cache, server):
    server.pages["/toy.csv"] = Page(BODY, cuts=[100_000], ranges=False)
    folder = get(toy(Url(server.url("/toy.csv"), len(BODY), sha256(BODY))))
    assert (folder / "toy.csv").read_bytes() == BODY
    assert server.ranges("/toy.csv") == [None, "bytes=100000-"]


def test_wrong_part_of_the_file(cache, server):
    "A server that answers with another part than the one asked for is not believed; from the start it is."
    server.pages["/toy.csv"] = page = Page(BODY, cuts=[100_000])
    url = Url(server.url("/toy.csv"), len(BODY), sha256(BODY))
    real = web._check_status

    def then_wrong(response, host):
        page.wrong_range = len(server.asked) == 1  # only the second answer is wrong
        return real(response, host)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "_check_status", then_wrong)
        folder = get(toy(url))
    assert (folder / "toy.csv").read_bytes() == BODY
    assert server.ranges("/toy.csv") == [None, "bytes=100000-", None]


def test_file_changed_between_two_pieces(cache, server):
    server.pages["/toy.csv"] = page = Page(b"x" * len(BODY), cuts=[100_000])
    piece_of_old = toy(Url(server.url("/toy.csv"), len(BODY), sha256(BODY)))
    real = web._transfer

    def then_new(*args):
        try:
            return real(*args)
        finally:
            page.body = BODY

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "_transfer", then_new)
        assert (get(piece_of_old) / "toy.csv").read_bytes() == BODY
    assert server.ranges("/toy.csv") == [None, "bytes=100000-", None]


def test_slow_server(cache, server):
    server.pages["/toy.csv"] = Page(BODY[:8000], pause=0.05, piece=1000)
    data = toy(Url(server.url("/toy.csv")), files={"toy.csv": sha256(BODY[:8000])})
    assert (get(data) / "toy.csv").stat().st_size == 8000
    assert len(server.asked) == 1  # slow is not broken


def test_stalled_server(cache, server, other, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "HASTY", Patience(connect=9, stall=0.3, attempts=3, pause=0.01))
    server.pages["/toy.csv"] = Page(BODY, stall_at=0)
    refused(toy(Url(server.url("/toy.csv"), len(BODY))), "nothing came for 0.3 s", "3 attempts", cache=cache)


@pytest.mark.parametrize("body, words", [(BODY[:-1] + b"!", "wrong bytes"), (BODY[:-9], "it offers"), (BODY + b"!", "it offers")])
def test_wrong_bytes(cache, server, other, body, words):
    server.pages["/toy.csv"] = Page(body)
    refused(toy(Url(server.url("/toy.csv"), len(BODY), sha256(BODY))), words, cache=cache)
    assert len(server.asked) == 1


def test_wrong_bytes_where_only_the_result_is_pinned(cache, server, other):
    server.pages["/toy.csv"] = Page(BODY[:-1] + b"!")
    refused(toy(Url(server.url("/toy.csv"))), "toy.csv is not what it should be", cache=cache)


def test_endless_answer(cache, server, other):
    server.pages["/toy.csv"] = Page(BODY * 3, length=-1)
    refused(toy(Url(server.url("/toy.csv"), len(BODY))), "more came than", cache=cache)


@pytest.mark.parametrize("status, times", [(404, 1), (403, 1), (410, 1), (500, 3), (503, 3)])
def test_status(cache, server, other, status, times):
    server.pages["/toy.csv"] = Page(status=status)
    refused(toy(Url(server.url("/toy.csv"))), str(status), cache=cache)
    assert len(server.asked) == times  # what may pass is tried again, what won't is not


def test_overloaded_for_a_moment(cache, server):
    server.pages["/toy.csv"] = Page(BODY, failures=[503, 429])
    get(toy(Url(server.url("/toy.csv"))))
    assert len(server.asked) == 3


def test_redirect(cache, server):
    server.pages["/old"] = Page(status=301, location="/toy.csv")
    server.pages["/toy.csv"] = Page(BODY)
    get(toy(Url(server.url("/old")), convert=lambda raw, out: shutil.copyfile(raw / "0/old", out / "toy.csv")))


def test_redirect_loop(cache, server, other):
    server.pages |= {"/a": Page(status=302, location="/b"), "/b": Page(status=302, location="/a")}
    refused(toy(Url(server.url("/a"))), "more than 5 redirects", cache=cache)
    assert len(server.asked) == 6


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://example.org/x", "http://[broken"])
def test_redirect_out_of_the_web(cache, server, other, where):
    server.pages["/a"] = Page(status=302, location=where)
    refused(toy(Url(server.url("/a"))), "127.0.0.1", cache=cache)


def test_bytes_as_stored_not_as_unpacked(cache, server):
    "A server that calls a .gz file 'encoded' must not make us unpack it on the way."
    packed = gzip.compress(BODY)
    server.pages["/toy.csv.gz"] = Page(packed, headers={"Content-Encoding": "gzip"})
    data = toy(Url(server.url("/toy.csv.gz"), len(packed), sha256(packed), ("*",)))
    assert (get(data) / "toy.csv").read_bytes() == BODY


def test_no_network_and_no_cache(cache, other):
    refused(toy(Url("http://127.0.0.1:9/toy.csv")), "127.0.0.1:9: no connection", "not in the cache", str(cache), cache=cache)


def test_unreachable_machines_are_asked_once(cache, other):
    refused(toy(Url("http://127.0.0.1:9/a.csv")), "no connection", cache=cache)
    refused(toy(Url("http://127.0.0.1:9/b.csv")), "not asked again", cache=cache)
    refused(toy(Url("http://nowhere.invalid/c.csv")), "no such machine, or no network", cache=cache)
    refused(toy(Url("http://elsewhere.invalid/d.csv")), "not asked, since 127.0.0.1:9 and nowhere.invalid", cache=cache)


def test_network_that_comes_back(cache, server, monkeypatch):
    "What was unreachable is asked again after a minute (here: at once)."
    monkeypatch.setattr(web, "_MEMORY", 0)
    data = toy(Url(server.url("/toy.csv")))
    with monkeypatch.context() as patch:
        patch.setattr(web, "_knock", lambda url, seconds: "no answer")
        with pytest.raises(DataError, match="no answer"):
            get(data)
    server.pages["/toy.csv"] = Page(BODY)
    get(data)


def test_name_that_takes_forever_to_look_up(monkeypatch):
    end = threading.Event()

    def look_up(*args):
        end.wait(20)
        raise OSError("too late")

    monkeypatch.setattr(web.socket, "create_connection", look_up)
    start = time.monotonic()
    assert web._knock("http://example.org/x", 0.2) == "no answer" and time.monotonic() - start < 5
    end.set()


def test_silence_is_given_up_after_the_time_to_connect(cache, other, monkeypatch):
    "An address that swallows everything: the machine behind a company's wall."
    import socket
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(8)]  # fill the queue, so that the next connection hangs
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        monkeypatch.setattr(sys.modules[__name__], "HASTY", Patience(connect=0.3, stall=0.3, attempts=3, pause=0.01))
        start = time.monotonic()
        refused(toy(Url(f"http://127.0.0.1:{deaf.getsockname()[1]}/toy.csv")), "no answer", cache=cache)
        assert time.monotonic() - start < 4  # the time to connect that holds elsewhere is 5
        for filler in fillers:
            filler.close()


# --- from one source to the next -------------------------------------------------------------------------------


def two_sources(server):
    first, second = Url(server.url("/gone.csv")), Url(server.url("/toy.csv"), len(BODY))
    data = toy(first)
    return DataSet("toy", "a toy", "CC0", "nobody", 9, data.files, (data.sources[0], Source((second,), {}, copy_all)))


def test_next_source(cache, server):
    server.pages["/toy.csv"] = Page(BODY)
    said = []
    get(two_sources(server), said)
    assert len(said) == 2 and "404" in said[0] and "trying" in said[0] and "as expected" in said[1]


def test_all_reasons_are_told(cache, server, other):
    server.pages["/toy.csv"] = Page(status=403)
    refused(two_sources(server), "404", "403", cache=cache)


def test_preference(cache, server, monkeypatch):
    package = Package("npm", "toy", "1.0", 9, "0" * 64, ("*",))
    mixed = DataSet("toy", "a toy", "CC0", "nobody", 9, {"toy.csv": sha256(BODY)},
                    (Source((Url(server.url("/toy.csv")),), {}, copy_all), Source((package,), {}, copy_all)))
    kinds = lambda: [source.kind for source in download.ordered_sources(mixed)]
    assert kinds() == ["canonical", "package"]
    monkeypatch.setenv("COURSE_SOURCES", "package")
    assert kinds() == ["package", "canonical"]
    monkeypatch.setenv("COURSE_SOURCES", "pakage")
    with pytest.raises(ValueError, match="COURSE_SOURCES.*'pakage'.*did you mean 'package'"):
        fetch(mixed)


def test_converter_that_fails(cache, server, other):
    def broken(raw, out):
        (out / "toy.csv").write_text("half")
        raise RuntimeError("no label\nand more")
    server.pages["/toy.csv"] = Page(BODY)
    refused(toy(Url(server.url("/toy.csv")), convert=broken), "converting failed: RuntimeError: no label and more", cache=cache)


def test_converter_that_leaves_more_than_promised(cache, server, other):
    server.pages |= {"/toy.csv": Page(BODY), "/more.csv": Page(b"more")}
    refused(toy(Url(server.url("/toy.csv")), Url(server.url("/more.csv"))), "more.csv is not in the registry", cache=cache)


def test_members_are_checked_before_converting(cache, server, other):
    called = []
    server.pages["/toy.csv"] = Page(BODY)
    data = toy(Url(server.url("/toy.csv")), members={"0/toy.csv": "0" * 64}, convert=lambda raw, out: called.append(1))
    refused(data, "0/toy.csv is not what it should be", cache=cache)
    assert not called


# --- archives --------------------------------------------------------------------------------------------------


def make_zip(entries):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            z.writestr(info, data)
    return out.getvalue()


def make_tar(entries, mode="w:gz"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, data, kind, target in entries:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, target
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def make_deb(data_tar, name=b"data.tar.xz"):
    parts = [(b"debian-binary", b"2.0\n"), (b"control.tar.xz", b"odd"), (name, data_tar)]
    heads = [n.ljust(16) + b"0".ljust(12) + b"0".ljust(6) + b"0".ljust(6) + b"100644".ljust(8)
             + str(len(d)).encode().ljust(10) + b"`\n" for n, d in parts]
    return b"!<arch>\n" + b"".join(h + d + b"\n" * (len(d) % 2) for h, (_, d) in zip(heads, parts, strict=True))


FILE, LINK, HARD, FIFO = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE
INNOCENT = ("toy.csv", BODY, FILE, "")
EVIL = {
    "climbs.zip": make_zip([("toy.csv", BODY, 0o644), ("../../../../up.txt", b"!", 0o644)]),
    "absolute.zip": make_zip([("toy.csv", BODY, 0o644), ("/tmp/course_lib_up.txt", b"!", 0o644)]),
    "backslash.zip": make_zip([("toy.csv", BODY, 0o644), ("..\\up.txt", b"!", 0o644)]),
    "drive.zip": make_zip([("toy.csv", BODY, 0o644), ("C:/up.txt", b"!", 0o644)]),
    "link.zip": make_zip([("toy.csv", b"/etc/passwd", stat.S_IFLNK | 0o777)]),
    "twice.zip": make_zip([("toy.csv", BODY, 0o644), ("toy.csv/x", BODY, 0o644)]),
    "climbs.tgz": make_tar([INNOCENT, ("a/../../up.txt", b"!", FILE, "")]),
    "absolute.tar": make_tar([INNOCENT, ("/tmp/course_lib_up.txt", b"!", FILE, "")], "w"),
    "link.tgz": make_tar([("toy.csv", b"", LINK, "/etc/passwd")]),
    "hardlink.tgz": make_tar([INNOCENT, ("other.csv", b"", HARD, "../../up.txt")]),
    "link_folder.tgz": make_tar([("sub", b"", LINK, "/tmp"), ("sub/toy.csv", BODY, FILE, "")]),
    "fifo.tar.xz": make_tar([INNOCENT, ("pipe", b"", FIFO, "")], "w:xz"),
    "twice.tar": make_tar([INNOCENT, INNOCENT], "w"),
    "climbs.deb": make_deb(lzma.compress(make_tar([INNOCENT, ("./../up.txt", b"!", FILE, "")], "w"))),
    "bomb.zip": make_zip([("toy.csv", bytes(80_000_000), 0o644)]),
    "bomb.gz": gzip.compress(bytes(80_000_000)),
}


@pytest.mark.parametrize("name", EVIL)
def test_evil_archive(cache, server, other, tmp_path, name):
    server.pages[f"/{name}"] = Page(EVIL[name])
    data = toy(Url(server.url(f"/{name}"), len(EVIL[name]), sha256(EVIL[name]), ("*",)))
    refused(data, name, "refused", "bomb" if "bomb" in name else "member", cache=cache)
    assert not list(tmp_path.glob("**/up.txt")) and not Path("/tmp/course_lib_up.txt").exists()


DAMAGED = {"cut.zip": EVIL["climbs.zip"][:300], "cut.tgz": EVIL["climbs.tgz"][:300], "cut.deb": EVIL["climbs.deb"][:300],
           "page.zip": b"<html>Please log in</html>", "empty.gz": b"",
           "bad_crc.gz": gzip.compress(BODY)[:-8] + b"\0" * 8, "not_a.deb": b"!<arch>\nrubbish" * 20}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_archive(cache, server, other, name):
    server.pages[f"/{name}"] = Page(DAMAGED[name])
    refused(toy(Url(server.url(f"/{name}"), take=("*",))), name, cache=cache)


ROUND = make_tar([("./usr/share/toy.csv", BODY, FILE, ""), ("./usr/share/doc/link", b"", LINK, "../x"),
                  ("./usr/share/dev", b"", FIFO, "")], "w")
GOOD = {"a.zip": make_zip([("usr/share/toy.csv", BODY, 0o644), ("readme", b"", 0o644)]), "a.tar": ROUND,
        "a.tgz": gzip.compress(ROUND), "a.tar.xz": lzma.compress(ROUND), "a.deb": make_deb(lzma.compress(ROUND)),
        "b.deb": make_deb(gzip.compress(ROUND), b"data.tar.gz/"), "toy.csv.xz": lzma.compress(BODY)}


@pytest.mark.parametrize("name", GOOD)
def test_good_archive(cache, server, name):
    "Only what is wanted is unpacked; links and devices that nobody asked for do no harm."
    server.pages[f"/{name}"] = Page(GOOD[name])
    folder = get(toy(Url(server.url(f"/{name}"), take=("*.csv",)), members={
        "0/toy.csv" if name == "toy.csv.xz" else "0/usr/share/toy.csv": sha256(BODY)}))
    assert [p.name for p in folder.iterdir()] == ["toy.csv"]


def test_member_that_is_not_there(cache, server, other):
    server.pages["/a.zip"] = Page(GOOD["a.zip"])
    refused(toy(Url(server.url("/a.zip"), take=("usr/share/tyo.csv",))), "no member matches", "'usr/share/toy.csv'", cache=cache)


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb to make a package with zstd")
def test_deb_with_zstd(cache, server, tmp_path):
    for folder, name, text in (("DEBIAN", "control", b"Package: toy\nVersion: 1\nArchitecture: all\n"
                                b"Maintainer: n <n@n.n>\nDescription: toy\n"), ("usr", "toy.csv", BODY)):
        (tmp_path / "pkg" / folder).mkdir(parents=True)
        (tmp_path / "pkg" / folder / name).write_bytes(text)
    made = subprocess.run(["dpkg-deb", "-Zzstd", "--build", tmp_path / "pkg", tmp_path / "toy.deb"], capture_output=True)
    if made.returncode:
        pytest.skip("this dpkg-deb knows no zstd")
    server.pages["/toy.deb"] = Page((tmp_path / "toy.deb").read_bytes())
    get(toy(Url(server.url("/toy.deb"), take=("usr/*.csv",))))


def test_unpack_limit(tmp_path):
    (tmp_path / "a.zip").write_bytes(GOOD["a.zip"])
    assert unpack.unpack(tmp_path / "a.zip", ["*.csv"], tmp_path / "x", limit=len(BODY)) == ["usr/share/toy.csv"]
    with pytest.raises(DataError, match="refused.*'usr/share/toy.csv'"):
        unpack.unpack(tmp_path / "a.zip", ["*.csv"], tmp_path / "y", limit=len(BODY) - 1)


def test_bomb_is_stopped_while_it_unpacks(tmp_path, monkeypatch):
    (tmp_path / "bomb.gz").write_bytes(EVIL["bomb.gz"])
    real, sizes = unpack._copy, []
    monkeypatch.setattr(unpack, "_copy", lambda *args: sizes.append(real(*args)) or sizes[-1])
    with pytest.raises(DataError, match="far more than its size"):
        unpack.unpack(tmp_path / "bomb.gz", ["*"], tmp_path / "x", limit=1000)
    assert sizes == [1001] and not list((tmp_path / "x").iterdir())


def test_pickle_with_a_forbidden_name(cache, server, other, tmp_path):
    from course_lib.data.unpickle import read_frame

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    body = lzma.compress(pickle.dumps(Evil()))
    server.pages["/evil.pkl"] = Page(body)
    open_it = lambda raw, out: read_frame(raw / "0/evil.pkl", "evil", {"evil": sha256(body)})
    refused(toy(Url(server.url("/evil.pkl")), convert=open_it), "converting failed", "mkdir", cache=cache)
    assert not (tmp_path / "owned").exists()


# --- the disk --------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    "A real disk of 4 MB for the cache."
    (tmp_path / "disk").mkdir()
    mounted = POSIX and shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path / "disk")], capture_output=True).returncode == 0
    if not mounted:
        pytest.skip("no right to mount a small disk; the same is tested with an error that is made up")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "disk"))
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def test_too_little_room_is_told_before(cache, server, small_disk):
    refused(toy(Url(server.url("/toy.csv"), 3_000_000)), "needs at least 6.0 MB", "4.2 MB are free", "COURSE_DATA",
            cache=small_disk)
    assert server.asked == []


def disk_full(data, cache):
    before = snapshot(cache)
    with pytest.raises(DataError, match=f"^toy: the disk is full .*{cache}.*make room") as caught:
        get(data)
    assert "\n" not in str(caught.value)
    assert snapshot(cache) == before


def test_disk_full_while_downloading(cache, server, small_disk):
    server.pages["/toy.csv"] = Page(BODY * 10, length=-1)
    disk_full(toy(Url(server.url("/toy.csv"))), small_disk)
    assert shutil.disk_usage(small_disk).free > 4_000_000


def test_disk_full_while_unpacking(cache, server, small_disk):
    server.pages["/toy.zip"] = Page(make_zip([("toy.csv", bytes(9_000_000), 0o644)]))
    disk_full(toy(Url(server.url("/toy.zip"), take=("*",))), small_disk)


def test_disk_full_while_converting(cache, server, small_disk):
    "NumPy raises an error without the system's number when a disk is full."
    import numpy as np
    server.pages["/toy.csv"] = Page(BODY)
    disk_full(toy(Url(server.url("/toy.csv")), convert=lambda raw, out: np.save(out / "x.npy", np.ones(900_000))), small_disk)


@pytest.mark.parametrize("where", ["course_lib.data.unpack._copy", "course_lib.data.web._receive", "shutil.copy2"])
def test_disk_full_told_anywhere(cache, server, other, monkeypatch, where):
    def full(*args, **named):
        raise OSError(errno.ENOSPC, "No space left on device")
    server.pages["/toy.zip"] = Page(GOOD["a.zip"])
    monkeypatch.setattr(where, full)
    disk_full(toy(Url(server.url("/toy.zip"), take=() if "copy2" in where else ("*.csv",))), cache)


@pytest.mark.skipif(not POSIX, reason="rights are given another way there")
def test_cache_that_may_not_be_written_to(cache, server, monkeypatch):
    "What is in it can be used, nothing can be added. (Root may write anywhere, so root becomes nobody for a moment.)"
    import filelock
    import requests
    assert filelock and requests  # nobody may not even read the packages
    server.pages["/toy.csv"] = Page(BODY)
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("COURSE_DATA", folder)
        there, other = toy(Url(server.url("/toy.csv"))), toy(Url(server.url("/toy.csv")), name="other")
        get(there)
        shutil.rmtree(Path(folder) / ".work")
        os.chmod(folder, 0o555)
        try:
            with as_nobody():
                assert get(there) == Path(folder) / "toy" and verify(there) == 1
                with pytest.raises(DataError, match="other: .* may not be written to.*COURSE_DATA"):
                    get(other)
        finally:
            os.chmod(folder, 0o755)


@contextmanager
def as_nobody():
    "Without the rights of root, for a test that needs to be refused."
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


# --- processes -------------------------------------------------------------------------------------------------

CHILD = textwrap.dedent("""
    import shutil, sys
    sys.path.insert(0, {root!r})
    from course_lib.data.download import fetch
    from course_lib.data.registry import DataSet, Source, Url
    copy = lambda raw, out: shutil.copyfile(raw / "0/toy.csv", out / "toy.csv")
    source = Source((Url(sys.argv[1], {n}, {sha256!r}),), {{}}, copy)
    print(fetch(DataSet("toy", "a toy", "CC0", "nobody", 9, {{"toy.csv": {sha256!r}}}, (source,)), progress=False))
""")


def child(url):
    code = CHILD.format(root=str(ROOT), n=len(BODY), sha256=sha256(BODY))
    return subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_two_processes_at_once(cache, server):
    "The second waits, and finds it done: one download."
    server.pages["/toy.csv"] = page = Page(BODY, hold_at=20_000, piece=20_000)
    first = child(server.url("/toy.csv"))
    wait_until(lambda: server.sent > 0)
    said, data = [], toy(Url(server.url("/toy.csv"), len(BODY), sha256(BODY)))
    hear = lambda line: (said.append(line), page.go.set())  # the first may go on once the second waits for it
    folder = fetch(data, hear, progress=False, patience=HASTY)
    assert said == ["toy: another process is fetching it; waiting for it"]
    assert (folder / "toy.csv").read_bytes() == BODY and len(server.asked) == 1
    output = first.communicate(timeout=60)[0]
    assert first.returncode == 0 and str(folder) in output and "as expected" in output, output


def test_killed_process(cache, server):
    "What a killed run leaves is swept away, and its piece of the download is used."
    server.pages["/toy.csv"] = page = Page(BODY, hold_at=300_000, piece=100_000)
    killed = child(server.url("/toy.csv"))
    wait_until(lambda: server.sent >= 200_000 and any((cache / ".work/partial/toy").glob("*"))
               and next((cache / ".work/partial/toy").glob("*")).stat().st_size >= 100_000)
    os.kill(killed.pid, signal.SIGKILL if POSIX else signal.SIGTERM)
    killed.communicate(timeout=60)
    assert list((cache / ".work/build").iterdir()) and not (cache / "toy").exists()
    at = next((cache / ".work/partial/toy").glob("*")).stat().st_size
    page.go.set()
    get(toy(Url(server.url("/toy.csv"), len(BODY), sha256(BODY))))
    assert server.ranges("/toy.csv") == [None, f"bytes={at}-"] and at > 0
    assert not list((cache / ".work/build").iterdir()) and not list((cache / ".work/partial").iterdir())


def test_rubbish_of_others_is_swept_but_not_their_work(cache, server):
    from course_lib.data.cache import build_folder, locked
    (cache / ".work/build/gone.abc/raw").mkdir(parents=True)
    old, new = cache / ".work/partial/old", cache / ".work/partial/new"
    for folder, age in ((old, 30 * 86_400), (new, 60)):
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - age,) * 2)
    server.pages["/toy.csv"] = Page(BODY)
    with locked("busy"), build_folder("busy") as busy:
        get(toy(Url(server.url("/toy.csv"))))
        assert busy.is_dir()
    assert not (cache / ".work/build/gone.abc").exists() and not old.exists() and new.exists()


def test_interrupted_by_the_reader(cache, server, monkeypatch):
    "Ctrl-C: nothing is left but the piece that the next run goes on from."
    server.pages["/toy.csv"] = Page(BODY, cuts=[100_000])

    def interrupted(*args):
        real(*args)
        raise KeyboardInterrupt

    real = web._write_stream
    monkeypatch.setattr(web, "_write_stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        get(toy(Url(server.url("/toy.csv"), len(BODY))))
    files, folders, building = snapshot(cache)
    assert (len(files), folders, building) == (1, set(), set())


# --- looking after the cache -----------------------------------------------------------------------------------


def test_verify_and_mend(cache, server):
    server.pages["/toy.csv"] = Page(BODY)
    data, said = toy(Url(server.url("/toy.csv"))), []
    file = get(data) / "toy.csv"
    assert verify(data) == 1
    file.write_bytes(BODY[:-1] + b"!")  # the same size: only reading tells
    assert is_cached(data)
    with pytest.raises(DataError, match="toy: toy.csv is not what it should be.*python data_download.py toy$"):
        verify(data)
    assert not is_cached(data)
    get(data, said)
    assert "damaged" in said[0] and file.read_bytes() == BODY and is_cached(data)
    file.write_bytes(BODY[:100])  # another size: seen at once
    assert not is_cached(data)


def test_mending_that_fails_keeps_what_there_was(cache, server, other):
    server.pages["/toy.csv"] = Page(BODY)
    data = toy(Url(server.url("/toy.csv")))
    (get(data) / "toy.csv").write_bytes(b"my own notes")
    del server.pages["/toy.csv"]
    refused(data, "404", cache=cache)
    assert (cache / "toy/toy.csv").read_bytes() == b"my own notes"


def test_folder_from_a_stick(cache, server):
    "Files that came another way are as good, if every byte is right."
    (cache / "toy").mkdir()
    (cache / "toy/toy.csv").write_bytes(BODY)
    data = toy(Url(server.url("/toy.csv")))
    assert is_cached(data) and get(data) == cache / "toy" and server.asked == []


def test_newer_registry(cache, server):
    "A later version of the course that expects another file fetches it."
    server.pages["/toy.csv"] = Page(BODY)
    get(toy(Url(server.url("/toy.csv"))))
    newer = toy(Url(server.url("/toy.csv")), files={"toy.csv": sha256(BODY + b"1,1\n")})
    server.pages["/toy.csv"] = Page(BODY + b"1,1\n")
    assert not is_cached(newer)
    assert (get(newer) / "toy.csv").read_bytes().endswith(b"1,1\n")


def test_remove(cache, server, other):
    before = snapshot(cache)
    server.pages["/toy.csv"] = Page(BODY)
    data = toy(Url(server.url("/toy.csv")))
    get(data)
    assert (remove(data), remove(data)) == (True, False)
    assert snapshot(cache) == before
    with pytest.raises(DataError, match="toy is not in the cache: python data_download.py toy"):
        verify(data)


def test_unknown_name(cache):
    with pytest.raises(ValueError, match="unknown data set 'toyy'"):
        fetch("toyy")


# --- packages --------------------------------------------------------------------------------------------------


def wheel(folder, name="toy_data"):
    "A wheel with the toy file in it, in a folder that pip can be pointed to."
    folder.mkdir(exist_ok=True)
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    meta = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode()
    kind = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    path.write_bytes(make_zip([("toy_data/toy.csv", BODY, 0o644), (f"{info}/METADATA", meta, 0o644),
                               (f"{info}/WHEEL", kind, 0o644), (f"{info}/RECORD", b"", 0o644)]))
    return path


@pytest.fixture
def pip_index(tmp_path, monkeypatch):
    "pip looks into one folder and nowhere else."
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return wheel(tmp_path / "index")


def test_pip(cache, pip_index):
    size, digest = pip_index.stat().st_size, sha256(pip_index.read_bytes())
    said, data = [], toy(Package("pip", "toy-data", "1.0", size, digest, ("*/toy.csv",)))
    assert (get(data, said) / "toy.csv").read_bytes() == BODY
    assert said[0].startswith("toy: from pip package toy-data 1.0, ")
    assert not list((cache / ".work/build").iterdir())


def test_pip_with_another_checksum_or_version(cache, pip_index, other):
    size = pip_index.stat().st_size
    refused(toy(Package("pip", "toy-data", "1.0", size, "0" * 64, ("*",))), "pip package toy-data 1.0: ", cache=cache)
    refused(toy(Package("pip", "toy-data", "9.9", size, "0" * 64, ("*",))),
            "No matching distribution found for toy-data==9.9", cache=cache)


def test_pip_missing(cache, other, monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    refused(toy(Package("pip", "toy-data", "1.0", 9, "0" * 64, ("*",))), "pip is not installed", cache=cache)


def client(folder, name, script, monkeypatch):
    "A program of that name that does what the script says, and nothing else on the search path."
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{sys.executable}\nimport os, sys, time\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


needs_scripts = pytest.mark.skipif(not POSIX, reason="clients are made up as shell scripts")
NPM = Package("npm", "toy", "1.0", len(GOOD["a.tgz"]), sha256(GOOD["a.tgz"]), ("*.csv",))


@needs_scripts
def test_npm(cache, tmp_path, monkeypatch):
    (tmp_path / "a.tgz").write_bytes(GOOD["a.tgz"])
    client(tmp_path / "bin", "npm", "assert sys.argv[1:3] == ['pack', 'toy@1.0'] and '--ignore-scripts' in sys.argv\n"
           f"open('toy-1.0.tgz', 'wb').write(open({str(tmp_path / 'a.tgz')!r}, 'rb').read())", monkeypatch)
    get(toy(NPM))


@needs_scripts
@pytest.mark.parametrize("script, words", [
    ("print('npm error code E404\\nnpm error 404 Not Found - GET x\\nnpm error A complete log of this run'); sys.exit(1)",
     "npm package toy 1.0: Not Found - GET x"),
    ("print('npm error getaddrinfo EAI_AGAIN'); sys.exit(1)", "no connection to the package index"),
    ("sys.exit(3)", "it said nothing"),
    ("open('toy-1.0.tgz', 'w').write('<html>')", "wrong size"),
    ("pass", "left 0 files"),
    ("open('a', 'w'), open('b', 'w')", "left 2 files")])
def test_npm_that_fails(cache, other, tmp_path, monkeypatch, script, words):
    client(tmp_path / "bin", "npm", script, monkeypatch)
    refused(toy(NPM), words, cache=cache)


@needs_scripts
def test_client_that_stands_still(cache, other, tmp_path, monkeypatch):
    "It is stopped, with what it has started."
    client(tmp_path / "bin", "npm", f"os.spawnl(os.P_NOWAIT, {shutil.which('sleep')!r}, 'sleep', '60')\n"
           f"open({str(tmp_path / 'ready')!r}, 'w'); time.sleep(60)", monkeypatch)
    monkeypatch.setattr(sys.modules[__name__], "HASTY", Patience(client=0.5))
    refused(toy(NPM), "stood still for 0.5 s", cache=cache)


@needs_scripts
def test_client_on_a_full_disk(cache, other, tmp_path, monkeypatch):
    client(tmp_path / "bin", "npm", "print('npm error ENOSPC: no space left on device, write'); sys.exit(1)", monkeypatch)
    disk_full(toy(NPM), cache)


@needs_scripts
def test_deb_of_any_version(cache, tmp_path, monkeypatch):
    (tmp_path / "a.deb").write_bytes(GOOD["a.deb"])
    client(tmp_path / "bin", "apt-get", "assert sys.argv[1] == 'download' and sys.argv[-1] == 'toy'\n"
           f"open('toy_7.0_all.deb', 'wb').write(open({str(tmp_path / 'a.deb')!r}, 'rb').read())", monkeypatch)
    get(toy(Package("deb", "toy", "1.0", 9, None, ("*.csv",)), members={"0/usr/share/toy.csv": sha256(BODY)}))


@needs_scripts
def test_missing_client_and_next_source(cache, server, monkeypatch):
    monkeypatch.setenv("PATH", "")
    server.pages["/toy.csv"] = Page(BODY)
    sources = (Source((NPM,), {}, copy_all), Source((Url(server.url("/toy.csv")),), {}, copy_all))
    said = []
    get(DataSet("toy", "a toy", "CC0", "nobody", 9, {"toy.csv": sha256(BODY)}, sources), said)
    assert said[0].startswith("toy: npm package toy 1.0: npm is not installed here; trying 127.0.0.1")


def test_shared_archive_is_fetched_once(cache, server):
    "Three data sets out of one archive, of which one needs another file as well."
    tables = {f"{name}.csv": f"{name}\n".encode() for name in ("one", "two", "three")}
    server.pages |= {"/all.zip": Page(make_zip([(n, d, 0o644) for n, d in tables.items()])), "/own.csv": Page(b"own")}
    sets = [toy(Url(server.url("/all.zip"), take=(n,)), files={n: sha256(d)}, name=n[:-4]) for n, d in tables.items()]
    url = Url(server.url("/all.zip"), take=("three.csv",)), Url(server.url("/own.csv"))
    sets[2] = toy(*url, files={"three.csv": sha256(b"three\n"), "own.csv": sha256(b"own")}, name="three")
    results = fetch_all(sets, lambda line: None, progress=False, patience=HASTY)
    assert [results[name] for name in ("one", "two", "three")] == [cache / "one", cache / "two", cache / "three"]
    assert [path for path, _, _ in server.asked] == ["/all.zip", "/own.csv"]
    assert not list((cache / ".work/build").iterdir())


def test_one_failure_does_not_stop_the_others(cache, server):
    server.pages["/toy.csv"] = Page(BODY)
    good, bad = toy(Url(server.url("/toy.csv"))), toy(Url(server.url("/gone.csv")), name="bad")
    results = fetch_all([bad, good], lambda line: None, progress=False, patience=HASTY)
    assert isinstance(results["bad"], DataError) and results["toy"] == cache / "toy"


# --- the command -----------------------------------------------------------------------------------------------


def command(*args, python=sys.executable, cwd=None, **env):
    "Run data_download.py."
    return subprocess.run([python, str(ROOT / "data_download.py"), *args], capture_output=True, text=True, cwd=cwd,
                          env=os.environ | {k: str(v) for k, v in env.items()}, timeout=60)


def test_command_lists(cache, tmp_path):
    done = command(cwd=tmp_path, COLUMNS=100)
    assert done.returncode == 0, done.stderr
    assert "fashion_mnist" in done.stdout and "licence" in done.stdout and str(cache) in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 100


def test_command_lists_without_heavy_imports(cache):
    code = (f"import sys, runpy; sys.argv = ['data_download.py']; sys.path.insert(0, {str(ROOT)!r})\n"
            "try: runpy.run_path('data_download.py', run_name='__main__')\nexcept SystemExit: pass\n"
            "print([m for m in ('torch', 'pandas', 'numpy', 'requests', 'tqdm', 'pyarrow') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout[-300:] + done.stderr


def test_command_with_an_unknown_name(cache):
    done = command("fashion_mnst")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("data_download.py: unknown data set 'fashion_mnst': did you mean 'fashion_mnist'?")
    assert done.stderr.count("\n") == 1


def test_command_without_a_network(cache):
    no_way = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = command("mnist_10k", PATH="", **no_way)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("data_download.py: mnist_10k is not in the cache") and "python data_download.py mnist_10k" in last


def test_command_fetches_verifies_removes(cache):
    assert command("human_numbers", "--verify").returncode == 1
    done = command("human_numbers")
    assert done.returncode == 0 and str(cache / "human_numbers") in done.stdout, done.stderr
    assert command("--verify").stdout == "human_numbers: sha256 of 2 files as expected\n"
    (cache / "human_numbers/train.txt").write_text("one\n")
    done = command("--verify")
    assert done.returncode == 1 and "train.txt is not what it should be" in done.stderr and done.stderr.count("\n") == 1
    assert command("--remove", "human_numbers").stdout == "human_numbers: removed\n"
    assert command("--remove").returncode == 2


@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="no .venv beside the checkout")
def test_command_finds_its_environment(tmp_path):
    "Any Python lists the data sets once `make lab` has made the environment."
    done = subprocess.run([sys.executable, "-I", "-S", str(ROOT / "data_download.py")], capture_output=True, text=True,
                          cwd=tmp_path)
    assert done.returncode == 0 and "fashion_mnist" in done.stdout, done.stderr


def test_command_outside_of_the_environment(tmp_path):
    "A Python without the requirements is told what to type, in one line."
    alone = shutil.copy(ROOT / "data_download.py", tmp_path)
    done = subprocess.run([sys.executable, "-I", "-S", alone], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "make data" in done.stderr and done.stderr.count("\n") == 1, done.stderr
