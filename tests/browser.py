"""A headless Chromium, driven over its debugging pipe: enough to open a page, run a script in it and take a picture."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page in a browser of its own. Use it as a context.

    Args:
        profile: an empty folder for the browser's own files.
        width, height: of the window in pixels.
    """

    def __init__(self, profile: Path, width: int = 1400, height: int = 1000) -> None:
        assert CHROMIUM is not None
        self.errors: list[str] = []
        self._count = 0
        self._buffer = b""
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        flags = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
            "--disable-component-update --disable-sync --remote-debugging-pipe "
            "--host-resolver-rules='MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'"
        )
        # The browser reads its orders from descriptor 3 and answers on 4.
        command = (
            f"exec {CHROMIUM} {flags} --user-data-dir='{profile}' --window-size={width},{height} "
            f"3<&{to_browser} 4>&{from_browser}"
        )
        self._process = subprocess.Popen(
            ["bash", "-c", command], pass_fds=(to_browser, from_browser), stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._send(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def open(self, path: Path) -> None:
        """Open a file."""
        self.go(path.absolute().as_uri())

    def go(self, url: str) -> None:
        """Open an address."""
        self._send("Page.navigate", url=url)
        self.wait_for("document.readyState == 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self._send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 20) -> None:
        """Wait until an expression in the page is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < end, f"not within {seconds} s: {condition}"
            time.sleep(0.05)

    def click(self, text: str) -> None:
        """Click what has exactly this text."""
        found = (
            "[...document.querySelectorAll('a, button, li, td, span, div')]"
            f".filter(e => e.textContent.trim() == {json.dumps(text)})"
        )
        self.wait_for(f"{found}.length > 0")
        self.run(f"{found}.at(-1).click()")

    def press(self, *keys: str, shift: bool = False) -> None:
        """Press keys one after the other, as a person does: characters, or names such as ``Enter``."""
        for key in keys:
            event: dict[str, Any] = {"key": key, "modifiers": 8 if shift else 0}
            if text := {"Enter": "\r"}.get(key, key if len(key) == 1 else ""):
                event["text"] = text
            self._send("Input.dispatchKeyEvent", type="keyDown", **event)
            self._send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def tap(self, x: float, y: float) -> None:
        """Click a place in the window with the mouse."""
        for kind in ("mousePressed", "mouseReleased"):
            self._send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def resize(self, width: int, height: int) -> None:
        """Show the page in this many pixels, fewer than a window can have; 0 for those of the window."""
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def picture(self, path: Path) -> None:
        """Take a picture of the window."""
        path.write_bytes(base64.b64decode(self._send("Page.captureScreenshot", format="png")["data"]))

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        order: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if hasattr(self, "_session"):
            order["sessionId"] = self._session
        os.write(self._write, json.dumps(order).encode() + b"\0")
        while True:
            message = self._receive()
            if message.get("id") == self._count:
                assert "error" not in message, message
                return dict(message["result"])
            self._note(message)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            read = os.read(self._read, 1 << 16)
            assert read, "the browser has gone"
            self._buffer += read
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(str(parameters["entry"]))
