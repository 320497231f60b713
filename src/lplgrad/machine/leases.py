"""GPUs leased: every job takes a card that no other job has, since Snakemake counts cards and assigns none.

A lease is a lock on a file that is named by the card's UUID, in a folder of the user's on this machine. It ends with
the process. Jobs that share a card lock its file together, and a slot's each for itself; a job that wants the card for
itself locks its file alone. Jobs of several Snakemakes, and those started by hand, share the cards alike.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from itertools import product
from pathlib import Path

from lplgrad.machine import locks
from lplgrad.machine.errors import UserError
from lplgrad.machine.log import say

DEVICES = Path("/dev")
_leased: dict[str, list[int]] = {}  # at most one card, as long as this process lives


def lease_gpu(jobs_per_gpu: int = 1, folder: Path | None = None) -> str | None:
    """Wait for a free GPU and make it the only one that CUDA sees. To be called before CUDA is started.

    Nothing is leased where no GPU is visible, nor where SLURM made exactly one visible: that one was assigned already.

    Args:
        jobs_per_gpu: slots of a card. Cards are filled evenly.
        folder: of the locks; None for the user's on this machine.

    Returns:
        The card's UUID (its index, where there is no nvidia-smi to tell it); None if nothing was leased.

    Raises:
        UserError: there are several cards, and the file system of the locks has none.
    """
    if _leased:
        return next(iter(_leased))
    devices = visible_devices()
    if not devices or (len(devices) == 1 and "SLURM_JOB_ID" in os.environ):
        return None
    folder = folder or _users_folder()
    files = {device: folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', device)}.lock" for device in devices}
    said = False
    while True:
        for slot, (device, path) in product(range(jobs_per_gpu), files.items()):
            try:
                held = _take(path, None if jobs_per_gpu == 1 else slot)
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
        if not said:
            said = True
            holders = "; ".join(f"{device} by {locks.holder(path)}" for device, path in files.items())
            say(f"waiting for a GPU, {jobs_per_gpu} job(s) on each: all are leased: {holders}")
        time.sleep(locks.POLL_SECONDS)


def _take(card: Path, slot: int | None) -> list[int]:
    """The locks of a card for itself, or of a slot beside others; none, if somebody else has it."""
    whole = locks.acquire(card, shared=slot is not None)
    if whole is None or slot is None:
        return [] if whole is None else [whole]
    part = locks.acquire(card.with_suffix(f".{slot}.lock"))
    if part is None:
        os.close(whole)  # the file stays: others may share it
        return []
    return [whole, part]


def visible_devices() -> list[str]:
    """The GPUs that this process may use, told without torch: CUDA_VISIBLE_DEVICES, else all that nvidia-smi lists.

    Indices are those of nvidia-smi. A card that is divided (MIG) stands for its parts.

    Returns:
        UUIDs; indices where there is no nvidia-smi.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None and not named.strip():
        return []
    cards = _listed_cards()
    if named is None:
        return [device for card in cards for device in card[1:] or card]
    found: list[str] = []
    for word in named.split(","):
        devices = _named(word.strip(), cards)
        if not devices:
            break  # as CUDA does: what follows a device that does not exist is not seen
        found += devices
    return list(dict.fromkeys(found))


def _named(word: str, cards: list[list[str]]) -> list[str]:
    """The devices that a word of CUDA_VISIBLE_DEVICES names."""
    if re.fullmatch(r"\d{1,4}", word):
        if not cards:
            return [str(int(word))]
        return (cards[int(word)][1:] or cards[int(word)]) if int(word) < len(cards) else []
    if not word.startswith(("GPU-", "MIG-")):
        return []
    # A UUID may be cut short as long as it is clear.
    matching = [card[1:] or card for card in cards if card[0].startswith(word)]
    matching += [[part] for card in cards for part in card[1:] if part.startswith(word)]
    told = any(card[0].startswith("GPU-") for card in cards)  # else names stand for themselves
    return matching[0] if len(matching) == 1 else ([] if told else [word])


def _listed_cards() -> list[list[str]]:
    """UUID of every card, followed by those of its parts; its index, where there is no nvidia-smi or it fails."""
    program = shutil.which("nvidia-smi")
    try:
        told = subprocess.run([program or "", "-L"], capture_output=True, text=True, timeout=120, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # a card that is lost may be all that it fails of
        return [[str(index)] for index in range(len(list(DEVICES.glob("nvidia[0-9]*"))))]
    cards: list[list[str]] = []
    for line in told.splitlines():
        uuid = re.search(r"\(UUID: ((?:GPU|MIG)-[^)\s]+)\)", line)
        if uuid and line.startswith("GPU"):
            cards.append([uuid[1]])
        elif uuid and cards:
            cards[-1].append(uuid[1])
    return cards


def _users_folder() -> Path:
    """The user's folder of locks on this machine: always the same, whatever TMPDIR says, and nobody else's.

    Raises:
        UserError: somebody else made a folder of that name.
    """
    folder = Path("/tmp") / f"lplgrad-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink():
        raise UserError(f"{folder}: is not yours; have it removed, since the leases of GPUs are kept there")
    return folder
