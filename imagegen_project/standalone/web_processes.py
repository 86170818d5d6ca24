"""Several web processes on one port: they share its socket, and who is free takes the next connection."""

import signal
import socket
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory

from imagegen_project import env
from imagegen_project.standalone.service import port_listen, web_command_shared, web_environment
from imagegen_project.standalone.supervisor import Child, Supervisor


def web_processes_run(*, host: str, port: int, processes: int, report: Callable[[str], object]) -> None:
    """Runs them until a stop is asked for, one that dies being replaced; `report` as for `Supervisor`.

    Raises StandaloneError where the port cannot be had.
    """
    supervisor = Supervisor(report=report)
    with (
        port_listen(host, port) as listener,
        TemporaryDirectory(prefix="imagegen-metrics-") as metrics,
        supervisor.signals(),
    ):
        try:
            for child in _children(listener, processes=processes, metrics=metrics):
                supervisor.start(child)
            supervisor.run()
        finally:
            # Whoever comes from now on is refused, instead of waiting for processes that take nobody any more.
            listener.close()
            supervisor.stop_all()


def _children(listener: socket.socket, *, processes: int, metrics: str) -> Iterator[Child]:
    for number in range(1, processes + 1):
        yield Child(
            name=f"web-{number}",
            command=web_command_shared(ipv6=listener.family == socket.AF_INET6),
            stdin=listener.fileno(),
            orphan_signal=signal.SIGTERM,
            grace_s=env.WEB_GRACE_S + 5.0,
            popen_options={"env": web_environment(PROMETHEUS_MULTIPROC_DIR=metrics)},
        )
