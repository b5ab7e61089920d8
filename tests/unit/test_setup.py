"""Settings that cannot be applied in a child fail with an error that names them and can be pickled."""

import os
import pickle
import sys

import pytest

from procbackground._submit.setup import Setup, SetupError, make_setup

NOTHING = Setup(env=(), cwd=None, niceness=None, cpus=None, threads=None)


def made(**options):
    defaults = {"threads_per_task": None, "env": None, "cwd": None, "nice": 0, "cpu_affinity": None}
    return make_setup(**{**defaults, **options})


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        (NOTHING._replace(cwd="/no/such/directory"), "could not enter its cwd '/no/such/directory'"),
        pytest.param(
            NOTHING._replace(cpus=(1023,)),
            r"could not be kept to the CPUs \(1023,\)",
            marks=pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system"),
        ),
        pytest.param(
            NOTHING._replace(niceness=-20),
            "could not be given the niceness -20",
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may be as impolite as it likes"),
        ),
    ],
)
def test_what_cannot_be_applied_is_told_by_an_error_that_crosses(setup, words):
    path = sys.path[:]
    with pytest.raises(SetupError, match=words) as caught:
        setup.apply()
    sys.path[:] = path
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (SetupError, str(caught.value))


def test_a_niceness_keeps_within_what_there_is():
    assert made(nice=1000).niceness == 19
    assert made(nice=-1000).niceness == -20
    assert made().niceness is None


def test_a_directory_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert made(cwd=".").cwd == str(tmp_path)
    assert made(cwd=os.fsencode(tmp_path)).cwd == str(tmp_path)


def test_env_goes_before_caps():
    setup = made(threads_per_task=2, env={"OMP_NUM_THREADS": "1", "A": None})
    assert dict(setup.env)["OMP_NUM_THREADS"] == "1"
    assert dict(setup.env)["OPENBLAS_NUM_THREADS"] == "2"
    assert dict(setup.env)["A"] is None
