"""A folder of images with a batch of them, and the page's server in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from lplgrad.labeling.batch import Asked, Batch
from lplgrad.labeling.server import serve

THEN = "lplgrad continue --config study.yaml --cores 2"


def make_batch(
    folder: Path, classes: Sequence[str], images: int = 10, suggested: bool = True, ending: str = "png"
) -> Batch:
    """Make a folder of small images, and a batch of them that a process can open again with ``open_batch``."""
    folder.mkdir(parents=True, exist_ok=True)
    described = []
    for number in range(images):
        name = f"img{number:02}.{ending}"
        Image.new("RGB", (24, 16), (10 * number % 256, 120, 200)).save(folder / name)
        described.append(
            {
                "file": name,
                "suggestion": classes[number % len(classes)] if suggested else "",
                "confidence": round(0.99 - number / 40, 4) if suggested else None,
            }
        )
    (folder / "batch.json").write_text(json.dumps({"classes": list(classes), "images": described}))
    return open_batch(folder)


def open_batch(folder: Path) -> Batch:
    about = json.loads((folder / "batch.json").read_text())
    images = [Asked(number, sha256=f"{number:064}", **image) for number, image in enumerate(about["images"])]
    return Batch(folder / "labels" / "round1.csv", images, about["classes"])


def serve_folder(folder: Path, port: int = 0) -> None:
    def locate(asked: Asked) -> Path | None:
        path = folder / asked.file
        return path if path.exists() else None

    serve(open_batch(folder), locate, "Pets, round 2", THEN, port, open_browser=False)


@contextmanager
def process(folder: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server as a process, and the address that it prints."""
    command = [sys.executable, "-m", "tests.labeling.page_server", str(folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server, server.stdout.readline().strip()
        finally:
            server.kill()


if __name__ == "__main__":
    serve_folder(Path(sys.argv[1]), int(sys.argv[2]))
