"""Engines run a manager's attempts on other machines: `Manager(engine=DaskEngine("tls://scheduler:8786"))`.

    port        what a manager asks of an engine, and what that reports
    dask        `DaskEngine`: on the workers of a dask.distributed cluster
    _dask_connection  the manager's end of it; _dask_node, _dask_scheduler: what runs in workers and scheduler
    _bundles    which requests go together; _resources, _dask_shares: what tasks need, and shared values
    _answers    what nodes answer to questions; _dask_security: TLS
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
