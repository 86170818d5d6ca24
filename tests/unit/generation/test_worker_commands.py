"""How workers start."""

import pytest
from django.core.management import load_command_class


@pytest.mark.parametrize("name", ["gpu_worker", "task_worker", "webhook_worker"])
def test_workers_start_without_the_checks_of_pages(name: str) -> None:
    """These import every view, which would take as long as the rest of such a start."""
    assert load_command_class("generation", name).requires_system_checks == []
