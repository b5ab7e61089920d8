"""scipy's optimizers with `Manager.map` as their map."""

from __future__ import annotations

import pytest

optimize = pytest.importorskip("scipy.optimize")

BOUNDS = [(-3, 3), (-3, 3)]


def rosenbrock(point) -> float:
    x, y = point
    return float((1 - x) ** 2 + 100 * (y - x**2) ** 2)


@pytest.mark.parametrize("with_options", [False, True])
def test_differential_evolution_finds_what_it_finds_alone(manager, with_options):
    def run(workers):
        return optimize.differential_evolution(
            rosenbrock, BOUNDS, rng=1, maxiter=15, popsize=8, updating="deferred", polish=False, workers=workers
        )

    parallel = run((manager.options(retry=2) if with_options else manager).map)
    alone = run(1)
    assert parallel.x.tolist() == alone.x.tolist()
    assert parallel.fun == alone.fun
    assert parallel.nfev == alone.nfev
    assert manager.stats().succeeded > 0


def test_brute_force_finds_what_it_finds_alone(manager):
    parallel = optimize.brute(rosenbrock, BOUNDS, Ns=8, finish=None, workers=manager.map)
    assert parallel.tolist() == optimize.brute(rosenbrock, BOUNDS, Ns=8, finish=None).tolist()


def refuse(point) -> float:
    raise LookupError("refused")


def test_an_objective_that_raises_is_told(manager):
    with pytest.raises(LookupError, match="refused"):
        optimize.brute(refuse, BOUNDS, Ns=3, finish=None, workers=manager.map)
