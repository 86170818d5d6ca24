"""RQ's pages in the admin: for those who were given them. What replaces their scripts is in `templates/django_rq`."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from csp.constants import UNSAFE_INLINE
from csp.decorators import csp_update
from django.apps import apps
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import URLPattern
from django_rq.admin import QueueAdmin
from django_rq.models import Dashboard

PERMISSION = "django_rq.admin"
# Opens a result by a click on its row, with a script in an attribute that names the result.
SCRIPTED_PAGE = "django_rq_job_detail"


def _permitted(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """The view, for staff with the permission; whoever is no staff is left to the view, which shows the login."""

    @wraps(view)
    def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.user.is_staff and not request.user.has_perm(PERMISSION):
            raise PermissionDenied
        return view(request, *args, **kwargs)

    return checked


class QueuesAdmin(QueueAdmin):  # type: ignore[misc]  # the library has no types there
    """django-rq's, which lets all of the staff empty queues and read entries."""

    def get_urls(self) -> list[URLPattern]:
        """Its pages, each behind the permission "Access admin page" of Django-RQ; they carry styles."""
        urls: list[URLPattern] = super().get_urls()
        for pattern in urls:
            pattern.callback = csp_update({"style-src": [UNSAFE_INLINE]})(_permitted(pattern.callback))
            if pattern.name == SCRIPTED_PAGE:
                pattern.callback = csp_update({"script-src-attr": [UNSAFE_INLINE]})(pattern.callback)
        return urls


# The sections of the first page, in people's words; ours have theirs in `apps.py`.
for label, words in (("auth", "People"), ("django_rq", "Queues"), ("admin", "What staff did")):
    apps.get_app_config(label).verbose_name = words

if admin.site.is_registered(Dashboard):
    admin.site.unregister(Dashboard)
admin.site.register(Dashboard, QueuesAdmin)
