"""What the admin's pages share: verbs on a row's own page, deletes that count instead of loading, bars and ages."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import DELETION, LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.core.exceptions import PermissionDenied
from django.db.models import CASCADE, PROTECT, Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.safestring import SafeString

from imagegen_project.common.http import user_of

NAMED_ON_DELETE: Final = 20


class StaffAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # serves several models
    """Rows that staff look after. `verbs` are the actions that a row's own page offers as buttons.

    `live`: the list fetches itself anew every few seconds, as does the page of a row.
    """

    verbs: tuple[str, ...] = ()
    live = False
    change_form_template = "admin/staff_change_form.html"
    change_list_template = "admin/staff_change_list.html"

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **options: Any
    ) -> Any:
        """The page of a row, with its verbs."""
        offered = self.get_actions(request)
        verbs = [(name, offered[name][2]) for name in self.verbs if name in offered]
        context |= {"verbs": verbs, "live": self.live and not context.get("add")}
        return super().render_change_form(request, context, *args, **options)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """The list."""
        return super().changelist_view(request, {"live": self.live} | (extra_context or {}))

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *where: Any
    ) -> HttpResponse | None:
        """Back to where the verb's button was."""
        answer: HttpResponse | None = super().response_action(request, queryset, *where)
        back = request.POST.get("back", "")
        if isinstance(answer, HttpResponseRedirect) and url_has_allowed_host_and_scheme(
            back, allowed_hosts={request.get_host()}
        ):
            return HttpResponseRedirect(back)
        return answer

    def rows_that_stay(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """Those among the rows that nobody may delete."""
        return rows.none()

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, Any, Any]:
        """What a delete takes along at once, counted by the database: nothing of it is loaded.

        The names of some rows, numbers by kind, what the user may not delete, and what is in the way.
        """
        keys = objs.values("pk") if isinstance(objs, QuerySet) else [one.pk for one in objs]
        rows = self.model._base_manager.filter(pk__in=keys)  # noqa: SLF001 - Django's name for it
        total = rows.count()
        numbers = {str(self.opts.verbose_name_plural): total}
        may = self.has_delete_permission(request) and not self.rows_that_stay(rows).exists()
        denied = set() if may else {str(self.opts.verbose_name)}
        in_the_way = []
        for relation in self.opts.related_objects:
            if relation.on_delete not in (CASCADE, PROTECT):
                continue
            other = relation.related_model
            others = other._base_manager  # noqa: SLF001 - as above
            found = others.filter(**{f"{relation.field.name}__in": keys}).count()
            name = str(other._meta.verbose_name_plural)  # noqa: SLF001 - Django's name for it
            if found and relation.on_delete is PROTECT:
                in_the_way.append(f"{found} {name}")
            elif found:
                numbers[name] = numbers.get(name, 0) + found
                if not self._may_take_along(request, other):
                    denied.add(name)
        named = [str(one) for one in rows[:NAMED_ON_DELETE]]
        if total > NAMED_ON_DELETE:
            named.append(f"and {total - NAMED_ON_DELETE} more")
        return named, numbers, denied, in_the_way

    def _may_take_along(self, request: HttpRequest, model: type[Model]) -> bool:
        """Whether the user may delete rows of another kind with ours, by their own pages' rules if they have some."""
        site = self.admin_site
        return not site.is_registered(model) or site.get_model_admin(model).has_delete_permission(request)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Django's, with a delete that does not load the rows."""
        offered: dict[str, Any] = super().get_actions(request)
        if "delete_selected" in offered:
            offered["delete_selected"] = self.get_action("delete_selected")
        return offered

    @admin.action(description="Delete", permissions=["delete"])
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        """Asks first, with numbers; then deletes, and says how many."""
        named, numbers, denied, in_the_way = self.get_deleted_objects(queryset, request)
        if request.POST.get("post") and denied:
            raise PermissionDenied
        if request.POST.get("post") and not in_the_way:
            total = queryset.count()
            self.log_deletions(request, queryset)
            self.delete_queryset(request, queryset)
            self.message_user(request, f"Deleted: {total - queryset.count()} of {total}.", messages.SUCCESS)
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": "Delete?",
            "opts": self.opts,
            "named": named,
            "numbers": numbers.items(),
            "in_the_way": in_the_way,
            "denied": denied,
            "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "across": request.POST.get("select_across", "0"),
        }
        return TemplateResponse(request, "admin/staff_delete.html", context)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        """In the audit trail: each row by its name, or where they are many one line for all."""
        total = queryset.count() if isinstance(queryset, QuerySet) else len(queryset)
        if total <= NAMED_ON_DELETE:
            return [super(StaffAdmin, self).log_deletions(request, self._only(row)) for row in queryset]
        return LogEntry.objects.create(
            user=user_of(request),
            content_type=get_content_type_for_model(self.model),
            object_repr=f"{total} {self.opts.verbose_name_plural}",
            action_flag=DELETION,
        )

    def _only(self, row: Model) -> QuerySet[Any]:
        rows: QuerySet[Any] = self.model._base_manager.all()  # noqa: SLF001 - Django's name for it
        return rows.filter(pk=row.pk)

    def tell(self, request: HttpRequest, done: Iterable[Any], said: str) -> None:
        """Says what a verb did, and notes it for each row in the audit trail."""
        rows = list(done)
        for row in rows:
            self.log_change(request, row, said)
        names = ", ".join(str(row)[:60] for row in rows[:NAMED_ON_DELETE])
        if rows:
            more = f" and {len(rows) - NAMED_ON_DELETE} more" if len(rows) > NAMED_ON_DELETE else ""
            self.message_user(request, f"{said}: {names}{more}", messages.SUCCESS)
        else:
            self.message_user(request, f"{said}: none", messages.WARNING)

    def complain(self, request: HttpRequest, row: Model, reason: str) -> None:
        """Says why a verb could not be done."""
        self.message_user(request, f"{str(row)[:60]}: {reason}", messages.ERROR)


class ReadOnlyAdmin(StaffAdmin):
    """Rows that only the services write."""

    def has_add_permission(self, request: HttpRequest, *args: object) -> bool:
        """Nothing is added by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, *args: object) -> bool:
        """Nothing is changed by hand."""
        return False


def bar(value: float, most: float, words: str) -> SafeString:
    """A bar that is so far full, with words that say the same."""
    return format_html(
        '<progress class="bar" value="{}" max="{}" aria-label="{}"></progress> <span class="nowrap">{}</span>',
        *(round(value, 1), max(1, round(most, 1)), words, words),
    )


def age(moment: datetime | None) -> str:
    """How long ago, in words."""
    if moment is None:
        return "never"
    return f"{duration(timezone.now() - moment)} ago"


def duration(time: timedelta | float) -> str:
    """A length of time in the largest unit that fits; numbers are seconds."""
    seconds = time.total_seconds() if isinstance(time, timedelta) else float(time)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def clipped(text: str, most: int = 60) -> SafeString | str:
    """A long text's beginning, the whole of it on hover."""
    if len(text) <= most:
        return text
    return format_html('<span title="{}">{}…</span>', text, text[:most])
