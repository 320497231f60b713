"""Serve the labelling page to a browser on this machine.

The server listens on the loopback address only. Other programs and web pages on the machine can reach that address too,
so each request must carry a random token, and must name this server as its host and, if it changes answers, as its
origin. A request never names a path: it names an image by its position in the batch.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import socketserver
import stat
import sys
import threading
import warnings
import webbrowser
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

from lplgrad.labeling.batch import CANNOT_TELL, LATER, Asked, Batch
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import printable
from lplgrad.machine.log import say
from lplgrad.machine.signals import deferred

LARGEST_REQUEST = 1 << 22  # bytes
POLL_SECONDS = 0.3
# The formats that all browsers show, by their first bytes. The type of a file's name may be wrong.
BROWSER_FORMATS = {
    "image/jpeg": rb"\xff\xd8\xff",
    "image/png": rb"\x89PNG\r\n\x1a\n",
    "image/gif": rb"GIF8[79]a",
    "image/webp": rb"RIFF....WEBP",
    "image/bmp": rb"BM.{12}",
}


def serve(
    batch: Batch,
    locate: Callable[[Asked], Path | None],
    title: str,
    then: str,
    port: int = 0,
    open_browser: bool = True,
    value_range: Sequence[float] | None = None,
) -> None:
    """Serve the page until SIGINT, SIGTERM or SIGHUP. Print its address, which contains the token, on standard output.

    Args:
        batch: the images, and the table in which each answer is stored at once.
        locate: returns where the file of an image is now; None if it is gone.
        title: the heading of the page.
        then: the command line that continues, shown when all images are answered.
        port: the port to listen on; 0 for any free one.
        open_browser: whether to open the page in the browser of the desktop, if there is a desktop.
        value_range: see ``decode``.

    Raises:
        UserError: the port cannot be used, or the table cannot be read.
    """
    batch.write()
    batch.answers()
    with Server(batch, locate, title, then, port, value_range) as server, deferred("the labelling page") as ended:
        say("Open this address in a browser of this machine. Every answer is saved at once. Ctrl-C ends the page.")
        print(server.url, flush=True)
        # Without a desktop, a browser for the terminal would start in the foreground.
        if open_browser and (sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()):
            webbrowser.open(server.url)
        while not ended:
            server.handle_request()


class Server(ThreadingHTTPServer):
    """The server of one batch. Each request has a thread of its own. Arguments as for ``serve``."""

    daemon_threads = True  # a browser may keep a connection open without asking anything
    timeout = POLL_SECONDS

    def __init__(
        self,
        batch: Batch,
        locate: Callable[[Asked], Path | None],
        title: str,
        then: str,
        port: int = 0,
        value_range: Sequence[float] | None = None,
    ) -> None:
        self.batch = batch
        self.locate = locate
        self.value_range = value_range
        self.token = secrets.token_urlsafe(24)
        self.saving = threading.Lock()
        self.decoding = threading.Lock()  # a large image needs much memory
        self.page = Path(__file__).with_name("page.html").read_bytes()
        self.policy = _content_policy(self.page)
        self.about = {
            "title": title,
            "then": then,
            "table": printable(batch.table),
            "classes": batch.classes,
            "cannot_tell": CANNOT_TELL,
            "later": LATER,
            "images": [
                {"file": image.file, "suggestion": image.suggestion, "confidence": image.confidence}
                for image in batch.images
            ],
        }
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"port {port} cannot be used ({reason}); choose another, or 0 for any free one") from None
        self.hosts = {f"127.0.0.1:{self.server_port}", f"localhost:{self.server_port}"}
        self.url = f"http://127.0.0.1:{self.server_port}/?token={self.token}"

    def server_bind(self) -> None:
        """Bind without the base class's search for the machine's name, which may wait for a network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def server_close(self) -> None:
        """Close, and let an answer that is being stored be completed. No other is stored afterwards."""
        super().server_close()
        self.saving.acquire()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore that a browser went away."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _RefusalError(Exception):
    """A request that gets no result: the status and one line for the person."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = "LPLgrad"
    sys_version = ""
    timeout = 60  # seconds without a byte

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a malformed request, or a method other than GET and POST."""
        self.close_connection = True
        self._send(code, "application/json", json.dumps({"problem": message or HTTPStatus(code).phrase}).encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name in the base class)
        """Log nothing: the terminal belongs to the person, and addresses contain the token."""

    def _answer(self, work: Callable[[str], tuple[str, bytes | BinaryIO]]) -> None:
        try:
            kind, content = work(self._checked_path())
        except _RefusalError as refusal:
            self.send_error(refusal.status, str(refusal))
        except UserError as error:
            self.send_error(HTTPStatus.CONFLICT, str(error))
        except OSError as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, self._explain(error))
        else:
            self._send(HTTPStatus.OK, kind, content)

    def _checked_path(self) -> str:
        """Return the path of a request that comes from the page, or refuse it."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self.server.hosts:
            raise _RefusalError(
                HTTPStatus.FORBIDDEN,
                "The address is not that of the server. Open the address that the command printed. "
                "A tunnel must have the same port at both ends.",
            )
        try:
            address = urlsplit(self.path)
        except ValueError:
            raise _RefusalError(HTTPStatus.BAD_REQUEST, "The address is malformed.") from None
        given = parse_qs(address.query).get("token", [])
        if len(given) != 1 or not secrets.compare_digest(given[0].encode(), self.server.token.encode()):
            raise _RefusalError(
                HTTPStatus.FORBIDDEN, "The token in the address is not valid. Open the printed address."
            )
        return address.path

    def _get(self, path: str) -> tuple[str, bytes | BinaryIO]:
        batch = self.server.batch
        if path == "/":
            return "text/html; charset=utf-8", self.server.page
        if path == "/batch":
            return _json(self.server.about)
        if path == "/answers":
            return _json({"answers": batch.answers()})
        if (found := re.fullmatch("/image/([0-9]{1,9})", path)) and int(found[1]) < len(batch):
            return self._image(batch.images[int(found[1])])
        raise _RefusalError(HTTPStatus.NOT_FOUND, "Nothing is here.")

    def _post(self, path: str) -> tuple[str, bytes | BinaryIO]:
        request = self._body()
        batch = self.server.batch
        if path == "/answers":
            changes = _changes(request, len(batch))
            with self.server.saving:
                batch.store(changes)
                return _json({"answers": batch.answers()})
        if path == "/finish":
            with self.server.saving:
                batch.finish()
                return _json({"answers": batch.answers()})
        raise _RefusalError(HTTPStatus.NOT_FOUND, "Nothing is here.")

    def _body(self) -> Any:
        """Return the JSON of a POST request that another site's page cannot have sent."""
        origin = self.headers.get("Origin")
        if origin is None:
            own = self.headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none")
        else:
            own = origin == f"http://{self.headers['Host'].lower()}"
        if not own:
            raise _RefusalError(HTTPStatus.FORBIDDEN, "The request comes from another page.")
        if self.headers.get_content_type() != "application/json":
            raise _RefusalError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The request is not JSON.")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,9}", length) or "Transfer-Encoding" in self.headers:
            raise _RefusalError(HTTPStatus.LENGTH_REQUIRED, "The request does not say how long it is.")
        if int(length) > LARGEST_REQUEST:
            raise _RefusalError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request is too long.")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise _RefusalError(HTTPStatus.BAD_REQUEST, "The request is not JSON.") from None

    def _image(self, asked: Asked) -> tuple[str, bytes | BinaryIO]:
        try:
            path = self.server.locate(asked)
            if path is None:
                raise _RefusalError(
                    HTTPStatus.NOT_FOUND, "The file is gone. It was moved, renamed, changed or deleted."
                )
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block
                raise _RefusalError(HTTPStatus.UNPROCESSABLE_ENTITY, "This is not a regular file.")
            if self.server.value_range is None:
                with path.open("rb") as file:
                    start = file.read(14)
                for kind, pattern in BROWSER_FORMATS.items():
                    if re.match(pattern, start, re.DOTALL):
                        return kind, path.open("rb")
            return "image/png", self._decoded(path)
        except FileNotFoundError:
            raise _RefusalError(HTTPStatus.NOT_FOUND, "The file is gone.") from None
        except (OSError, ValueError) as error:
            reason = " ".join(str(getattr(error, "strerror", None) or error).split())
            raise _RefusalError(HTTPStatus.UNPROCESSABLE_ENTITY, f"The file cannot be read: {reason}") from None

    def _decoded(self, path: Path) -> bytes:
        from PIL import Image

        from lplgrad.datasets.prepared.images import decode

        png = io.BytesIO()
        # Pillow's warnings concern metadata that is not used, and images that are refused.
        with self.server.decoding, warnings.catch_warnings(action="ignore"):
            pixels = decode(path, None, "crop", self.server.value_range)
            Image.fromarray(pixels).save(png, "PNG", compress_level=1)
        return png.getvalue()

    def _send(self, status: int, kind: str, content: bytes | BinaryIO) -> None:
        self.send_response(status)
        length = len(content) if isinstance(content, bytes) else os.fstat(content.fileno()).st_size
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(length),
            "Cache-Control": "no-store",
            "Content-Security-Policy": self.server.policy,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(content, bytes):
            self.wfile.write(content)
        else:
            with content:
                shutil.copyfileobj(content, self.wfile)

    def _explain(self, error: OSError) -> str:
        table = self.server.batch.table
        if isinstance(error, FileNotFoundError):
            return f"{printable(table)} is gone; restore it, or start the page again to begin with an empty table"
        return f"{printable(table)}: {error.strerror or error}"


def _json(value: object) -> tuple[str, bytes]:
    return "application/json", json.dumps(value, allow_nan=False).encode()


def _changes(request: Any, images: int) -> dict[int, str]:
    """Return the answers in a request by position, or refuse it."""
    changes = {}
    answers = request.get("answers") if isinstance(request, dict) else None
    if not isinstance(answers, dict):
        raise _RefusalError(HTTPStatus.BAD_REQUEST, "The request has no answers.")
    for position, answer in answers.items():
        known = re.fullmatch("[0-9]{1,9}", position) and int(position) < images
        if not known or not isinstance(answer, str):
            raise _RefusalError(
                HTTPStatus.BAD_REQUEST, "The request has an answer to an unknown image, or one without text."
            )
        changes[int(position)] = answer
    return changes


def _content_policy(page: bytes) -> str:
    """Return a policy that permits the script and the style in the page, and requests to the server itself."""
    permitted = {"script": "", "style": ""}
    for tag in permitted:
        for inside in re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), page, re.DOTALL):
            permitted[tag] = f"'sha256-{base64.b64encode(hashlib.sha256(inside).digest()).decode()}'"
    return (
        f"default-src 'none'; script-src {permitted['script']}; style-src {permitted['style']}; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
