"""Engines run a manager's attempts on other machines: `Manager(engine=DaskEngine("tls://scheduler:8786"))`.

The modules:

    port              what a manager asks of an engine, and what that reports
    dask              `DaskEngine`: on the workers of a dask.distributed cluster
    _dask_connection  the connection of one manager to the cluster
    _dask_security    what secures it
    _dask_scheduler   what of it runs in the scheduler
    _dask_node        what of it runs in the workers
    _dask_shares      shared values on the cluster
    _bundles          short requests go together
    _resources        needs of tasks, as resources of dask
    _answers          answers of nodes to questions of a manager
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from procbackground.engines.dask import DaskEngine
    from procbackground.engines.port import Engine

__all__ = ["DaskEngine", "Engine"]

_HOMES = {"DaskEngine": "dask", "Engine": "port"}  # loaded on first use: nodes and children need neither


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from procbackground._load import load

    return getattr(load(f"{__name__}.{home}"), name)
