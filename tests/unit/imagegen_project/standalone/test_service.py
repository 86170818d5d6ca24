"""What a service says at its start."""

import pytest

from imagegen_project import env
from imagegen_project.standalone.service import ready_lines


def test_ready_is_not_all_where_workers_compile_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page answers then, and for minutes nothing is drawn."""
    assert ready_lines(6.12) == ["Ready after 6.1 s."]
    monkeypatch.setattr(env, "COMPILE_MODELS", True)
    [ready, more] = ready_lines(6.12)
    assert ready == "Ready after 6.1 s."
    assert "minutes" in more
