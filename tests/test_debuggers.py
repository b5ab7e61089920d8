"""Debuggers in a worker, whose standard input is empty: refused with a hint, unless they have an input of their own."""

from __future__ import annotations

import pytest

from tests.support.gate import PATIENCE_S
from tests.support.tasks import debugging


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_debugger_in_a_worker_says_what_to_do(make_manager, method: str):
    manager = make_manager(max_workers=1, mp_context=method)
    for start in (debugging.start_pdb, debugging.start_a_class_derived_from_pdb, breakpoint):
        error = manager.run(start).exception(timeout=PATIENCE_S)
        assert type(error) is RuntimeError
        assert "inline=True" in str(error)
        assert "debugpy" in str(error)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_pudb_in_a_worker_says_what_to_do(make_manager, method: str):
    pytest.importorskip("pudb")
    manager = make_manager(max_workers=1, mp_context=method)
    for _ in range(2):
        error = manager.run(debugging.start_pudb).exception(timeout=PATIENCE_S)
        assert type(error) is RuntimeError
        assert "pudb in a worker process" in str(error)
        assert "inline=True" in str(error)


def test_a_debugger_with_an_input_of_its_own_works(manager):
    number, printed = manager.run(debugging.debug_with_an_own_input).result(timeout=PATIENCE_S)
    assert number == 17
    assert "(Pdb) 18" in printed
    assert "debug_with_an_own_input" in printed
