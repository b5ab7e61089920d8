"""What tasks need, as resources of dask: dask places a task only where its node has so much of each.

How many run at once on a node, and which slots they get, its supervisor decides as on a single machine.
"""

from __future__ import annotations

from collections.abc import Mapping

from procbackground._wire import attempts as w

CORES = "procbackground-cores"  # declared by each node itself
MEMORY = "procbackground-memory"
MOST_SLOTS = 4096  # of one name; more is no count of devices, but some quantity, which has no numbers


def resources_of(request: w.Request) -> dict[str, float]:
    """Return what dask has to find for a request; nothing for most."""
    if request.needs is None:
        return {}
    cores, memory, slots = request.needs
    found: dict[str, float] = {name: float(count) for name, count in slots}
    if cores > 1:
        found[CORES] = float(cores)
    if memory:
        found[MEMORY] = float(memory)
    return found


def slots_of(resources: Mapping[str, float]) -> dict[str, int]:
    """Return the resources of a node that its supervisor can number: those that are whole, and not too many."""
    return {
        name: int(quantity)
        for name, quantity in resources.items()
        if name not in (CORES, MEMORY) and quantity == int(quantity) and 0 < quantity <= MOST_SLOTS
    }
