"""Messages to systemd: readiness, the watchdog, the end. Without NOTIFY_SOCKET they go nowhere."""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> bool:
    """Send lines such as `READY=1` to the service manager; return whether there is one that takes them."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as unix:
            unix.sendto("\n".join(lines).encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
    except OSError:
        return False  # it must not harm the service
    return True


def watchdog_s() -> float | None:
    """Return within how many seconds the service manager wants a sign of life, or None if it wants none."""
    try:
        if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return None
        seconds = int(os.environ["WATCHDOG_USEC"]) / 1e6
    except (KeyError, ValueError):
        return None
    return seconds if seconds > 0 else None
