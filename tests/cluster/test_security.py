"""Mutual TLS, and the warning without it."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from procbackground import EngineLostError, Manager
from procbackground.engines import DaskEngine
from tests.cluster.nodes import Cluster
from tests.support.gate import PATIENCE_S


def make_authority(folder: Path) -> Path:
    """Write ca.pem, cert.pem and key.pem: a certificate of an authority that is made for it alone."""
    x509 = pytest.importorskip("cryptography.x509", reason="needs cryptography, to make certificates")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder.mkdir()
    now = datetime.datetime.now(datetime.UTC)

    def certificate(name: str, key: Any, issuer: str, issuer_key: Any, is_authority: bool) -> Any:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_authority, None), True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        )
        return builder.sign(issuer_key, hashes.SHA256())

    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = certificate("authority", authority_key, "authority", authority_key, True)
    own = certificate("node", key, "authority", authority_key, False)
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(authority.public_bytes(pem))
    (folder / "cert.pem").write_bytes(own.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


def test_only_who_has_a_certificate_of_the_authority_gets_in(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    ours, others = make_authority(tmp_path / "ours"), make_authority(tmp_path / "others")
    options = ("--tls-ca-file", ours / "ca.pem", "--tls-cert", ours / "cert.pem", "--tls-key", ours / "key.pem")
    cluster = make_cluster(1, protocol="tls", options=tuple(map(str, options)))
    assert cluster.address.startswith("tls://")
    with Manager(engine=DaskEngine(cluster.address, ours)) as manager:
        assert manager.run(pow, 2, 5).result(PATIENCE_S) == 32
    files = {name: ours / f"{name}.pem" for name in ("ca", "cert", "key")}
    with Manager(engine=DaskEngine(cluster.address, files)) as manager:
        assert manager.run(pow, 2, 6).result(PATIENCE_S) == 64
    for address, security in ((cluster.address, others), (cluster.address.replace("tls", "tcp"), None)):
        stranger = Manager(engine=DaskEngine(address, security, connect_timeout=3))
        with stranger, pytest.raises(EngineLostError, match="cannot be used"):
            stranger.run(pow, 2, 2)


@pytest.mark.parametrize("address", ["tcp://10.1.2.3:8786", "scheduler:8786", "ws://node.example:80"])
def test_plain_connection_beyond_this_machine_is_warned_of(address: str) -> None:
    with pytest.warns(RuntimeWarning, match="neither encrypted nor authenticated"):
        DaskEngine(address)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "localhost:8786", "tcp://[::1]:8786", "tls://10.1.2.3:1"])
def test_other_connections_are_not(address: str) -> None:
    DaskEngine(address)


def test_files_that_are_not_there_are_an_error_now(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ca\.pem"):
        DaskEngine("tls://127.0.0.1:1", tmp_path)
    with pytest.raises(ValueError, match="ca, cert, key"):
        DaskEngine("tls://127.0.0.1:1", {"ca": tmp_path})


def test_engine_serves_one_manager(shared_cluster: Cluster) -> None:
    engine = DaskEngine(shared_cluster.address)
    with Manager(engine=engine) as manager:
        assert manager.run(pow, 2, 2).result(PATIENCE_S) == 4
    with Manager(engine=engine) as manager, pytest.raises(EngineLostError, match="make another engine"):
        manager.run(pow, 2, 2)
