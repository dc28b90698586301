"""A small web server on this machine with the faults of real ones, and what it sends, for the tests of downloads."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

CONTENT = np.random.default_rng(0).bytes(3_000_000)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Site:
    """What the server sends, how it fails, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True  # does it know Range?
    etag: str = '"one"'
    cut: list[int] = field(default_factory=list)  # for each of the next requests: bytes after which it hangs up
    redirect: str = ""
    failures: list[int] = field(default_factory=list)  # status codes of the next answers
    asked: list[dict[str, str]] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        site = self.site
        site.asked.append({key.lower(): value for key, value in self.headers.items()})
        if site.failures:
            return self.send_error(site.failures.pop(0))
        if site.redirect:
            self.send_response(302)
            self.send_header("Location", site.redirect)
            return self.end_headers()
        data = site.files.get(self.path.lstrip("/"))
        if data is None:
            return self.send_error(404)
        wanted = self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, site.etag)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and site.ranges and same else 0
        if wanted and start >= len(data):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if site.etag:
            self.send_header("ETag", site.etag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:]
        self.wfile.write(body[: site.cut.pop(0)] if site.cut else body)


@contextmanager
def serving(name: str, content: bytes) -> Iterator[Site]:
    """A running server of one file, which is `site.url`; further ones go into `site.files`."""
    site = Site(files={name: content})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_port}/{name}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
