"""The command lines of the README and the guide work as pasted."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys

import pytest

from tests.cli.conftest import PATIENCE_S
from tests.support.example import ROOT

PAGES = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "procbackground/GUIDE.md"))
LINES = [
    line for block in re.findall(r"^```sh\n(.*?)^```$", PAGES, re.MULTILINE | re.DOTALL)
    for line in block.splitlines() if line.startswith("procbackground ")
]  # fmt: skip
[NIGHTLY] = re.findall(r"^```python\n(from procbackground\.cli import task\n.*?)^```$", PAGES, re.MULTILINE | re.DOTALL)

# What a line prints. Those that go on until a signal, or want a terminal, have tests of their own below and elsewhere.
PRINTED = {
    "map thumbs:make --glob": ['"value": "made photos/a.jpg"'],
    "map thumbs:make *.jpg": ['"value": "made one.jpg"', '"value": "made two.jpg"'],
    "map thumbs:make --from": ['"value": "made one.jpg"'],
    "map sim:run --csv": ['"value": [3, 0.5]'],
    "map sim:run ::: 1 2 3 ::: a b": ['"value": ["1", "a"]', '"value": ["3", "b"]'],
    "map sim:run --jsonl": ['"value": [3, 0.5]'],
    "map nets:train": ['"value": "one on GPU 0 of 0"'],
    "run nightly.py": ['"value": 17'],
    "journal failed": [],
    "doctor": ["start method"],
}


def lay_out(command) -> None:
    for name, text in {
        "thumbs.py": "def make(path): return f'made {path}'\n",
        "sim.py": "def run(a, b): return [a, b]\n",
        "nets.py": "import os\n\nfrom procbackground import current\n\n\ndef train(name):\n"
        "    return f\"{name} on GPU {current().slots['gpu'][0]} of {os.environ['CUDA_VISIBLE_DEVICES']}\"\n",
        "poller.py": "def poll(): print('polled', flush=True)\n",
        "nightly.py": NIGHTLY,
        "files.txt": "one.jpg\n", "names.txt": "one\n", "params.csv": "a,b\n3,0.5\n", "p.jsonl": '{"a": 3, "b": 0.5}\n',
        "one.jpg": "", "two.jpg": "",
    }.items():  # fmt: skip
        command.write(name, text)
    (command.folder / "photos").mkdir()
    command.write("photos/a.jpg", "")


def test_every_line_has_its_expectation():
    starts = [next((start for start in PRINTED if line.startswith(f"procbackground {start}")), line) for line in LINES]
    assert [start.split()[1] for start in starts if start not in PRINTED] == ["loop", "top"]
    assert set(PRINTED) <= set(starts)


@pytest.mark.parametrize("start", PRINTED)
def test_line_works_as_pasted(command, start):
    lay_out(command)
    if start.startswith("journal"):
        assert command("map", "sim:run", "--jsonl", "p.jsonl", "--journal", "p.sqlite").code == 0
    [line] = (line for line in LINES if line.startswith(f"procbackground {start}"))
    ran = subprocess.run(
        line.replace("procbackground", f"{shlex.quote(sys.executable)} -m procbackground", 1), shell=True,
        cwd=command.folder, env=command.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert ran.returncode == 0 or start == "doctor", ran.stderr
    for text in PRINTED[start]:
        assert text in ran.stdout


def test_the_loop_runs_until_sigterm(command):
    lay_out(command)
    [line] = (line for line in LINES if line.startswith("procbackground loop "))
    with command.running(*shlex.split(line, comments=True)[1:]) as process:
        assert process.stderr.readline() == "polled\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 143
