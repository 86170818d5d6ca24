"""What a request says about the job itself: its priority, webhooks, and a client that hangs up."""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from rest_framework import serializers

from generation.choices import WebhookEvent
from generation.models import MAX_WEBHOOK_URL_CHARACTERS
from generation.webhooks.signing import webhook_is_gone, webhook_secret
from imagegen_project.common.outgoing import url_problem
from imagegen_project.common.serializers import BoundedListField

DEFAULT_EVENTS = (WebhookEvent.SUCCEEDED, WebhookEvent.FAILED, WebhookEvent.CANCELED)


class WebhookUrlField(serializers.CharField):
    """An address that messages may be posted to."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=MAX_WEBHOOK_URL_CHARACTERS, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        """The address. Raises ValidationError."""
        url: str = super().to_internal_value(data)
        if problem := url_problem(url, allow_private=settings.WEBHOOK_ALLOW_PRIVATE):
            raise serializers.ValidationError(problem, "invalid_webhook_url")
        return url


class WebhookEventsField(BoundedListField):
    """Kinds of events: a list, or in a form text that separates them by commas."""

    def __init__(self, **kwargs: Any) -> None:
        child = serializers.ChoiceField(WebhookEvent.choices)
        super().__init__(child=child, allow_empty=False, max_length=len(WebhookEvent), **kwargs)

    def to_internal_value(self, data: Any) -> list[Any]:
        """The events, each once. Raises ValidationError."""
        if isinstance(data, str):
            data = [name.strip() for name in data.split(",", maxsplit=len(WebhookEvent))]
        return list(dict.fromkeys(super().to_internal_value(data)))


def job_options_check(attrs: dict[str, Any], *, owner: User) -> None:
    """Whether the owner may have what these say; completes the events. Raises ValidationError."""
    errors: dict[str, Any] = {}
    if attrs["priority"] > 0 and not owner.is_staff:
        errors["priority"] = serializers.ErrorDetail("Only staff may go above 0.", "permission_denied")
    url = attrs["webhook_url"]
    if not url and "webhook_events" in attrs:
        errors["webhook_events"] = "Has no effect without webhook_url."
    if url and webhook_secret(owner_id=owner.pk) is None:
        errors["webhook_url"] = serializers.ErrorDetail(
            "Messages are signed: make a signing secret first, POST /api/v1/webhook-secret.",
            "no_webhook_secret",
        )
    elif url and webhook_is_gone(owner_id=owner.pk, url=url):
        errors["webhook_url"] = serializers.ErrorDetail(
            "It answered 410 (Gone) before; a new signing secret enables it again.", "webhook_gone"
        )
    if errors:
        raise serializers.ValidationError(errors)
    attrs.setdefault("webhook_events", list(DEFAULT_EVENTS) if url else [])
