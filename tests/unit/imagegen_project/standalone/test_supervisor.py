"""The supervisor, with children that do next to nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from imagegen_project.standalone import supervisor as module
from imagegen_project.standalone.supervisor import (
    Child,
    Gate,
    StopRequestedError,
    Supervisor,
    last_line,
    log_rotate,
)

SAFETY_S = 30.0


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def supervisor(reports: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.01)
    running = Supervisor(report=reports.append)
    yield running
    running.stop_all()


def shell(tmp_path: Path, name: str, script: str, **options: object) -> Child:
    return Child(name=name, command=["sh", "-c", script], log_file=tmp_path / f"{name}.log", **options)


def wait_for(condition: Callable[[], object], supervisor: Supervisor | None = None) -> None:
    deadline = time.monotonic() + SAFETY_S
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        if supervisor is None:
            time.sleep(0.02)
        else:
            supervisor.pause(0.02)


def test_dead_child_is_started_again(
    supervisor: Supervisor, tmp_path: Path, reports: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A child that fails once and then stays is restarted: the log says so at once, and nobody else is told."""
    script = "test -e born && { echo again; exec sleep 100; }; touch born; echo no card; exit 3"
    supervisor.start(shell(tmp_path, "one", script, popen_options={"cwd": tmp_path}))
    wait_for(lambda: "again" in (tmp_path / "one.log").read_text(), supervisor)
    assert supervisor.is_running("one")
    assert reports == []
    ended, started = caplog.records
    assert (ended.message, ended.child, ended.ended_by) == ("process ended", "one", "exit status 3")
    assert ended.last_lines == ["no card"]
    assert (started.message, started.child) == ("process started again", "one")


