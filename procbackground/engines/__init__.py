"""Engines run a manager's attempts on other machines: `Manager(engine=DaskEngine("tls://scheduler:8786"))`.

    port        what a manager asks of an engine, and what that reports
    dask        `DaskEngine`: on the workers of a dask.distributed cluster
    _dask_node  what of it runs in those workers
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
