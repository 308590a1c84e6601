"A web server on this machine that misbehaves in the ways that real ones do, and remembers what it was asked."
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    "What the server does when it is asked for a page. Without any setting it serves `body` as it should."
    body: bytes = b""
    cuts: list[int] = field(default_factory=list)      # drop the line after so many bytes, once for each entry
    failures: list[int] = field(default_factory=list)  # answer with these statuses first, once for each entry
    status: int = 200                                  # 404, 302, ...
    location: str = ""                                 # where a redirect leads
    ranges: bool = True                                # False: ignores the wish for a part
    wrong_range: bool = False                          # answers 206, but from another byte on
    length: int | None = None                          # the length that it claims; None is the truth, -1 is none
    pause: float = 0                                   # seconds between two pieces
    piece: int = 1 << 16                               # bytes in a piece
    stall_at: int | None = None                        # says nothing more after so many bytes
    hold_at: int | None = None                         # waits after so many bytes until `go` is set
    go: threading.Event = field(default_factory=threading.Event)
    headers: dict[str, str] = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server.owner
        server.asked.append((self.path, self.headers.get("Range"), self.headers.get("User-Agent")))
        page = server.pages.get(self.path, Page(b"no such page", status=404))
        status = page.failures.pop(0) if page.failures else page.status
        if status != 200:
            return self.answer(status, b"sorry", {"Location": page.location} if page.location else {})
        start, headers = self.start(page), dict(page.headers)
        if start >= len(page.body) > 0:
            return self.answer(416, b"", {})
        if start or page.wrong_range:
            start = 1 if page.wrong_range else start
            headers["Content-Range"] = f"bytes {start}-{len(page.body) - 1}/{len(page.body)}"
        self.send_body(page, start, 206 if "Content-Range" in headers else 200, headers)

    def start(self, page):
        "The first byte that is asked for."
        match = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        return int(match[1]) if match and page.ranges else 0

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_body(self, page, start, status, headers):
        rest = page.body[start:]
        self.send_response(status)
        if page.length != -1:
            headers["Content-Length"] = str(len(rest) if page.length is None else page.length)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        cut = page.cuts.pop(0) if page.cuts else None
        try:
            self.send_pieces(page, rest if cut is None else rest[:cut], start)
        except OSError:
            pass  # the other side has heard enough

    def send_pieces(self, page, rest, start):
        server = self.server.owner
        for i in range(0, len(rest), page.piece):
            if page.stall_at is not None and start + i >= page.stall_at:
                server.closing.wait(5)
                return
            if page.hold_at is not None and start + i >= page.hold_at:
                page.go.wait(60)
            self.wfile.write(rest[i:i + page.piece])
            server.sent += len(rest[i:i + page.piece])
            time.sleep(page.pause)


class FaultyServer:
    "Runs while its `with` block does."

    def __init__(self):
        self.pages, self.asked, self.sent, self.closing = {}, [], 0, threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.owner = self

    def url(self, path):
        return f"http://127.0.0.1:{self.http.server_port}{path}"

    def ranges(self, path):
        "The part of the file that each request for a page asked for."
        return [wish for asked, wish, _ in self.asked if asked == path]

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()
