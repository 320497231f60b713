"""The fork server: a fork does what a new process does, and nothing outlives whom it works for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lplgrad.datasets.prepared.arrays import DatasetArrays
from lplgrad.machine import fork_server
from lplgrad.rounds.files import write_labeled
from tests.conftest import POOL, first_labels

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fork server runs on Linux only")
SMALL = [
    "backbone.name=small_resnet",
    "backbone.width=4",
    "training.batch_size=4",
    "training.learning_rate=0.01",
    "training.milestones=[]",
]
NEW_PROCESS = "no fork server; starting a new process"
OWNER = """
import sys, time
from pathlib import Path
from lplgrad.machine import fork_server
path = fork_server.socket_path()
fork_server.start(path, print)
print(path, fork_server._started[0].pid, flush=True)
time.sleep(600)
"""


class Owner:
    """A process that has a server, as Snakemake has."""

    def __init__(self, folder: Path, source: Path = fork_server.PACKAGE.parent, **environment: str) -> None:
        self.folder = folder
        paths = filter(None, [str(source), os.environ.get("PYTHONPATH")])
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env=self.environment
        )
        assert self.process.stdout is not None
        path, pid = self.process.stdout.readline().split()
        self.path, self.server = Path(path), int(pid)
        self.clients: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Owner:
        return self

    def __exit__(self, *exception: object) -> None:
        processes: list[subprocess.Popen[Any]] = [*self.clients, self.process]
        for process in processes:
            process.kill()
            process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def start(self, *arguments: str, log: str = "job.log", **environment: str) -> subprocess.Popen[bytes]:
        """Start a client whose output goes to a log."""
        with (self.folder / log).open("wb") as output:
            client = subprocess.Popen(
                [sys.executable, "-I", "-S", fork_server.CLIENT, self.path, *arguments],
                cwd=self.folder, env={**self.environment, **environment}, stdout=output, stderr=output,
            )  # fmt: skip
        self.clients.append(client)
        return client

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Return the status of a client and its log."""
        status = self.start(*arguments, **environment).wait(timeout=60)
        return status, (self.folder / "job.log").read_text()


@pytest.fixture
def owner(tmp_path: Path, data: DatasetArrays) -> Iterator[Owner]:
    write_labeled(tmp_path / "labeled.csv", first_labels(POOL, 12))
    with Owner(tmp_path) as owner:
        yield owner


def training(output: str, epochs: int, *settings: str) -> list[str]:
    arguments = ["train", "--data", "data", "--labeled", "labeled.csv", "--round", "1", "--seed", "1"]
    return [*arguments, "--settings", *SMALL, f"training.epochs={epochs}", *settings, "--output", output]


