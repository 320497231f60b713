"""Here again: bring what came back into the study's results."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lplgrad.errors import UserError
from lplgrad.files import replacing
from lplgrad.portions.chains import TIMES, files_of, identity, images, in_turn, is_complete, plan, read, snakemake

if TYPE_CHECKING:
    from lplgrad.study import Chain, Layout


def merge(archives: list[Path]) -> None:
    """Bring archives into the results of the study that was packed, and let Snakemake take them for its own."""
    files = plan()["files"]
    layout = read(files)
    chains = in_turn(layout)
    found = [checked(layout, chains, path) for path in archives]
    new: dict[str, bytes] = {}
    for path, (_, contents) in zip(archives, found, strict=True):
        for name, content in contents.items():
            ours = Path(name).read_bytes() if Path(name).exists() else new.setdefault(name, content)
            if ours != content and Path(name).name not in TIMES:
                raise UserError(
                    f"{path}: {name} differs from what is here already; nothing is merged, since strategies that start "
                    "from different models are not comparable"
                )
    for name, content in new.items():  # only now, all being sound
        with replacing(Path(name)) as file:
            file.write(content)
    merged = list(dict.fromkeys(name for name, _ in found))
    adopt(files, layout, [chains[name] for name in merged])
    tell(layout, files, merged)


def checked(layout: Layout, chains: dict[str, Chain], path: Path) -> tuple[str, dict[str, bytes]]:
    """The name of an archive's chain, and its files.

    Raises:
        UserError: it is broken, its files are not just those of a chain of this study, or other code or other settings
            than are here made them, or from other pixels.
    """
    try:
        contents = contents_of(path)
        about = json.loads(contents.pop("portion.json"))
        name, made_by, seen = about["chain"], about["identity"], about["images"]
    except (tarfile.TarError, OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not an archive of a portion, or cut off ({error})") from None
    if name not in chains:
        raise UserError(f"{path}: the study {layout.study.study!r} has no chain {name!r}")
    wanted = files_of(layout, chains[name])
    for other in sorted(contents.keys() - set(wanted)):
        raise UserError(f"{path}: holds {other!r}, which is no result of {name}")
    for other in sorted(set(wanted) - contents.keys()):
        raise UserError(f"{path}: lacks {other}")
    if made_by != identity(layout, chains[name]):
        raise UserError(f"{path}: {name} was made with other settings or other code than are here")
    if images(layout, chains[name]) not in (None, seen):
        raise UserError(f"{path}: the images of {chains[name].dataset} were decoded to other pixels there than here")
    return name, {other: contents[other] for other in wanted}


def contents_of(path: Path) -> dict[str, bytes]:
    """The files of an archive; a link or a folder has no content, and is refused by its name or as a broken file."""
    with tarfile.open(path) as archive:
        opened = {member.name: archive.extractfile(member) if member.isreg() else None for member in archive}
        return {name: file.read() if file is not None else b"" for name, file in opened.items()}


def adopt(files: Sequence[str], layout: Layout, chains: list[Chain]) -> None:
    """Let Snakemake note down what these files follow from, as if it had made them here: it trains nothing anew then.

    The images are prepared before, as it would make results again that are older than they.
    """
    steps = [["--touch", *sorted({name for chain in chains for name in files_of(layout, chain)})]]
    if any(images(layout, chain) is None for chain in chains):
        steps.insert(0, sorted({f"{layout.data(chain.dataset)}/dataset.json" for chain in chains}))
    for arguments in steps:
        command = snakemake(files, *arguments)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            print(done.stdout[-3000:], flush=True)
            raise UserError("the results are in place, but Snakemake did not take them; merge again when it can")


def tell(layout: Layout, files: Sequence[str], merged: list[str]) -> None:
    """Say what is there, and what comes next."""
    chains = in_turn(layout)
    missing = [name for name, chain in chains.items() if not is_complete(layout, chain)]
    print(f"merged {', '.join(merged)}; {len(chains) - len(missing)} of {len(chains)} chains are complete")
    configuration = " ".join(files)
    if missing:
        print(f"missing: {', '.join(missing)}")
        print(f"tables so far: lplgrad report config.yaml {configuration} --partial --output so_far")
    else:
        print(f"tables and figures: snakemake{' --configfile ' * bool(files)}{configuration}")
