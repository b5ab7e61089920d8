"""Whether dask is installed, and what is said where it is not."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.support.scripts import ENVIRONMENT

WITHOUT = "import sys; sys.modules['distributed'] = None; from procbackground.engines import DaskEngine"


@pytest.mark.skipif(not find_spec("distributed"), reason="tests of a cluster need dask: pip install -e '.[dev,dask]'")
def test_engine_is_found_by_its_name():
    from procbackground import engines

    assert engines.DaskEngine.__module__ == "procbackground.engines.dask"


def test_without_dask_the_error_names_the_extra():
    ran = subprocess.run([sys.executable, "-c", WITHOUT], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert "ImportError: DaskEngine needs dask.distributed: install procbackground[dask]" in ran.stderr


def test_package_and_manager_load_nothing_of_dask():
    code = "import sys, procbackground.engines, procbackground.manager; assert 'distributed' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)
