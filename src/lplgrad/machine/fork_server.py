"""The fork server: a process that imports what jobs need once, and forks itself for each job of a Snakemake run.

Most jobs compute for less time than they need to import PyTorch. Snakemake starts the server if jobs run on this
machine, and a small client for each job (``fork_client.py``). The client passes on its arguments, environment, working
directory and open files. It forwards signals, and exits with the job's status.

- When Snakemake ends, killed or not, the server's standard input ends. The server then sends SIGTERM to its jobs, which
  save their progress, and ends after the last one. It ignores signals itself.
- The kernel kills a job when its client or the server ends.
- The server forks only while it has one thread, has not started CUDA, and the package's files are as when Snakemake
  started. Otherwise it closes the connection, and the client starts the job as a new process.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import hashlib
import importlib
import json
import os
import secrets
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lplgrad.cli import modules_of, run
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import PRIVATE_FOLDER, private_folder
from lplgrad.machine.signals import ENDING

PACKAGE = Path(__file__).parents[1]
CLIENT = Path(__file__).with_name("fork_client.py")
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
_started: list[subprocess.Popen[bytes]] = []  # keeps their standard inputs open


def socket_path() -> Path:
    """Return where a server may listen. The name contains a digest of the package's files."""
    return PRIVATE_FOLDER / f"{_code()}-{secrets.token_hex(4)}.socket"


def start(path: Path, warn: Callable[[str], object]) -> None:
    """Start a server that lives as long as this process, if it has none. Clients may connect to ``path`` at once."""
    if _started:
        return
    # A fork would lose the threads of OpenMP and BLAS. A job sets its own number of threads.
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    pythonpath = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    try:
        for left in private_folder().glob("*.socket"):  # by a server that was killed
            with socket.socket(socket.AF_UNIX) as other:
                if other.connect_ex(str(left)):
                    left.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            listening.listen(128)
            passed = fcntl.fcntl(
                listening, fcntl.F_DUPFD, 3
            )  # standard files may be closed, and so be in use for others
            error = None if sys.stderr else subprocess.DEVNULL
            server = subprocess.Popen(
                [sys.executable, "-m", "lplgrad.machine.fork_server", str(passed)],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=error, pass_fds=[passed],
                start_new_session=True, env={**os.environ, **threads, "PYTHONPATH": pythonpath},
            )  # fmt: skip
            os.close(passed)
        _started.append(server)
    except (OSError, UserError) as problem:
        warn(f"no fork server, so each job starts as a new process: {problem}")


def stop() -> None:
    """End the server of this process and wait for it. Without this call it ends with the process."""
    for server in _started:
        server.communicate()  # closes its standard input
    _started.clear()


def _code() -> str:
    """Digest of the package's files, 16 digits. Files that an editor adds do not count."""
    try:
        files = sorted(
            file for ending in ("py", "csv", "yaml", "html", "j2") for file in PACKAGE.rglob(f"[!.]*.{ending}")
        )
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    except OSError:
        return secrets.token_hex(8)  # equals no other


class _Job(NamedTuple):
    pid: int
    log: Path  # where its standard output goes
    start: float


