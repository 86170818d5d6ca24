"""The product's own pages: one program in the browser, which is the same at each of its addresses."""

from pathlib import Path
from typing import Any

from django.contrib.auth.mixins import LoginRequiredMixin
from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import path, re_path
from django.utils.decorators import method_decorator
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.generic import TemplateView

from imagegen_project.common.http import wants_page
from imagegen_project.common.ids import UUID_REGEX

STATIC = Path(__file__).resolve().parent / "static"


def modules() -> list[str]:
    """The program's files, so that a browser asks for all of them at once; what opens later is not among them."""
    found = sorted(STATIC.glob("js/client/*.js")) + sorted(STATIC.glob("js/page/*.js"))
    return [str(file.relative_to(STATIC)) for file in found]


# In their order: the first holds what the others are made of.
SHEETS = tuple(
    f"css/page/{name}.css" for name in ("parts", "create", "stage", "gallery", "picture", "paint", "account")
)


@method_decorator(ensure_csrf_cookie, name="dispatch")
class ProgramView(LoginRequiredMixin, TemplateView):
    """An address of the program, for whoever is signed in; it asks the API for everything that it shows."""

    template_name = "imagegen/page.html"
    page = ""
    heading: str | Promise = ""

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Which page of the program it is."""
        shown = {"page": self.page, "heading": self.heading, "modules": modules(), "sheets": SHEETS}
        return super().get_context_data(**kwargs) | shown


class CreateView(ProgramView):
    """Where pictures are made; a client that does not ask for a page is led to the documentation."""

    page = "create"
    heading = _("Create")

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """The page for a browser."""
        if not wants_page(request):
            return HttpResponseRedirect("/api/docs/")
        return super().dispatch(request, *args, **kwargs)


class GalleryView(ProgramView):
    """One's own pictures, and one of them at its address."""

    page = "gallery"
    heading = _("Gallery")


class AccountView(ProgramView):
    """Tokens, usage and the webhook secret."""

    page = "account"
    heading = _("Account")


urlpatterns = [
    re_path(r"^$", CreateView.as_view(), name="index"),
    path("gallery/", GalleryView.as_view(), name="gallery"),
    re_path(rf"^gallery/(?P<generation_id>{UUID_REGEX})/$", GalleryView.as_view(), name="picture"),
    path("account/", AccountView.as_view(), name="account"),
]