def state_of(pid: int) -> str:
    """Return the letter of a process's state, Z if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return "Z"


def is_alive(pid: int) -> bool:
    return state_of(pid) != "Z"


def wait_until_gone(*pids: int, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while any(map(is_alive, pids)):
        assert time.monotonic() < until, "a process goes on"
        time.sleep(0.01)


def trains(owner: Owner, log: str = "job.log") -> int:
    """Wait until a training has begun, and return its process."""
    while "epoch 2/" not in (owner.folder / log).read_text():
        time.sleep(0.02)
    children = Path(f"/proc/{owner.server}/task/{owner.server}/children").read_text().split()
    return int(children[-1])


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if "timing" not in file.name}


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bytes_as_a_new_process(owner: Owner, threads: int) -> None:
    settings = [f"compute.threads={threads}"]
    query = ["--settings", "acquisition=gradient_norm", "query_size=6", "candidates=20", *settings]
    for name in ("new", "forked"):
        inputs = ["--data", "data", "--labeled", "labeled.csv", "--checkpoint", f"{name}/checkpoint.safetensors"]
        for command in (
            training(name, 3, *settings),
            ["query", *inputs, "--round", "1", "--seed", "1", *query, "--output", name],
        ):
            if name == "forked":
                status, log = owner.run(*command)
                assert status == 0, log
                assert NEW_PROCESS not in log
            else:
                python = [sys.executable, "-m", "lplgrad", *command]
                subprocess.run(python, cwd=owner.folder, env=owner.environment, check=True, capture_output=True)
    assert files(owner.folder / "new") == files(owner.folder / "forked")
    assert len(files(owner.folder / "new")) == 8


def test_what_a_job_used_is_recorded_next_to_its_log(owner: Owner) -> None:
    assert owner.run(*training("round1", 3))[0] == 0
    header, row = (owner.folder / "job.tsv").read_text().splitlines()
    used = dict(zip(header.split("\t"), map(float, row.split("\t")), strict=True))
    assert list(used) == ["s", "max_rss", "cpu_time"]
    assert 0 < used["cpu_time"] < used["s"] + 1
    assert used["max_rss"] > 50


def test_the_status_and_the_message_are_the_jobs(owner: Owner) -> None:
    assert owner.run("train", "--data") == (2, owner.run("train", "--data")[1])
    status, log = owner.run(*training("round1", 3, "backbone.stem=vgg"))
    assert (status, log.count("\n")) == (1, 1)
    assert log.startswith("lplgrad train: error: --settings: backbone.stem: ")
    assert owner.run("schema")[1].startswith("{")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_job_which_saves_its_progress(owner: Owner, number: signal.Signals) -> None:
    client = owner.start(*training("round1", 100_000))
    job = trains(owner)
    client.send_signal(number)
    assert client.wait(timeout=30) == 128 + number
    assert not is_alive(job)
    assert f"ended by {number.name}" in (owner.folder / "job.log").read_text()
    assert (owner.folder / "round1/progress.safetensors").exists()


@pytest.mark.parametrize("seconds", [0.5, 1.0, 1.5])
def test_a_signal_while_the_server_imports_is_not_lost(owner: Owner, seconds: float) -> None:
    client = owner.start(*training("round1", 100_000))
    time.sleep(seconds)
    client.send_signal(signal.SIGTERM)
    assert client.wait(timeout=30) == 128 + signal.SIGTERM
    assert "Traceback" not in (owner.folder / "job.log").read_text()


def test_a_signal_that_reaches_everybody_counts_once(owner: Owner) -> None:
    """As on a shutdown, or when systemd stops a session."""
    client = owner.start(*training("round1", 100_000))
    job = trains(owner)
    for process in (owner.server, job, client.pid):
        os.kill(process, signal.SIGTERM)
    assert client.wait(timeout=30) == 128 + signal.SIGTERM
    assert (owner.folder / "round1/progress.safetensors").exists()
    assert owner.run("schema")[0] == 0, "the server goes on"


def test_a_job_dies_with_its_client_even_if_the_server_is_busy(owner: Owner) -> None:
    client = owner.start(*training("round1", 100_000))
    job = trains(owner)
    os.kill(owner.server, signal.SIGSTOP)
    client.kill()
    wait_until_gone(job, seconds=1)
    os.kill(owner.server, signal.SIGCONT)
    assert owner.run("schema")[0] == 0, "the server goes on"


def test_a_job_stops_and_continues_with_its_client(owner: Owner) -> None:
    client = owner.start(*training("round1", 100_000))
    job = trains(owner)
    for number, states in ((signal.SIGTSTP, "T"), (signal.SIGCONT, "RS")):
        client.send_signal(number)
        while not all(state_of(pid) in states for pid in (job, client.pid)):
            time.sleep(0.02)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_closed_files_end_no_job(tmp_path: Path, closed: str) -> None:
    script = f"""
