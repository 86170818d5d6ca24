"""Users in the admin: what each has used, what is left, and whose tokens there are."""

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from generation.models import Generation
from generation.queue.limits import limits_left
from generation.services import owner_delete
from imagegen_project.auth.services import tokens_of
from imagegen_project.common.staff import StaffAdmin, age, bar


class PersonAdmin(StaffAdmin, UserAdmin):  # type: ignore[type-arg]  # both are admins of users
    """Users."""

    change_form_template = None  # type: ignore[assignment]  # Django's, which has the way to a new password
    list_display = ("username", "is_active", "is_staff", "jobs", "hub_name", "last_login")
    list_select_related = ("hub_account",)
    fieldsets = (
        (None, {"fields": ("username", "password", "is_active")}),
        ("What is used and left", {"fields": ("usage", "work", "storage", "waiting", "tokens")}),
        ("Rights", {"fields": ("is_staff", "is_superuser", "groups", "user_permissions")}),
        ("Person", {"classes": ("collapse",), "fields": ("first_name", "last_name", "email")}),
        ("Times", {"fields": ("last_login", "date_joined")}),
    )
    readonly_fields = ("usage", "work", "storage", "waiting", "tokens", "last_login", "date_joined")

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        """With the number of generations."""
        counted = (
            Generation.objects.filter(owner=OuterRef("pk")).order_by().values("owner").annotate(n=Count("pk"))
        )
        rows: QuerySet[User] = super().get_queryset(request)
        return rows.annotate(jobs=Subquery(counted.values("n")))

    @admin.display(description="generations", ordering="jobs")
    def jobs(self, user: User) -> SafeString:
        """How many there are, as a link to them."""
        address = reverse("admin:generation_generation_changelist")
        return format_html('<a href="{}?owner__id__exact={}">{}</a>', address, user.pk, user.jobs or 0)  # type: ignore[attr-defined]

    @admin.display(description="Hub account")
    def hub_name(self, user: User) -> str:
        """Its name there."""
        account = getattr(user, "hub_account", None)
        return account.name if account else "none"

    @admin.display(description="generations")
    def usage(self, user: User) -> SafeString:
        """As in the list."""
        return self.jobs(user)

    @admin.display(description="work asked for")
    def work(self, user: User) -> SafeString | str:
        """Within the window."""
        hours = settings.WORK_WINDOW_S / 3600
        return _left(
            limits_left(user)["work"], lambda number: f"{number:,.0f}", f"megapixel-steps in {hours:g} h"
        )

    @admin.display(description="storage")
    def storage(self, user: User) -> SafeString | str:
        """Of pictures."""
        return _left(limits_left(user)["storage"], filesizeformat, "")

    @admin.display(description="waiting")
    def waiting(self, user: User) -> SafeString | str:
        """Generations."""
        return _left(limits_left(user)["queued"], lambda number: f"{number:.0f}", "generations")

    @admin.display(description="tokens")
    def tokens(self, user: User) -> SafeString | str:
        """What each is for and when it was used last; each leads to where it can be revoked."""
        rows = [
            (
                reverse("admin:accounts_localtoken_change", args=[note.pk]),
                note.name or "without a name",
                age(note.last_used_at),
            )
            for note in tokens_of(user)
        ]
        listed = format_html_join("", '<li><a href="{}">{}</a>, used {}</li>', rows)
        return format_html("<ul>{}</ul>", listed) if rows else "none"

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        """With all that is the user's."""
        owner_delete(owner=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        """One after the other."""
        for user in queryset:
            owner_delete(owner=user)


def _left(left: dict[str, Any], words: Any, unit: str) -> SafeString | str:
    if left["limit"] is None:
        return f"{words(left['used'])} {unit}, without a limit".replace("  ", " ")
    return bar(left["used"], left["limit"], f"{words(left['used'])} of {words(left['limit'])} {unit}".strip())


admin.site.unregister(User)
admin.site.register(User, PersonAdmin)
