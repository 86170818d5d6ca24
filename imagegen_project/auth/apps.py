"""The app of accounts: Hub accounts, local tokens and socket tickets."""

from django.apps import AppConfig


class AuthConfig(AppConfig):
    """Registers the checks and the OpenAPI description of the authenticator."""

    name = "imagegen_project.auth"
    label = "accounts"  # `auth` is Django's own
    verbose_name = "Accounts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Imports what registers itself."""
        from imagegen_project.auth import checks, schema  # noqa: F401, PLC0415 - they need loaded apps