import subprocess, sys
from lplgrad.machine import fork_server
fork_server.start(path := fork_server.socket_path(), print)
client = [sys.executable, "-I", "-S", fork_server.CLIENT, path, "schema"]
sys.exit(subprocess.call(client, stderr=open({str(tmp_path / "job.log")!r}, "w")))
"""
    command = ["bash", "-c", f'exec "$@" {closed}', "bash", sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(fork_server.PACKAGE.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, (tmp_path / "job.log").read_text()) == (0, ""), done.stderr


def test_the_client_has_the_status_of_a_killed_job(owner: Owner) -> None:
    client = owner.start(*training("round1", 100_000))
    os.kill(trains(owner), signal.SIGKILL)
    assert client.wait(timeout=10) == 128 + signal.SIGKILL


def test_a_job_of_a_killed_server_starts_again_as_a_new_process_and_goes_on(owner: Owner) -> None:
    client = owner.start(*training("round1", 300), "--progress-seconds", "0")
    job = trains(owner)
    os.kill(owner.server, signal.SIGKILL)
    wait_until_gone(job, seconds=1)
    assert client.wait(timeout=60) == 0
    log = (owner.folder / "job.log").read_text()
    assert log.count(NEW_PROCESS) == 1
    assert "continuing after epoch" in log
    (owner.folder / "job.tsv").write_text("of an earlier run")
    status, log = owner.run("schema")
    assert status == 0
    assert NEW_PROCESS in log
    assert not (owner.folder / "job.tsv").exists()


def test_nothing_is_left_of_a_killed_owner_and_progress_is_saved(owner: Owner) -> None:
    client = owner.start(*training("round1", 100_000))
    job = trains(owner)
    owner.process.kill()
    assert client.wait(timeout=30) == 128 + signal.SIGTERM
    wait_until_gone(job, owner.server)
    assert (owner.folder / "round1/progress.safetensors").exists()
    assert not owner.path.exists()


def test_a_killed_servers_socket_is_removed_by_the_next(owner: Owner) -> None:
    os.kill(owner.server, signal.SIGKILL)
    owner.process.kill()
    assert owner.path.exists()
    with Owner(owner.folder):
        assert not owner.path.exists()


def test_two_owners_side_by_side(owner: Owner) -> None:
    with Owner(owner.folder) as other:
        assert other.path != owner.path
        for one in (owner, other):
            status, log = one.run("schema")
            assert (status, NEW_PROCESS in log) == (0, False)
    wait_until_gone(other.server)
    assert NEW_PROCESS not in owner.run("schema")[1]


def test_a_server_with_other_code_is_not_used(tmp_path: Path) -> None:
    shutil.copytree(fork_server.PACKAGE, tmp_path / "src/lplgrad", ignore=shutil.ignore_patterns("__pycache__"))
    module = tmp_path / "src/lplgrad/study/schema.py"
    before = module.read_text()
    with Owner(tmp_path, tmp_path / "src") as owner:
        (module.parent / ".#schema.py").symlink_to("me@host.123:456")  # by Emacs, which changes no code
        assert NEW_PROCESS not in owner.run("start", "--help")[1]
        for text in (f"{before}\nprint('edited')\n", before):  # the server would now have the edited module
            module.write_text(text)
            status, log = owner.run("schema")
            assert (status, NEW_PROCESS in log, "edited" in log) == (0, True, text != before)


@pytest.mark.parametrize(
    "disturbance",
    [
        "import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
        "import torch; torch.cuda.is_initialized = lambda: True",
    ],
    ids=["a second thread", "CUDA"],
)
def test_a_server_with_threads_or_cuda_is_not_used(tmp_path: Path, disturbance: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nif 'lplgrad.machine' in str(sys.orig_argv): {disturbance}")
    with Owner(tmp_path, PYTHONPATH=f"{fork_server.PACKAGE.parent}:{tmp_path}") as owner:
        status, log = owner.run("schema")
    assert (status, NEW_PROCESS in log) == (0, True)


@pytest.mark.slow
def test_imports_start_no_thread_and_no_cuda(owner: Owner) -> None:
    """Every command's modules are imported in one server, which goes on forking."""
    for command in ("train", "query", "observe", "prepare", "start", "diagnostics", "claims"):
        assert NEW_PROCESS not in owner.run(command, "--help")[1]
    for kind in ("embeddings", "ranks", "class-accuracy"):
        assert NEW_PROCESS not in owner.run("figure", kind, "--help")[1]
    assert NEW_PROCESS not in owner.run("table", "datasets", "--help")[1]


def test_the_job_holds_the_lease_of_its_gpu(owner: Owner) -> None:
    """GPUs are only names here: torch sees none, so the job trains on the processor."""
    lease = owner.path.with_name("77.lock")
    client = owner.start(*training("round1", 100_000), CUDA_VISIBLE_DEVICES="77")
    job = trains(owner)
    assert f"process {job} on" in lease.read_text()
    second = owner.start(*training("round2", 2), log="second.log", CUDA_VISIBLE_DEVICES="77")
    while "waiting for a GPU" not in (owner.folder / "second.log").read_text():
        time.sleep(0.02)
    client.kill()
    assert second.wait(timeout=30) == 0
