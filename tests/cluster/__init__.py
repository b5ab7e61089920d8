"""Managers with an engine: nodes are started by dask's own command line, in processes of their own on loopback."""
