"""TLS in front of a server that has none: the Valkey and the Postgres that come as wheels are built without."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # how a client of Postgres asks for TLS on an open connection


@contextmanager
def tls_before(connect: Callable[[], socket.socket], context: ssl.SSLContext, postgres: bool = False) -> Iterator[int]:
    """A port of this machine that speaks TLS alone, and hands what comes in to the server that `connect` reaches.

    What does not end in a handshake is hung up on. `postgres`: the client asks in clear text whether there is TLS.
    """

    def answer(client: socket.socket) -> None:
        with suppress(OSError), client:
            if postgres:
                assert client.recv(len(SSL_REQUEST), socket.MSG_WAITALL) == SSL_REQUEST, (
                    "the client did not ask for TLS"
                )
                client.sendall(b"S")
            with context.wrap_socket(client, server_side=True) as secure, connect() as server:
                threading.Thread(target=_pass_on, args=(server, secure), daemon=True).start()
                _pass_on(secure, server)

    def listen() -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=listen, daemon=True).start()
        yield listener.getsockname()[1]
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _pass_on(source: socket.socket, to: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(65_536):
            to.sendall(chunk)
    with suppress(OSError):
        to.shutdown(socket.SHUT_RDWR)