class _Server:
    def __init__(self, listening: socket.socket) -> None:
        self.listening = listening
        self.path = Path(listening.getsockname())
        self.is_current = True  # whether the package's files never differed
        self.jobs: dict[socket.socket, _Job] = {}
        self.selector = selectors.PollSelector()  # an EpollSelector would share its state with forked processes
        self.wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # a job unblocks them in cli.main, and loses none
        self.handlers = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
        self.handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self.wakeup[1])  # where Python writes each signal
        for file in (0, self.wakeup[0], self.listening):
            self.selector.register(file, selectors.EVENT_READ)

    def serve(self) -> None:
        """Fork for each client until Snakemake ends. Return in forked processes only, with everything set up."""
        while self.jobs or 0 in self.selector.get_map():
            for key, _ in self.selector.select():
                file = key.fileobj
                if file == 0:
                    self.path.unlink(missing_ok=True)  # so that clients see that Snakemake has ended
                    self.selector.unregister(0)
                    for job in self.jobs.values():
                        os.kill(job.pid, signal.SIGTERM)  # the process exists until _reap
                elif file == self.wakeup[0]:
                    os.read(self.wakeup[0], 4096)
                    self._reap()
                elif not isinstance(file, socket.socket) or file.fileno() < 0:
                    continue  # closed by _reap
                elif file is self.listening:
                    with suppress(OSError):  # the client has ended
                        self.selector.register(file.accept()[0], selectors.EVENT_READ)
                elif file in self.jobs:
                    self._forward(file, self.jobs[file].pid)
                elif self._fork(file):
                    return
        os._exit(0)

    def _fork(self, connection: socket.socket) -> bool:
        """Fork for a client. Return whether this process is the forked one."""
        files: list[int] = []
        pid, server = -1, os.getpid()
        with suppress(OSError, IndexError):
            words, files, _, _ = socket.recv_fds(connection, 256, 6)
            log = Path(f"/proc/self/fd/{files[1]}").readlink()
            if len(files) == 6 and self.path.exists() and self._is_as_good_as_new(words.decode(errors="replace")):
                gc.freeze()  # a collection in a job would copy pages that all jobs share
                pid = os.fork()
        if pid == 0:
            try:
                self._become_job(server, files)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            return True
        for file in files:
            os.close(file)
        if pid > 0:
            self.jobs[connection] = _Job(pid, log, time.monotonic())
        else:
            self._close(connection)
        return False

    def _is_as_good_as_new(self, words: str) -> bool:
        """Import what a command needs, and return whether a fork behaves like a new process."""
        try:
            for module in modules_of(words.split()):
                importlib.import_module(module)
        except BaseException:  # the new process will report it
            return False
        # Never again after a difference: an import may have read another file.
        self.is_current &= self.path.name.startswith(_code())
        has_cuda = "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized()
        return self.is_current and not has_cuda and len(list(Path("/proc/self/task").iterdir())) == 1

    def _become_job(self, server: int, files: list[int]) -> None:
        """Give a forked process the client's files, folder, arguments and environment."""
        prctl, life = ctypes.CDLL(None).prctl, files[5]
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())  # SIGKILL when the client no longer holds its pipe
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, os.O_ASYNC)
        if os.getppid() != server or select.select([life], [], [], 0)[0]:
            os._exit(1)  # one of them ended before
        signal.set_wakeup_fd(-1)
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        for key in self.selector.get_map().values():
            if key.fd > 0:
                key.fileobj.close() if isinstance(key.fileobj, socket.socket) else os.close(key.fd)
        os.close(self.wakeup[1])
        for standard, file in enumerate(files[:3]):
            os.dup2(file, standard)
        os.fchdir(files[3])
        arguments, environment = json.loads(os.pread(files[4], os.fstat(files[4]).st_size, 0))
        sys.argv[1:] = [os.fsdecode(word.encode("latin1")) for word in arguments]
        prctl(PR_SET_NAME, f"lplgrad {sys.argv[1]}".encode())  # for top
        os.environ.clear()
        os.environb.update({name.encode("latin1"): value.encode("latin1") for name, value in environment})
        for file in files[:5]:
            os.close(file)

    def _forward(self, connection: socket.socket, pid: int) -> None:
        """Send a job the signals that its client received."""
        numbers = b""
        with suppress(OSError):
            numbers = connection.recv(64)
            for number in numbers:
                os.kill(pid, number)
        if not numbers:  # the client has ended, and the job with it
            self.selector.unregister(connection)

    def _reap(self) -> None:
        """Record what finished jobs used, and send their status to their clients."""
        for connection, job in list(self.jobs.items()):
            pid, status, used = os.wait4(job.pid, os.WNOHANG)
            if pid:
                del self.jobs[connection]
                with suppress(OSError):
                    if job.log.suffix == ".log":  # in the format of Snakemake's benchmarks: seconds and MB
                        row = (time.monotonic() - job.start, used.ru_maxrss / 1024, used.ru_utime + used.ru_stime)
                        text = "s\tmax_rss\tcpu_time\n{:.4f}\t{:.2f}\t{:.4f}\n".format(*row)
                        job.log.with_suffix(".tsv").write_text(text)
                code = os.waitstatus_to_exitcode(status)
                with suppress(OSError):
                    connection.send(bytes([code if code >= 0 else 128 - code]))
                self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        with suppress(KeyError):
            self.selector.unregister(connection)
        connection.close()


if __name__ == "__main__":
    _Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    run()
