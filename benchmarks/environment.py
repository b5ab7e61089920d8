"""Environment: which contenders can be measured here, and on what they were measured.

Asked by `__main__` before the first run; what it answers is printed, and written into every report.
"""

import compileall
import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from benchmarks.contenders import OURS, ContenderSpec
from benchmarks.isolation import HERE, ROOT

IMPORT_LIMIT_S = 60.0


def why_not_importable(contender: ContenderSpec) -> str | None:
    """Import the contender's adaptor in an own interpreter; return the error's last line, or None."""
    module = contender.adaptor.partition(":")[0]
    attempt = subprocess.run(
        [HERE.python, "-c", f"import {module}"],
        cwd=HERE.folder,
        env=HERE.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=IMPORT_LIMIT_S,
        check=False,
    )
    if attempt.returncode == 0:
        return None
    return (attempt.stderr.strip().splitlines() or [f"exit code {attempt.returncode}"])[-1]


def cache_bytecode() -> None:
    """Compile this package and procbackground before the first run; installed libraries are compiled."""
    package = importlib.util.find_spec(OURS)
    folders = [*(package.submodule_search_locations or [])] if package else []
    for folder in [str(ROOT / "benchmarks"), *folders]:
        compileall.compile_dir(folder, quiet=2)


def versions_of(contenders: Iterable[ContenderSpec]) -> dict[str, str]:
    """Return the version of each distribution that takes part; the standard library's is Python's own."""
    distributions = [spec.distribution for spec in contenders if spec.distribution is not None]
    versions = {}
    for distribution in [*distributions, "numpy"]:
        try:
            versions[distribution] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            versions[distribution] = "not installed" if distribution != OURS else "working tree"
    return versions


def describe_machine() -> Mapping[str, object]:
    """Return what the numbers depend on: processor, cores, memory, system, Python and the present load."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def now() -> str:
    """Return the date and time in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1)
    except (AttributeError, OSError, ValueError):
        return None
