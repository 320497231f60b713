"""Lease GPUs to jobs: Snakemake counts GPUs, but does not assign them.

A lease is a lock on a file named by the GPU's UUID. It ends with the process. Jobs that share a GPU hold a shared lock
on its file and an exclusive lock on the file of a slot. A job that needs the whole GPU locks its file exclusively.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from itertools import islice, product
from pathlib import Path

from lplgrad.machine import locks
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import private_folder
from lplgrad.machine.log import say

DEVICES = Path("/dev")
_leased: dict[str, list[int]] = {}  # open lock files by GPU: at most one GPU, until the process ends


def lease_gpu(jobs_per_gpu: int = 1, folder: Path | None = None) -> str | None:
    """Wait for a free slot of a GPU and make the GPU the only one visible to CUDA. Call this before CUDA starts.

    GPUs are filled evenly. The locks are in ``folder``, by default in a folder of this user on this machine.

    Returns:
        The UUID of the GPU, or its index if nvidia-smi is missing. None if no GPU is visible, or if SLURM has assigned
        the only visible one.

    Raises:
        UserError: several GPUs are visible, and the file system of the folder does not support locks.
    """
    if _leased:
        return next(iter(_leased))
    devices = visible_devices()
    if not devices or (len(devices) == 1 and "SLURM_JOB_ID" in os.environ):
        return None
    folder = folder or private_folder()
    files = {device: folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', device)}.lock" for device in devices}
    waiting = False
    while True:
        for slot, (device, path) in product(range(jobs_per_gpu), files.items()):
            try:
                held = _acquire(path, None if jobs_per_gpu == 1 else slot)
            except OSError as error:
                if error.errno not in locks.UNSUPPORTED:
                    raise
                if len(devices) > 1:
                    raise UserError(
                        f"{folder}: its file system has no locks, so no GPU can be leased; name one GPU in "
                        "CUDA_VISIBLE_DEVICES, and give Snakemake --resources gpu=1"
                    ) from None
                say(f"{folder}: its file system has no locks; make sure that no other run uses GPU {device}")
                return None
            if held:
                _leased[device] = held
                os.environ["CUDA_VISIBLE_DEVICES"] = device
                say(f"GPU {device} is leased ({path})")
                return device
        if not waiting:
            waiting = True
            holders = "; ".join(f"{device} by {_holders(path)}" for device, path in files.items())
            say(f"waiting for a GPU, {jobs_per_gpu} job(s) on each: all are leased: {holders}")
        time.sleep(locks.POLL_SECONDS)


def _acquire(card: Path, slot: int | None) -> list[int]:
    """Return the locks of a whole GPU (slot None) or of one slot; an empty list if another job holds them."""
    whole = locks.acquire(card, shared=slot is not None)
    if whole is None or slot is None:
        return [] if whole is None else [whole]
    part = locks.acquire(card.with_suffix(f".{slot}.lock"))
    if part is None:
        os.close(whole)  # keep the file: other jobs may share its lock
        return []
    return [whole, part]


def _holders(path: Path) -> str:
    """Return which jobs hold a GPU or a slot of it. Jobs that share its file are not known by it."""
    held = filter(locks.is_held, [path, *sorted(path.parent.glob(f"{path.stem}.*.lock"))])
    return " and ".join(map(locks.holder, held)) or "another process"


def visible_devices() -> list[str]:
    """Return the UUIDs of the GPUs in CUDA_VISIBLE_DEVICES, or of all GPUs. Without nvidia-smi, return indices.

    The instances of a divided GPU (MIG) replace the GPU. Indices are those of nvidia-smi.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None and not named.strip():
        return []
    cards = _listed_cards()
    if named is None:
        return [device for devices in cards.values() for device in devices]
    visible: list[str] = []
    for word in named.split(","):
        devices = _named(word.strip(), cards)
        if not devices:
            break  # CUDA ignores everything after an unknown device
        visible += devices
    return list(dict.fromkeys(visible))


def _named(word: str, cards: dict[str, list[str]]) -> list[str]:
    """Return the devices that a word of CUDA_VISIBLE_DEVICES names."""
    if re.fullmatch(r"\d{1,4}", word):
        return next(islice(cards.values(), int(word), None), []) if cards else [str(int(word))]
    if not word.startswith(("GPU-", "MIG-")):
        return []
    # CUDA accepts the beginning of a UUID if it is unambiguous.
    names = cards | {device: [device] for devices in cards.values() for device in devices}
    matching = [devices for name, devices in names.items() if name.startswith(word)]
    has_uuids = any(card.startswith("GPU-") for card in cards)
    return matching[0] if len(matching) == 1 else ([] if has_uuids else [word])


def _listed_cards() -> dict[str, list[str]]:
    """Return the devices of each GPU: its instances (MIG) or itself. Without nvidia-smi, indices replace UUIDs."""
    program = shutil.which("nvidia-smi")
    try:
        output = subprocess.run([program or "", "-L"], capture_output=True, text=True, timeout=120, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # a single lost GPU can make it fail
        return {str(index): [str(index)] for index in range(len(list(DEVICES.glob("nvidia[0-9]*"))))}
    cards: dict[str, list[str]] = {}
    for line in output.splitlines():
        if uuid := re.search(r"\(UUID: ((?:GPU|MIG)-[^)\s]+)\)", line):
            if line.startswith("GPU"):
                cards[uuid[1]] = []
            elif cards:
                cards[next(reversed(cards))].append(uuid[1])
    return {card: instances or [card] for card, instances in cards.items()}
