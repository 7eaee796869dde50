"""A port on which ranks can meet."""

from __future__ import annotations

import contextlib
import random
import socket


def free_port() -> int:
    """Return a port below those that the system gives to connections by itself."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
