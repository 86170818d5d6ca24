"""What the web processes of one port counted, whichever of them is asked; those that have died included."""

import os
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector


class SharedPortCollector(Collector):
    """Sums of what each process keeps in a folder, and what they take of the machine together.

    `process_*` have the names that one process has; its garbage collection (`python_gc_*`) is left out.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Reads everything anew."""
        parent = psutil.Process(os.getppid())
        living = {process.pid: process for process in parent.children()}
        self._forget_dead(living.keys())
        yield from MultiProcessCollector(None, str(self._folder)).collect()  # type: ignore[no-untyped-call]  # its own
        yield from _taken(parent, living.values())

    def _forget_dead(self, living: Container[int]) -> None:
        """What was open in a process ended with it; what it counted stays."""
        for file in self._folder.glob("gauge_live*.db"):
            pid = int(file.stem.rpartition("_")[2])
            if pid not in living:
                with suppress(FileNotFoundError):  # another process is doing the same
                    mark_process_dead(pid, str(self._folder))  # type: ignore[no-untyped-call]  # its own


def _taken(parent: psutil.Process, living: Iterable[psutil.Process]) -> Iterator[Metric]:
    """Memory, open files and processor time; of this the dead ones' stays, as a counter's must."""
    resident = opened = number = 0
    waited_for = parent.cpu_times()
    worked = waited_for.children_user + waited_for.children_system
    for process in living:
        with suppress(psutil.Error), process.oneshot():  # it ends just now
            times = process.cpu_times()
            resident += process.memory_info().rss
            opened += process.num_fds()
            worked += times.user + times.system
            number += 1
    yield GaugeMetricFamily("imagegen_web_processes", "Web processes that share the port.", value=number)
    yield GaugeMetricFamily("process_resident_memory_bytes", "Of all of them.", value=resident)
    yield GaugeMetricFamily("process_open_fds", "Of all of them.", value=opened)
    yield GaugeMetricFamily(
        "process_start_time_seconds", "When the first of them was started.", value=parent.create_time()
    )
    yield CounterMetricFamily(
        "process_cpu_seconds", "Of all of them, those that died included.", value=worked
    )
