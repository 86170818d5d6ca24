"""Tokens, Hub accounts and the audit trail in the admin: to see and to revoke; a page is no place to read a secret."""

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from knox.models import AuthToken

from imagegen_project.auth.models import HubAccount, LocalToken
from imagegen_project.common.staff import ReadOnlyAdmin, age, clipped

if admin.site.is_registered(AuthToken):
    admin.site.unregister(
        AuthToken
    )  # knox's own has the digest in its addresses, and a new token in its page


@admin.register(LocalToken)
class LocalTokenAdmin(ReadOnlyAdmin):
    """Local tokens. Deleting one revokes it."""

    list_display = ("title", "user", "begins", "created", "expires", "used")
    list_select_related = ("token__user",)
    search_fields = ("name", "token__user__username", "token__token_key")
    search_help_text = (
        "What it is for, a username, or how the token begins. New ones: manage.py create_token USERNAME"
    )
    fields = ("title", "user", "begins", "created", "expires", "used")

    @admin.display(description="token", ordering="name")
    def title(self, note: LocalToken) -> str:
        """What it is for."""
        return note.name or "without a name"

    @admin.display(description="user", ordering="token__user__username")
    def user(self, note: LocalToken) -> str:
        """Whose it is."""
        return str(note.token.user)

    @admin.display(description="begins with")
    def begins(self, note: LocalToken) -> str:
        """Enough to know it again."""
        return str(note.token.token_key)

    @admin.display(description="made", ordering="token__created")
    def created(self, note: LocalToken) -> str:
        """How long ago."""
        return age(note.token.created)

    @admin.display(description="good until", ordering="token__expiry")
    def expires(self, note: LocalToken) -> str:
        """The moment."""
        return f"{note.token.expiry:%Y-%m-%d %H:%M}" if note.token.expiry else "for ever"

    @admin.display(description="last used", ordering="last_used_at")
    def used(self, note: LocalToken) -> str:
        """How long ago."""
        return age(note.last_used_at)

    def delete_model(self, request: HttpRequest, obj: LocalToken) -> None:
        """Revokes it."""
        obj.token.delete()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[LocalToken]) -> None:
        """Revokes them."""
        AuthToken.objects.filter(pk__in=list(queryset.values_list("token_id", flat=True))).delete()


@admin.register(HubAccount)
class HubAccountAdmin(ReadOnlyAdmin):
    """Hugging Face accounts that have been here. To shut one out, deactivate its user."""

    list_display = ("name", "hub_id", "user", "last_seen_at")
    list_select_related = ("user",)
    list_filter = ("last_seen_at",)
    search_fields = ("name", "hub_id", "user__username")
    fields = ("name", "hub_id", "user", "last_seen_at")


@admin.register(LogEntry)
class AuditAdmin(ReadOnlyAdmin):
    """What staff did on these pages: who, what, when and from where."""

    list_display = ("action_time", "user", "what", "about", "kind", "origin")
    list_display_links = ("action_time",)
    list_filter = ("action_flag", "action_time", ("user", admin.RelatedOnlyFieldListFilter))
    list_select_related = ("user", "content_type", "origin")
    search_fields = ("user__username", "object_repr", "object_id", "change_message", "origin__address")
    search_help_text = "A username, a name or id, words of what was done, or an address"
    date_hierarchy = "action_time"
    fields = ("action_time", "user", "what", "about", "kind", "object_id", "origin")

    @admin.display(description="what", ordering="change_message")
    def what(self, entry: LogEntry) -> SafeString | str:
        """In words."""
        verb = {1: "Added", 2: "Changed", 3: "Deleted"}[entry.action_flag]
        return clipped(entry.get_change_message() or verb, 60)

    @admin.display(description="of", ordering="object_repr")
    def about(self, entry: LogEntry) -> SafeString | str:
        """Which row."""
        return clipped(entry.object_repr, 40)

    @admin.display(description="kind")
    def kind(self, entry: LogEntry) -> str:
        """Of what."""
        return str(entry.content_type.name) if entry.content_type else ""

    @admin.display(description="from", ordering="origin__address")
    def origin(self, entry: LogEntry) -> str:
        """The address, where one is known."""
        found = getattr(entry, "origin", None)
        return str(found) if found else "not known"

    def has_delete_permission(self, request: HttpRequest, *args: object) -> bool:
        """A trail is not swept."""
        return False
