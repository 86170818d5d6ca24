"""The app of accounts: Hub accounts, local tokens and socket tickets."""

from django.apps import AppConfig


class AuthConfig(AppConfig):
    """Registers the checks, and listens."""

    name = "imagegen_project.auth"
    label = "accounts"  # `auth` is Django's own
    verbose_name = "Access"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Imports what registers itself."""
        from imagegen_project.auth import (  # noqa: PLC0415 - they need loaded apps
            checks,  # noqa: F401
            receivers,  # noqa: F401
        )
