"""The running service, for the clients of other services."""

from tests.integration.conftest import live

__all__ = ["live"]
