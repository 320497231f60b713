"""Run a command of lplgrad in a fork of the fork server (``fork_server.py``), or as a new process if it has none.

``python -I -S fork_client.py SOCKET train --data ...`` starts for each job, so it imports little.
"""

import contextlib
import json
import os
import signal
import socket
import sys

path, *arguments = sys.argv[1:]
server = socket.socket(socket.AF_UNIX)
received: list[int] = []
connected, status = False, b""


def forward(number: int, frame: object) -> None:
    received.append(number)
    with contextlib.suppress(OSError):
        server.send(bytes([number]))


with contextlib.suppress(OSError):
    server.connect(path)
    connected = True
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, forward)
    request = os.memfd_create("request")
    os.write(request, json.dumps([arguments, dict(os.environ)]).encode())
    words = " ".join(arguments[:2])[:200].encode()
    socket.send_fds(server, [words], [0, 1, 2, os.open(".", os.O_RDONLY), request])
    status = server.recv(1)
if connected and not status and not os.path.exists(path):  # noqa: PTH110 (pathlib is slow)
    received.append(signal.SIGTERM)  # Snakemake has ended
if status or received:
    os._exit(status[0] if status else 128 + received[-1])
print(f"lplgrad {arguments[0]}: no fork server; starting a new process", file=sys.stderr, flush=True)
os.execv(sys.executable, [sys.executable, "-m", "lplgrad", *arguments])
