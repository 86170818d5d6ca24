"""The pages on which people sign in and out."""

from typing import Any, Final

from django.contrib import admin
from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import path, re_path, reverse
from django.utils.decorators import method_decorator
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.generic import RedirectView, View

from imagegen_project.auth.errors import (
    HubUnavailableError,
    TicketStoreUnavailableError,
    TooManyFailuresError,
)
from imagegen_project.auth.forms import PasswordForm, TokenForm
from imagegen_project.auth.sessions import Way, session_begin
from imagegen_project.auth.tickets import link_redeem, link_user

_STATUS: Final = {TooManyFailuresError.code: 429, HubUnavailableError.code: 503}
# Nothing kept by a browser, and no secret in a report of an error.
_own_page = method_decorator([never_cache, sensitive_post_parameters("password", "token")], name="dispatch")


def next_checked(request: HttpRequest) -> str:
    """Where to go afterwards: the request's `next` if that leads to a page of this site, else the first page."""
    wanted = str(request.POST.get("next") or request.GET.get("next") or "")
    allowed = url_has_allowed_host_and_scheme(
        wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return wanted if allowed else "/"


@_own_page
class SignInView(View):
    """A name with its password, or a token."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """The forms; whoever is signed in goes on, unless that leads to pages which are not for him."""
        if request.user.is_authenticated and not self._lacks_rights(request):
            return HttpResponseRedirect(next_checked(request))
        return self._page(request)

    def post(self, request: HttpRequest) -> HttpResponse:
        """Signs in by the form that was sent, and goes on."""
        if "token" in request.POST:
            token_form = TokenForm(request, data=request.POST)
            if not token_form.is_valid() or token_form.user is None:
                return self._page(request, token_form=token_form)
            way: Way = "hub" if token_form.kind == "hub" else "local"
            session_begin(request, token_form.user, way=way, token=token_form.cleaned_data["token"])
            return HttpResponseRedirect(next_checked(request))
        form = PasswordForm(request, data=request.POST)
        if not form.is_valid():
            return self._page(request, form=form)
        session_begin(request, form.get_user(), way="password")
        return HttpResponseRedirect(next_checked(request))

    def _lacks_rights(self, request: HttpRequest) -> bool:
        is_admins = next_checked(request).startswith(reverse("admin:index"))
        return is_admins and not admin.site.has_permission(request)

    def _page(self, request: HttpRequest, **forms: Any) -> HttpResponse:
        codes = [
            error.code
            for form in forms.values()
            for errors in form.errors.as_data().values()
            for error in errors
        ]
        shown = {"form": PasswordForm(request), "token_form": TokenForm(request)} | forms
        lacks_rights = request.user.is_authenticated and self._lacks_rights(request)
        shown |= {"next": next_checked(request), "lacks_rights": lacks_rights}
        status = next((_STATUS[code] for code in codes if code in _STATUS), 400 if forms else 200)
        return render(request, "imagegen/sign_in.html", shown, status=status)


@_own_page
class LinkView(View):
    """A link that signs in once; a POST confirms it, so that whoever only looks at an address uses up nothing."""

    def get(self, request: HttpRequest, nonce: str) -> HttpResponse:
        """Whom it signs in."""
        return self._page(request, nonce)

    def post(self, request: HttpRequest, nonce: str) -> HttpResponse:
        """Signs in, and goes to the first page."""
        try:
            user = link_redeem(nonce)
        except TicketStoreUnavailableError:
            user = None
        if user is None:
            return self._page(request, nonce)
        session_begin(request, user, way="link")
        return HttpResponseRedirect("/")

    def _page(self, request: HttpRequest, nonce: str) -> HttpResponse:
        status = 200
        try:
            user = link_user(nonce)
            status = 200 if user else 404
        except TicketStoreUnavailableError:
            user, status = None, 503
        shown = {"owner": user, "away": status == 503}
        answer = render(request, "imagegen/sign_in_once.html", shown, status=status)
        # The address stays here; with less, a browser would not say that the form is this site's own.
        answer.headers["Referrer-Policy"] = "strict-origin"
        return answer


class SignOutView(View):
    """Ends the session."""

    http_method_names = ["post"]

    def post(self, request: HttpRequest) -> HttpResponse:
        """Signs out, and shows the page to sign in."""
        logout(request)
        return HttpResponseRedirect(reverse("sign-in"))


urlpatterns = [
    path("sign-in/", SignInView.as_view(), name="sign-in"),
    re_path(r"^sign-in/once/(?P<nonce>[A-Za-z0-9_-]{1,128})/$", LinkView.as_view(), name="sign-in-once"),
    path("sign-out/", SignOutView.as_view(), name="sign-out"),
    # The doors of Django's admin and of DRF's pages.
    path("admin/login/", RedirectView.as_view(pattern_name="sign-in", query_string=True)),
    path("accounts/login/", RedirectView.as_view(pattern_name="sign-in", query_string=True), name="login"),
]
