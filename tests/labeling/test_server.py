from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from lplgrad.labeling.batch import Asked, Batch
from lplgrad.labeling.server import Server, serve
from lplgrad.machine.errors import UserError
from tests.image_files import save
from tests.labeling.page_server import THEN, make_batch, process

CLASSES = ["cat", "dog", "<img src=x onerror=alert(1)>", "it's", "קטן"]


class Client:
    """Requests to a server in a thread of this process."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.host = f"127.0.0.1:{server.server_port}"

    def ask(
        self, path: str, method: str = "GET", body: object = None, token: str | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """The status, headers and content of the answer. ``_`` in a header's name stands for a hyphen."""
        token = self.server.token if token is None else token
        sent = {"Host": self.host} | {name.replace("_", "-"): value for name, value in headers.items()}
        content = None
        if body is not None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent = {"Content-Type": "application/json", "Content-Length": str(len(content))} | sent
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=20)
        try:
            connection.putrequest(method, path + (f"?token={token}" if token else ""), skip_host=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            connection.endheaders(content)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def answers(self) -> list[str]:
        return list(json.loads(self.ask("/answers")[2])["answers"])

    def give(self, **headers: str) -> int:
        return self.ask("/answers", "POST", {"answers": {"0": "cat"}}, **headers)[0]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    running: list[Server] = []

    def begin(batch: Batch | None = None, **options: Any) -> Client:
        batch = batch or make_batch(tmp_path, CLASSES)
        batch.write()

        def locate(asked: Asked) -> Path | None:
            return tmp_path / asked.file if (tmp_path / asked.file).exists() else None

        server = Server(batch, locate, "Pets </script>", THEN, **options)
        running.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return Client(server, tmp_path)

    yield begin
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def client(start: Callable[..., Client]) -> Client:
    return start()


def batch_of(folder: Path, *names: str) -> Batch:
    images = [Asked(number, name, f"{number:064}") for number, name in enumerate(names)]
    return Batch(folder / "labels" / "round1.csv", images, CLASSES)


class TestAccess:
    @pytest.mark.parametrize("path", ["/", "/batch", "/answers", "/image/0", "/nothing"])
    @pytest.mark.parametrize("token", ["", "wrong", "é", "x&token=y"])
    def test_nothing_is_served_without_the_token(self, client: Client, path: str, token: str) -> None:
        status, _, content = client.ask(path, token=quote(token, safe="&="))
        assert status == 403
        assert b"problem" in content
        assert client.server.token.encode() not in content

    def test_nothing_is_changed_without_the_token(self, client: Client) -> None:
        assert client.ask("/answers", "POST", {"answers": {"0": "cat"}}, token="wrong")[0] == 403
        assert client.ask("/finish", "POST", {}, token="wrong")[0] == 403
        assert client.answers() == [""] * 10

    def test_two_tokens_are_refused(self, client: Client) -> None:
        assert client.ask("/answers", token=f"{client.server.token}&token={client.server.token}")[0] == 403

    def test_a_name_that_an_attacker_binds_to_this_machine_is_refused(self, client: Client) -> None:
        for host in ("evil.example", f"evil.example:{client.server.server_port}", "127.0.0.1", "127.0.0.1:1", ""):
            assert client.ask("/", Host=host)[0] == 403, host
            assert client.give(Host=host) == 403, host
        assert client.ask("/", Host=f"LocalHost:{client.server.server_port}")[0] == 200

    def test_a_page_of_another_origin_cannot_answer(self, client: Client) -> None:
        for origin in ("https://evil.example", "null", "", f"https://{client.host}", "http://127.0.0.1:1"):
            assert client.give(Origin=origin) == 403, origin
        for site in ("cross-site", "same-site"):
            assert client.give(Sec_Fetch_Site=site) == 403, site
        assert client.answers()[0] == ""
        assert client.give(Origin=f"http://{client.host}") == 200
        assert client.give(Sec_Fetch_Site="same-origin") == 200

    def test_a_form_of_another_page_cannot_answer(self, client: Client) -> None:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
            assert client.give(Content_Type=kind) == 415, kind
        assert client.give(Content_Type="application/json; charset=utf-8") == 200

    def test_only_positions_of_images_are_served(self, client: Client) -> None:
        (client.folder / "secret").write_text("secret")
        for path in (
            "/image/../../etc/passwd",
            "/image/..%2f..%2fetc%2fpasswd",
            "/image//etc/passwd",
            "/image/0/../../secret",
            "/image/-1",
            "/image/10",
            "/image/999999999",
            "/image/" + "9" * 5000,
            "/image/1.0",
            "/image/１",
            "/image/",
            "/image/0x1",
            "/batch.json",
            "/img00.png",
            "/page.html",
            "/../batch",
            "//batch",
        ):
            address = path.encode().decode("latin-1")
            status, _, content = client.ask("".join(c if c < "\x80" else f"%{ord(c):02x}" for c in address))
            assert status in (404, 403) or path == "//batch", path
            assert b"root:" not in content
            assert b"secret" not in content

    def test_other_methods_are_refused(self, client: Client) -> None:
        for method in ("HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT"):
            status, headers, content = client.ask("/answers", method, {"answers": {"0": "cat"}})
            assert status == 501, method
            assert "Access-Control-Allow-Origin" not in headers
            assert (content == b"") == (method == "HEAD")
        assert client.answers() == [""] * 10

    def test_it_listens_on_the_loopback_address_only(self, client: Client) -> None:
        assert client.server.server_address[0] == "127.0.0.1"
        with socket.socket() as other:
            # All of 127/8 is this machine, but only one address is listened to.
            assert other.connect_ex(("127.0.0.2", client.server.server_port)) != 0

    def test_two_servers_have_different_tokens(self, start: Callable[..., Client]) -> None:
        one, other = start(), start()
        assert one.server.token != other.server.token
        assert len(one.server.token) >= 32


class TestHeaders:
    @pytest.mark.parametrize("path", ["/", "/batch", "/answers", "/image/0", "/image/99"])
    def test_nothing_is_stored_guessed_or_told_to_others(self, client: Client, path: str) -> None:
        _, headers, _ = client.ask(path)
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"

    def test_the_page_may_load_nothing_from_elsewhere(self, client: Client) -> None:
        _, headers, content = client.ask("/")
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert policy["connect-src"] == "'self'"
        for kind in ("script-src", "style-src"):
            assert policy[kind].startswith("'sha256-")
            assert "unsafe" not in policy[kind]
        text = content.decode()
        assert "Pets" not in text, "texts come as data, never as part of the page"
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text
        assert " style=" not in text, "the policy forbids styles in elements"
        assert " onclick=" not in text


class TestAnswers:
    def test_the_batch_is_described(self, client: Client) -> None:
        about = json.loads(client.ask("/batch")[2])
        assert about["classes"] == CLASSES
        assert about["title"] == "Pets </script>"
        assert about["then"] == THEN
        assert about["images"][1] == {"file": "img01.png", "suggestion": "dog", "confidence": 0.965}
        assert len(about["images"]) == 10

    def test_an_answer_is_in_the_table_before_the_reply(self, client: Client) -> None:
        status, _, content = client.ask("/answers", "POST", {"answers": {"3": "dog", "4": "?", "5": "-"}})
        assert status == 200
        wanted = ["", "", "", "dog", "?", "-", "", "", "", ""]
        assert json.loads(content)["answers"] == wanted
        assert client.server.batch.answers() == wanted

    def test_an_empty_answer_removes_one(self, client: Client) -> None:
        client.give()
        client.ask("/answers", "POST", {"answers": {"0": ""}})
        assert client.answers() == [""] * 10

    def test_answers_at_the_same_time_are_all_stored(self, client: Client) -> None:
        def give(position: int) -> int:
            return client.ask("/answers", "POST", {"answers": {str(position): CLASSES[position % 5]}})[0]

        with ThreadPoolExecutor(10) as pool:
            assert set(pool.map(give, range(10))) == {200}
        assert client.answers() == [CLASSES[position % 5] for position in range(10)]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"\xff",
            b"[" * 100_000,
            [],
            3,
            {},
            {"answers": ["cat"]},
            {"answers": {"10": "cat"}},
            {"answers": {"-1": "cat"}},
            {"answers": {"１": "cat"}},
            {"answers": {"": "cat"}},
            {"answers": {"9" * 5000: "cat"}},
            {"answers": {"0": 1}},
            {"answers": {"0": None}},
            {"answers": {"0": "cat", "1": ["dog"]}},
        ],
    )
    def test_a_malformed_request_changes_nothing(self, client: Client, body: object) -> None:
        assert client.ask("/answers", "POST", body)[0] == 400
        assert client.answers() == [""] * 10

    def test_the_length_of_a_request_is_bounded(self, client: Client) -> None:
        assert client.give(Content_Length="99999999") == 413
        assert client.give(Content_Length="9" * 20) == 411
        assert client.give(Content_Length="-1") == 411
        assert client.give(Transfer_Encoding="chunked") == 411
        assert client.answers() == [""] * 10

    def test_an_unknown_class_is_explained(self, client: Client) -> None:
        status, _, content = client.ask("/answers", "POST", {"answers": {"0": "cta", "1": "dog"}})
        assert status == 409
        assert "unknown class 'cta'" in json.loads(content)["problem"]
        assert client.answers() == [""] * 10

    def test_changes_by_hand_are_picked_up(self, client: Client) -> None:
        client.give()
        table = client.server.batch.table
        table.write_text("file;label\nimg00.png;cat\nimg07.png;dog\n")
        assert client.answers() == ["cat"] + [""] * 6 + ["dog", "", ""]
        client.ask("/answers", "POST", {"answers": {"1": "dog"}})
        assert client.answers() == ["cat", "dog"] + [""] * 5 + ["dog", "", ""]

    def test_a_table_spoilt_by_hand_is_explained_and_kept(self, client: Client) -> None:
        table = client.server.batch.table
        table.write_text("file,label\nimg00.png,cow\n")
        for status, _, content in (
            client.ask("/answers"),
            client.ask("/answers", "POST", {"answers": {"1": "dog"}}),
            client.ask("/finish", "POST", {}),
        ):
            assert status == 409
            assert "line 2: unknown class 'cow'" in json.loads(content)["problem"]
        assert table.read_text() == "file,label\nimg00.png,cow\n"

    def test_a_table_that_is_gone_is_explained(self, client: Client) -> None:
        client.server.batch.table.unlink()
        status, _, content = client.ask("/answers", "POST", {"answers": {"1": "dog"}})
        assert status == 500
        assert "round1.csv is gone; restore it" in json.loads(content)["problem"]

    def test_a_full_disk_is_explained(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(path: Path, text: str) -> None:
            raise OSError(28, "No space left on device", str(path))

        monkeypatch.setattr("lplgrad.labeling.batch.write_text", full)
        status, _, content = client.ask("/answers", "POST", {"answers": {"1": "dog"}})
        assert status == 500
        assert json.loads(content)["problem"].endswith("round1.csv: No space left on device")
        monkeypatch.undo()
        assert client.give() == 200

    def test_finishing_keeps_what_is_labelled(self, client: Client) -> None:
        client.give()
        _, _, content = client.ask("/finish", "POST", {})
        assert json.loads(content)["answers"] == ["cat"] + ["-"] * 9
        assert client.answers() == ["cat"] + ["-"] * 9


class TestImages:
    @pytest.mark.parametrize(
        ("ending", "kind"),
        [
            ("jpg", "image/jpeg"),
            ("png", "image/png"),
            ("gif", "image/gif"),
            ("webp", "image/webp"),
            ("bmp", "image/bmp"),
        ],
    )
    def test_what_browsers_show_is_sent_as_it_is(
        self, start: Callable[..., Client], tmp_path: Path, ending: str, kind: str
    ) -> None:
        path = save(tmp_path / f"a.{ending}").rename(tmp_path / "a.txt")
        status, headers, content = start(batch_of(tmp_path, "a.txt")).ask("/image/0")
        assert (status, headers["Content-Type"]) == (200, kind)
        assert content == path.read_bytes()

    @pytest.mark.parametrize("ending", ["tif", "ppm"])
    def test_other_formats_are_decoded(self, start: Callable[..., Client], tmp_path: Path, ending: str) -> None:
        path = save(tmp_path / f"a.{ending}").rename(tmp_path / "a.jpg")
        status, headers, content = start(batch_of(tmp_path, "a.jpg")).ask("/image/0")
        assert (status, headers["Content-Type"]) == (200, "image/png")
        with Image.open(io.BytesIO(content)) as shown, Image.open(path) as saved:
            assert np.array_equal(np.asarray(shown), np.asarray(saved.convert("RGB")))

    def test_the_range_of_values_holds_for_all_formats(self, start: Callable[..., Client], tmp_path: Path) -> None:
        Image.fromarray(np.array([[0, 1000, 2000]], np.uint16)).save(tmp_path / "a.png")
        _, _, content = start(batch_of(tmp_path, "a.png"), value_range=[0, 2000]).ask("/image/0")
        with Image.open(io.BytesIO(content)) as shown:
            assert np.asarray(shown)[0, :, 0].tolist() == [0, 128, 255]

    def test_why_an_image_cannot_be_shown(self, start: Callable[..., Client], tmp_path: Path) -> None:
        (tmp_path / "text").write_text("no image")
        (tmp_path / "empty").touch()
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        client = start(batch_of(tmp_path, "text", "empty", "folder", "pipe", "absent"))
        answers = [client.ask(f"/image/{position}") for position in range(5)]
        assert [status for status, _, _ in answers] == [422, 422, 422, 422, 404]
        problems = [json.loads(content)["problem"] for _, _, content in answers]
        assert "cannot be read: no image" in problems[0]
        assert "cannot be read: no image" in problems[1]
        assert problems[2] == problems[3] == "This is not a regular file."
        assert "gone" in problems[4]
        assert client.ask("/answers", "POST", {"answers": {"4": "?"}})[0] == 200


class TestServe:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_it_without_a_traceback(self, tmp_path: Path, number: signal.Signals) -> None:
        make_batch(tmp_path, CLASSES)
        with process(tmp_path) as (server, url):
            assert url.startswith("http://127.0.0.1:")
            assert "/?token=" in url
            # A browser may hold a connection on which it asks nothing.
            with socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0]))):
                server.send_signal(number)
                assert server.wait(timeout=10) == 0
            assert server.stdout is not None
            assert server.stderr is not None
            assert server.stdout.read() == ""
            assert "Traceback" not in (said := server.stderr.read())
            assert number.name in said

    def test_it_ends_after_the_answer_that_is_being_stored(self, tmp_path: Path) -> None:
        server = Server(make_batch(tmp_path, CLASSES), lambda asked: None, "", "")
        with server.saving:
            ending = threading.Thread(target=server.server_close, daemon=True)
            ending.start()
            ending.join(0.1)
            assert ending.is_alive()
        ending.join(10)
        assert not ending.is_alive()

    def test_a_port_in_use_is_one_line(self, client: Client) -> None:
        port = client.server.server_port
        with pytest.raises(UserError, match=f"port {port} cannot be used .*choose another"):
            serve(client.server.batch, lambda asked: None, "", "", port, open_browser=False)
        with pytest.raises(UserError, match="port 70000 cannot be used"):
            serve(client.server.batch, lambda asked: None, "", "", 70000, open_browser=False)

    def test_a_spoilt_table_is_refused_at_the_start(self, tmp_path: Path) -> None:
        batch = make_batch(tmp_path, CLASSES)
        batch.write()
        batch.table.write_text("file,label\nimg00.png,cow\n")
        with pytest.raises(UserError, match="unknown class 'cow'"):
            serve(batch, lambda asked: None, "", "", open_browser=False)