def test_children_wait_until_the_gate_opens_and_later_ones_do_not(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    """Nor does one that is started again."""
    gate = Gate()
    script = "echo loaded; cat; echo begun; test -e born && exec sleep 100; touch born; exit 3"
    supervisor.start(shell(tmp_path, "one", script, stdin=gate.closed, popen_options={"cwd": tmp_path}))
    log = tmp_path / "one.log"
    wait_for(lambda: log.read_text() == "loaded\n", supervisor)
    process = psutil.Process(supervisor._all[0].process.pid)
    wait_for(lambda: [child.name() for child in process.children()] == ["cat"], supervisor)
    gate.open()
    wait_for(lambda: log.read_text() == "loaded\nbegun\n" * 2, supervisor)
    assert supervisor.is_running("one")


def test_a_killed_childs_end_names_the_signal(
    supervisor: Supervisor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As the kernel does when memory is short: the child itself has no last words."""
    script = "test -e born && exec sleep 100; touch born; kill -KILL $$"
    supervisor.start(shell(tmp_path, "one", script, popen_options={"cwd": tmp_path}))
    wait_for(lambda: len(caplog.records) == 2, supervisor)
    assert (caplog.records[0].ended_by, caplog.records[0].last_lines) == ("signal SIGKILL", [])


def test_a_log_is_set_aside_while_its_child_goes_on_writing(tmp_path: Path, reports: list[str]) -> None:
    """Several times, the oldest going; the disk does not fill, and every line is in one of the files."""
    supervisor = Supervisor(report=reports.append, log_max_bytes=100, log_keep=2)
    script = "for n in 1 2 3; do while test ! -e $n; do sleep 0.01; done; printf '%0120d\\n' $n; done; exec sleep 100"
    supervisor.start(shell(tmp_path, "one", script, popen_options={"cwd": tmp_path}))
    log, copy, older = (tmp_path / name for name in ("one.log", "one.log.1", "one.log.2"))

    def is_aside(number: str) -> bool:
        return copy.exists() and copy.read_text().strip("0\n") == number and log.stat().st_size == 0

    try:
        for number in ("1", "2", "3"):
            (tmp_path / number).touch()
            wait_for(partial(is_aside, number), supervisor)
    finally:
        supervisor.stop_all()
    assert older.read_text().strip("0\n") == "2"
    assert sorted(tmp_path.glob("one.log*")) == [log, copy, older]


def test_a_log_that_cannot_be_kept_is_cut_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is in the way of the copy: what writes the log must not fill the disk."""
    log = tmp_path / "one.log"
    log.write_text("long")
    (tmp_path / "one.log.1").mkdir()
    (tmp_path / "one.log.2").write_text("older")
    assert log_rotate(log, max_bytes=2, keep=2)
    assert log.read_text() == ""
    assert "log not set aside" in caplog.messages


def test_child_that_keeps_dying_is_reported_once_with_its_last_words(
    supervisor: Supervisor, tmp_path: Path, reports: list[str]
) -> None:
    supervisor.start(shell(tmp_path, "one", "echo first; echo no such database >&2; exit 7"))
    wait_for(lambda: (tmp_path / "one.log").read_text().count("first") >= 5, supervisor)
    (report,) = reports
    assert "one keeps ending (exit status 7): no such database" in report


def test_pauses_between_quick_deaths_grow(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.2)
    supervisor.start(shell(tmp_path, "one", "date +%s%N; exit 1"))
    log = tmp_path / "one.log"
    wait_for(lambda: len(log.read_text().split()) >= 4, supervisor)
    times = [int(line) for line in log.read_text().split()]
    assert times[3] - times[2] > times[1] - times[0]


def test_later_stages_stop_first(supervisor: Supervisor, tmp_path: Path) -> None:
    """Servers (stage 0) outlive the services that need them."""
    order = tmp_path / "order"

    def child(name: str, stage: int) -> Child:
        script = (
            f"trap 'sleep 0.1; echo {name} >> {order}; exit' TERM; touch {name}; while :; do sleep 0.01; done"
        )
        return shell(tmp_path, name, script, stage=stage, popen_options={"cwd": tmp_path})

    for name, stage in (("database", 0), ("web", 1), ("worker", 1)):
        supervisor.start(child(name, stage))
        wait_for((tmp_path / name).exists)
    supervisor.stop_all()
    stopped = order.read_text().split()
    assert set(stopped[:2]) == {"web", "worker"}
    assert stopped[2:] == ["database"]


def test_deaf_child_is_killed_after_its_grace(supervisor: Supervisor, tmp_path: Path) -> None:
    """Force also reaches what the child started."""
    script = "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > grandchild; sleep 100' & touch ready; wait"
    supervisor.start(shell(tmp_path, "deaf", script, grace_s=0.2, popen_options={"cwd": tmp_path}))
    grandchild = tmp_path / "grandchild"
    wait_for(lambda: grandchild.exists() and grandchild.read_text().strip())
    supervisor.stop_all()
    wait_for(lambda: not psutil.pid_exists(int(grandchild.read_text())))


def test_signals_ask_for_a_stop_and_a_later_one_hurries(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SAME_REQUEST_S", 0.0)
    before = signal.getsignal(signal.SIGTERM)
    script = "trap '' TERM; touch ready; while :; do sleep 0.01; done"
    with supervisor.signals():
        supervisor.start(shell(tmp_path, "deaf", script, grace_s=1000, popen_options={"cwd": tmp_path}))
        wait_for((tmp_path / "ready").exists)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopRequestedError):
            supervisor.pause(SAFETY_S)
        os.kill(os.getpid(), signal.SIGINT)
        supervisor.stop_all()
    assert not supervisor.is_running("deaf")
    assert signal.getsignal(signal.SIGTERM) is before


def test_children_have_sessions_of_their_own(supervisor: Supervisor, tmp_path: Path) -> None:
    """So that Ctrl-C in a terminal reaches only the supervisor."""
    supervisor.start(shell(tmp_path, "one", "echo $$; exec sleep 100"))
    log = tmp_path / "one.log"
    wait_for(lambda: log.read_text().strip())
    pid = int(log.read_text())
    assert os.getsid(pid) == pid != os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends orphans")
def test_no_orphan_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    script = f"""
from pathlib import Path
from imagegen_project.standalone.supervisor import Child, Supervisor
running = Supervisor(report=print)
running.start(Child(name="one", command=["sh", "-c", "echo $$; exec sleep 100"], log_file=Path({str(log)!r})))
running.run()
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[4]) as process:
        wait_for(lambda: log.exists() and log.read_text().strip())
        process.kill()
    wait_for(lambda: not psutil.pid_exists(int(log.read_text())))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("first\nlast\n\n", "last"),
        ('{"message": "broken", "exc_info": "Traceback\\nValueError: no"}\n', "broken ValueError: no"),
        ('{"message": "plain"}\n', "plain"),
        ("[1]\n", "[1]"),
    ],
)
def test_last_line(tmp_path: Path, text: str, expected: str) -> None:
    log = tmp_path / "a.log"
    log.write_text(text)
    assert last_line(log) == expected


def test_last_line_is_of_the_last_start(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("old\n")
    assert last_line(log, offset=log.stat().st_size) == ""
    assert last_line(tmp_path / "missing.log") == ""
