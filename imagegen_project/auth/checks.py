"""`manage.py check --deploy`: what an operator should know before strangers find the server."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register  # noqa: A004 - Django's name


@register(Tags.security, deploy=True)
def hub_allow_lists(**_kwargs: Any) -> list[CheckMessage]:
    """W001: every Hugging Face account on earth is admitted."""
    if settings.HUB_ALLOWED_USERS or settings.HUB_ALLOWED_ORGS:
        return []
    return [
        Warning(
            "Any Hugging Face account may use this server and its GPU.",
            hint="Set HUB_ALLOWED_USERS or HUB_ALLOWED_ORGS to those who may.",
            id="imagegen.W001",
        )
    ]
