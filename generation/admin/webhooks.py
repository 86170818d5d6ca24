"""Webhooks in the admin."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from generation.models import WebhookDelivery, WebhookGone
from generation.webhooks.outbox import delivery_retry
from imagegen_project.common.staff import ReadOnlyAdmin, age, clipped


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(ReadOnlyAdmin):
    """What webhooks were sent, or are still to be, and how each attempt ended."""

    live = True
    verbs = ("try_again",)
    actions = verbs
    list_display = ("event", "address", "owner", "status", "attempts", "last", "made")
    list_filter = ("status", "event", "created_at")
    list_select_related = ("owner",)
    search_fields = ("url", "owner__username", "=generation__id")
    show_full_result_count = False

    @admin.display(description="address", ordering="url")
    def address(self, delivery: WebhookDelivery) -> SafeString | str:
        """Where it goes."""
        return clipped(delivery.url, 48)

    @admin.display(description="last attempt")
    def last(self, delivery: WebhookDelivery) -> str:
        """What came of it."""
        entry: dict[str, Any] = delivery.log[-1] if delivery.log else {}
        return str(entry.get("error") or entry.get("status") or "none")[:60]

    @admin.display(description="made", ordering="created_at")
    def made(self, delivery: WebhookDelivery) -> str:
        """How long ago."""
        return age(delivery.created_at)

    @admin.action(description="Try again now", permissions=["delete"])
    def try_again(self, request: HttpRequest, queryset: QuerySet[WebhookDelivery]) -> None:
        """Sends those that did not arrive."""
        self.tell(request, [one for one in queryset if delivery_retry(delivery=one)], "Tried again now")


@admin.register(WebhookGone)
class WebhookGoneAdmin(ReadOnlyAdmin):
    """Addresses that answered 410. Deleting one lets its owner use it again."""

    list_display = ("url", "owner", "created_at")
    list_select_related = ("owner",)
    search_fields = ("url", "owner__username")
