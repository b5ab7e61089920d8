"""What a connection to a dask cluster is secured by."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from distributed import Security

PEM_FILES = {"ca": "tls_ca_file", "cert": "tls_client_cert", "key": "tls_client_key"}


def security_of(security: Mapping[str, str | os.PathLike[str]] | str | os.PathLike[str] | None) -> Security | None:
    """Return dask's form of `security`. Raises: `ValueError`, `FileNotFoundError`."""
    if security is None:
        return None
    if not isinstance(security, Mapping):
        security = {name: os.path.join(security, f"{name}.pem") for name in PEM_FILES}
    if set(security) != set(PEM_FILES):
        raise ValueError(f"security takes the paths of {', '.join(PEM_FILES)}, not {', '.join(map(str, security))}")
    paths = {name: os.fspath(path) for name, path in security.items()}
    for path in paths.values():
        if not os.path.isfile(path):
            raise FileNotFoundError(f"security: there is no file {path}")
    return Security(require_encryption=True, **{PEM_FILES[name]: path for name, path in paths.items()})


def is_safe(address: str) -> bool:
    """Whether a connection is encrypted, or stays on this machine."""
    parts = urlsplit(address)
    if parts.scheme in ("tls", "wss", "inproc"):
        return True
    host = parts.hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
