"""Tokens and Hub accounts in the admin: to see and to revoke; tokens are made by `manage.py create_token`."""

from django.contrib import admin
from django.http import HttpRequest
from knox.models import AuthToken

from imagegen_project.auth.models import HubAccount

if admin.site.is_registered(AuthToken):
    admin.site.unregister(AuthToken)  # knox's own shows digests, and a new token in the page


@admin.register(AuthToken)
class AuthTokenAdmin(admin.ModelAdmin[AuthToken]):
    """Local tokens. Deleting one revokes it; only its expiry can be changed."""

    list_display = ("user", "token_key", "created", "expiry")
    list_display_links = ("token_key",)
    list_select_related = ("user",)
    list_filter = ("created", "expiry")
    search_fields = ("user__username", "token_key")
    search_help_text = "A username, or how the token begins. New tokens: manage.py create_token USERNAME"
    ordering = ("-created",)
    fields = ("user", "token_key", "created", "expiry")
    readonly_fields = ("user", "token_key", "created")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never: a page is no place to read a secret."""
        return False


@admin.register(HubAccount)
class HubAccountAdmin(admin.ModelAdmin[HubAccount]):
    """Hugging Face accounts that have been here. To shut one out, deactivate its user."""

    list_display = ("name", "hub_id", "user", "last_seen_at")
    list_select_related = ("user",)
    list_filter = ("last_seen_at",)
    search_fields = ("name", "hub_id", "user__username")
    fields = ("name", "hub_id", "user", "last_seen_at")
    readonly_fields = ("name", "hub_id", "user", "last_seen_at")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never: accounts come by using the service."""
        return False
