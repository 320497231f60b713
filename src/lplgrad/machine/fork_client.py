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
while os.open(os.devnull, os.O_RDWR) < 3:  # a socket must not become standard input, output or error
    pass
server = socket.socket(socket.AF_UNIX)
ending: list[int] = []  # signals
connected, status = False, b""


def forward(number: int, frame: object) -> None:
    """Send a signal to the job. A job that cannot be stopped from the terminal is stopped with its client."""
    if number not in (signal.SIGTSTP, signal.SIGCONT):
        ending.append(number)
    with contextlib.suppress(OSError):
        server.send(bytes([signal.SIGSTOP if number == signal.SIGTSTP else number]))
    if number == signal.SIGTSTP:
        os.kill(os.getpid(), signal.SIGSTOP)


with contextlib.suppress(OSError):
    server.connect(path)
    connected = True
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTSTP, signal.SIGCONT):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, forward)
    request, (life, _) = os.memfd_create("request"), os.pipe()  # the pipe breaks when this process ends
    pairs = [(name.decode("latin1"), value.decode("latin1")) for name, value in os.environb.items()]
    os.write(request, json.dumps([[os.fsencode(word).decode("latin1") for word in arguments], pairs]).encode())
    words = os.fsencode(" ".join(arguments[:2]))[:200]
    socket.send_fds(server, [words], [0, 1, 2, os.open(".", os.O_RDONLY), request, life])
    status = server.recv(1)
if connected and not status and not os.path.exists(path):  # noqa: PTH110 (pathlib is slow)
    ending.append(signal.SIGTERM)  # Snakemake has ended
if status or ending:
    os._exit(status[0] if status else 128 + ending[-1])
with contextlib.suppress(OSError):
    log = os.readlink("/proc/self/fd/1")  # noqa: PTH115
    if log.endswith(".log"):
        os.unlink(log[:-3] + "tsv")  # noqa: PTH108 (the record of an earlier run)
print(f"lplgrad {arguments[0]}: no fork server; starting a new process", file=sys.stderr, flush=True)
os.execv(sys.executable, [sys.executable, "-m", "lplgrad", *arguments])
