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


@register(Tags.security, deploy=True)
def any_host(**_kwargs: Any) -> list[CheckMessage]:
    """W002: a foreign name that resolves to this server is served like its own."""
    if "*" not in settings.ALLOWED_HOSTS:
        return []
    return [
        Warning(
            "Every host name is answered.",
            hint="List the names of this server in ALLOWED_HOSTS.",
            id="imagegen.W002",
        )
    ]


@register(Tags.security, deploy=True)
def unnamed_proxy(**_kwargs: Any) -> list[CheckMessage]:
    """W003: behind a proxy that is not counted, all clients have one address, and share its limits."""
    if settings.TRUSTED_PROXIES or not getattr(settings, "SECURE_PROXY_SSL_HEADER", None):
        return []
    return [
        Warning(
            "A proxy is in front (BEHIND_TLS), but TRUSTED_PROXIES is 0: limits by address count all clients as one.",
            hint="Set TRUSTED_PROXIES to the number of proxies that add to X-Forwarded-For.",
            id="imagegen.W003",
        )
    ]


@register(Tags.security, deploy=True)
def open_networks(**_kwargs: Any) -> list[CheckMessage]:
    """W004: whoever reaches a port of these networks draws without being asked who they are."""
    if not settings.A1111_OPEN_NETWORKS:
        return []
    networks = ", ".join(map(str, settings.A1111_OPEN_NETWORKS))
    return [
        Warning(
            f"A1111's API below /sdapi needs no credentials from {networks}.",
            hint="Leave A1111_OPEN_NETWORKS empty, and give A1111's clients a token as their password.",
            id="imagegen.W004",
        )
    ]
