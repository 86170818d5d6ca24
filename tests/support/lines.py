"""A line to a service that can be cut: nothing comes through then, and nobody is told."""

import socket
import threading
from contextlib import suppress
from typing import Self

PIECE = 64 * 1024


class Line:
    """A port of loopback that leads to another one; as a context it is taken down at the end."""

    def __init__(self, port: int) -> None:
        self._far_port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._is_cut = False
        self._lock = threading.Lock()
        self._ends: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From here on no byte arrives, on old connections and on new ones."""
        with self._lock:
            self._is_cut = True

    def mend(self) -> None:
        """New connections come through; the old ones break, as after a change of networks."""
        with self._lock:
            self._is_cut = False
        self._break()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # else the thread would go on waiting
        self._server.close()
        self._break()

    def _break(self) -> None:
        with self._lock:
            ends, self._ends = self._ends, set()
        for end in ends:
            with suppress(OSError):  # the other side was faster
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):  # taken down
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._far_port))
                with self._lock:
                    self._ends |= {near, far}
                threading.Thread(target=self._join, args=(near, far), daemon=True).start()

    def _join(self, near: socket.socket, far: socket.socket) -> None:
        with near, far:
            back = threading.Thread(target=self._carry, args=(far, near), daemon=True)
            back.start()
            self._carry(near, far)
            back.join()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(PIECE):
                if not self._is_cut:
                    other.sendall(data)
            if not self._is_cut:
                other.shutdown(socket.SHUT_WR)
