"""A small HTTP server, in threads of its own, from which Prometheus takes the metrics of one run."""

from __future__ import annotations

import logging
import os
import socket
import socketserver
import threading
import weakref
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["MetricsServer"]

_log = logging.getLogger("leyden")

_POLL_S = 0.1
"""How often the server looks whether it is to end: the longest that the end of a run waits for it."""

_CLIENT_TIMEOUT_S = 10.0
"""A client that connects and says nothing holds a thread no longer than this."""


class MetricsServer:
    """Serves a registry of prometheus_client from its construction until `close`.

    Attributes:
        address, port: where it listens; the port is the one chosen where 0 was given.

    Raises:
        OSError: nobody can listen there: the port is taken, or the address is not this machine's.
    """

    def __init__(self, registry: CollectorRegistry, address: str, port: int) -> None:
        from prometheus_client import MetricsHandler

        handler = type("_Handler", (MetricsHandler.factory(registry),), {"timeout": _CLIENT_TIMEOUT_S})
        self._server = _Server(address, port, handler)
        self.address, self.port = address, int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name=f"leyden metrics :{self.port}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Listen no more; the port is free when this returns."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True  # a port that a run gave up can be taken at once by the next
    allow_reuse_port = False  # one that is in use cannot

    def __init__(self, address: str, port: int, handler: type[Any]) -> None:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        found.sort(key=lambda one: one[0] != socket.AF_INET)  # "localhost" is both, and IPv6 may be switched off
        self.address_family, *_, where = found[0]
        super().__init__(where[:2], handler)  # type: ignore[arg-type]  # an address and a port, of whatever family
        _open_servers.add(self)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # without HTTPServer's own, which looks the host's name up by DNS
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("A scrape by %s failed", client_address, exc_info=True)  # such as a client that hung up


_open_servers: weakref.WeakSet[_Server] = weakref.WeakSet()


def _close_in_child() -> None:
    """Let go of the ports in a forked process: a dataloader's worker may live longer than the run."""
    for server in _open_servers:
        server.socket.close()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_close_in_child)
