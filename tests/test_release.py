"""A release: the wheel and the source distribution hold what they should, and the wheel works where it is installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.support.example import ROOT

PATIENCE_S = 300.0  # bounds a hang; what is installed comes from a registry
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * PATIENCE_S)]


def call(*command: str | os.PathLike[str], folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def files_in(folder: str) -> set[str]:
    """Return the files of this repository below `folder`, by their paths in it, without what runs leave there."""
    return {
        str(file.relative_to(ROOT))
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(file.parts)
    }


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--outdir", folder, ROOT, folder=folder)
    return folder


def test_wheel_is_the_package_and_nothing_else(dist: Path):
    [path] = dist.glob("*.whl")
    assert re.fullmatch(r"procbackground-[\d.]+-py3-none-any\.whl", path.name)
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        information = {name for name in names if ".dist-info/" in name}
        assert names - information == files_in("procbackground")
        assert {"procbackground/py.typed", "procbackground/GUIDE.md", "procbackground/ARCHITECTURE.md"} <= names
        [metadata_file] = (name for name in information if name.endswith("/METADATA"))
        metadata = Parser().parsestr(wheel.read(metadata_file).decode())
        assert any(name.endswith("/licenses/LICENSE") for name in information)
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    needed = {re.split(r"\W", each)[0] for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each}
    assert needed == {"cloudpickle", "loguru", "psutil", "tenacity"}


def test_source_distribution_has_what_its_tests_need(dist: Path):
    [path] = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    expected = set().union(*map(files_in, ("procbackground", "tests", "benchmarks", "examples")))
    assert names - expected == {"README.md", "LICENSE", "PKG-INFO", "pyproject.toml", ".gitignore"}
    assert not expected - names


def test_wheel_works_where_it_is_installed(dist: Path, tmp_path: Path):
    [wheel] = dist.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    bin_folder = tmp_path / "venv" / "bin"
    call(bin_folder / "pip", "install", "-q", wheel, folder=tmp_path)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    program = tmp_path / "program.py"
    program.write_text(readme.split("```python\n", 2)[1].partition("```")[0], encoding="utf-8")
    assert call(bin_folder / "python", program, folder=tmp_path).stdout == "[0, 1, 4, 9, 16, 25]\n"
    # Without the extra the command says how to get it.
    assert "procbackground[cli]" in call(bin_folder / "procbackground", folder=tmp_path, code=2).stderr
    call(bin_folder / "pip", "install", "-q", f"{wheel}[cli]", folder=tmp_path)
    assert "Usage: procbackground" in call(bin_folder / "procbackground", "--help", folder=tmp_path).stdout
    mapped = call(bin_folder / "procbackground", "map", "math:sqrt", "--types", "4", "9", folder=tmp_path).stdout
    assert sorted(json.loads(line)["value"] for line in mapped.splitlines()) == [2.0, 3.0]
