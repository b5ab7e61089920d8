"""Sides: the two versions, each in an interpreter of its own, faced by the same measuring code.

Second stop: `__main__` names a folder or an executable for each side; the runs start in the homes made here.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.contenders import CONTENDERS, OURS, ContenderSpec, Role
from benchmarks.isolation import ROOT, Home

OLD, NEW = "old", "new"
LAST_WORDS = 5  # lines of a command that failed


class SideError(Exception):
    """A version could not be installed or imported; the message says which and why."""


@dataclass(frozen=True)
class Side:
    """One of the two versions: what the user named, the home of its runs, and the package that they import."""

    name: str
    asked: str
    home: Home
    package: str


@contextmanager
def both_sides(old: str, new: str, needs_numpy: bool) -> Iterator[tuple[Side, Side]]:
    """Lend both versions, ready to run; environments that were made for it are deleted at the end."""
    with TemporaryDirectory(prefix="benchmark-compare-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        code = _copy_of_measuring_code(folder / "code")
        yield _side(OLD, old, folder, code, needs_numpy), _side(NEW, new, folder, code, needs_numpy)


def contender(name: str) -> ContenderSpec:
    """Return the row of a side: this library, through the adaptor that the benchmarks have for it."""
    ours = CONTENDERS[OURS]
    return ContenderSpec(
        name=name,
        title=name,
        adaptor=ours.adaptor,
        # The adaptor's module imports all that a user would. What modules a version has inside is its own affair.
        library=ours.adaptor.partition(":")[0],
        role=Role.OURS,
    )


def _copy_of_measuring_code(folder: Path) -> Path:
    # This checkout's own folder must not be in the path of a run: its `procbackground` would hide the installed one.
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", ignore=shutil.ignore_patterns("__pycache__", "results"))
    return folder


def _side(name: str, asked: str, folder: Path, code: Path, needs_numpy: bool) -> Side:
    path = Path(asked).absolute()  # not resolved: an environment's executable is a link out of the environment
    if path.is_dir():
        python = _environment_with(path, folder / name, needs_numpy)
    elif path.is_file() and os.access(path, os.X_OK):
        python = path
    else:
        raise SideError(f"{name}: {asked} is neither a folder nor an executable")
    home = Home(os.fspath(python), code, keeps_path=False)
    package = _package_in(home, name, needs_numpy)
    if path.is_dir() and not Path(package).is_relative_to((folder / name).resolve()):
        raise SideError(f"{name}: {package} is imported in place of the version installed from {asked}")
    return Side(name, asked, home, package)


def _environment_with(checkout: Path, folder: Path, needs_numpy: bool) -> Path:
    python = folder / "bin" / "python"
    print(f"installing {checkout} into an environment of its own", flush=True)
    _run([sys.executable, "-m", "venv", os.fspath(folder)], checkout.name)
    install = [os.fspath(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", os.fspath(checkout)]
    _run([*install, *(["numpy"] if needs_numpy else [])], checkout.name)
    return python


def _package_in(home: Home, name: str, needs_numpy: bool) -> str:
    """Return the folder of the package that runs of this home import; compile what they import on the way."""
    adaptor = CONTENDERS[OURS].adaptor.partition(":")[0]
    modules = ", ".join([OURS, adaptor, *(["numpy"] if needs_numpy else [])])
    code = (
        f"import compileall, os, sys, {modules}\n"
        f"package = os.path.dirname(os.path.realpath({OURS}.__file__))\n"
        f"[compileall.compile_dir(folder, quiet=2) for folder in (package, 'benchmarks')]\n"
        f"sys.stdout.write(package)"
    )
    return _run([home.python, "-c", code], name, home)


def _run(command: list[str], what: str, home: Home | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=home.folder if home else None,
        env=home.environment() if home else None,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last_words = done.stderr.strip().splitlines()[-LAST_WORDS:]
        raise SideError(" | ".join([f"{what}: exit code {done.returncode}", *last_words]))
    return done.stdout
