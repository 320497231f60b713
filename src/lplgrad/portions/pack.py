"""Here: gather what the other machine lacks."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lplgrad.errors import UserError
from lplgrad.files import beside, write_json
from lplgrad.portions.chains import FOLDER, MIB, code, identity, in_turn, is_complete, read

if TYPE_CHECKING:
    from lplgrad.study import Layout

LIMIT = 64 * MIB  # the project and all that goes with it
# Of the project's dependencies: what the other machine has, and what only tables and figures need, which are made here.
NOT_CARRIED = {"torch", "torchvision", "numpy", "pillow", "matplotlib", "pandas", "scikit-learn", "scipy", "seaborn"}
PYTHON = "3.12"
PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)), "manylinux2014_x86_64")


def pack(files: list[str], no_wheels: bool = False) -> None:
    """Gather packages, images and the list of what is still to be run."""
    layout = read(files)
    todo = {name: identity(layout, chain) for name, chain in in_turn(layout).items() if not is_complete(layout, chain)}
    if not no_wheels:
        fetch_wheels(FOLDER / "wheels")
    wanted = {pack_images(layout, dataset) for dataset in layout.datasets}
    for path in (FOLDER / "images").iterdir():
        if path not in wanted:
            path.unlink()
    write_json(FOLDER / "plan.json", {"files": files, "code": code(), "todo": todo})
    sizes = {part: sum_of_sizes((FOLDER / part).rglob("*")) for part in ("wheels", "images")}
    sizes["the project"] = project_size()
    together = sum(sizes.values())
    print(f"{len(todo)} chain(s) to run; " + ", ".join(f"{part} {size / MIB:.1f} MiB" for part, size in sizes.items()))
    if together > LIMIT:
        raise UserError(f"together {together / MIB:.1f} MiB, more than the {LIMIT // MIB} MiB that may travel")


def sum_of_sizes(paths: Iterable[Path]) -> int:
    """Bytes of those paths that are files."""
    return sum(path.stat().st_size for path in paths if path.is_file())


def project_size() -> int:
    """Bytes of the files that a clone would have, and of new ones."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listed, capture_output=True, text=True)
    if done.returncode:  # no clone
        return sum_of_sizes(path for path in Path().rglob("*") if path.parts[0] not in (FOLDER.name, "data", "results"))
    return sum_of_sizes(map(Path, filter(None, done.stdout.split("\0"))))


def carried_packages() -> set[str]:
    """The project's dependencies and theirs, without those that are not carried."""
    import tomllib
    from importlib.metadata import requires

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    there = {"extra": "", "python_version": PYTHON, "python_full_version": f"{PYTHON}.0"}
    waiting = list(tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"])
    found: set[str] = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        needed = requirement.marker is None or requirement.marker.evaluate(there)
        if needed and name not in found and name not in NOT_CARRIED:
            found.add(name)
            waiting += requires(name) or []
    return found


def pinned_packages() -> str:
    """The lines of requirements.lock, with versions and hashes, of what is carried."""
    entries = re.split(r"\n(?=\S)", Path("requirements.lock").read_text())
    names = carried_packages()
    return "\n".join(entry for entry in entries if entry.partition("==")[0] in names) + "\n"


def fetch_wheels(folder: Path) -> None:
    """Download what is carried for the other machine's Python, unless it is there already."""
    pinned = pinned_packages()
    if (folder / "requirements.txt").exists() and (folder / "requirements.txt").read_text() == pinned:
        return
    temporary = folder.with_name(".wheels.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    (temporary / "requirements.txt").write_text(pinned)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    other = ["--implementation", "cp", "--python-version", PYTHON, *(f"--platform={name}" for name in PLATFORMS)]
    checked = ["--no-deps", "--require-hashes", "--requirement", str(temporary / "requirements.txt")]
    subprocess.run([*pip, "download", *other, *checked, "--prefer-binary", "--dest", str(temporary)], check=True)
    for source in temporary.glob("*.tar.gz"):  # what has no wheel is built here
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(temporary), str(source)], check=True)
        name = re.sub("[-_.]+", "[-_.]", source.name.removesuffix(".tar.gz").rpartition("-")[0])
        if not any(re.match(f"{name}-.*-none-any.whl", wheel.name, re.I) for wheel in temporary.iterdir()):
            raise UserError(f"{source.name} has no wheel for Python {PYTHON}, and is not of Python alone")
        source.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def pack_images(layout: Layout, dataset: str) -> Path:
    """Archive what a data set is prepared from, if that is a folder of images, else what was prepared; under a name
    that tells whether the archive is still of the same.
    """
    row = layout.study.datasets[dataset]
    in_files = row.source == "image_folder"
    place = Path(str(row.options["path"]) if in_files else layout.data(dataset))
    if place.is_absolute() or ".." in place.parts or "~" in place.parts:
        raise UserError(f"datasets.{dataset}: {place} must lie in the project's folder; a link there is enough")
    if not place.exists() or not (in_files or (place / "dataset.json").exists()):
        raise UserError(f"datasets.{dataset}: {place} is not there; place or prepare it before it can travel")
    real = place.resolve()
    times = [path.stat().st_mtime_ns for path in (real, *real.rglob("*"))]
    said = f"{layout.source_settings(dataset)} {len(times)} {max(times)}"
    target = FOLDER / "images" / f"{dataset}-{hashlib.sha256(said.encode()).hexdigest()[:12]}.tar.xz"
    if not target.exists():
        print(f"packing {place}", flush=True)
        with beside(target) as temporary, tarfile.open(temporary, "w:xz", dereference=True) as archive:
            archive.add(place)
    return target
