"""The two ways of signing in on a page: a name with its password, and a token."""

from typing import Any, cast

from django import forms
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from rest_framework.exceptions import AuthenticationFailed

from imagegen_project.auth.authentication import TOKEN_PATTERN, TokenKind, user_of_token
from imagegen_project.auth.backends import TOO_MANY_FAILURES
from imagegen_project.auth.errors import TooManyFailuresError
from imagegen_project.auth.failures import address_of
from imagegen_project.common.errors import DomainError

_TOO_MANY = _(
    "Too many tries were wrong: this one was not looked at. Wait %(seconds)d seconds, then try again."
)


def _not_looked_at(error: TooManyFailuresError) -> ValidationError:
    """Does not call wrong what nobody has looked at."""
    return ValidationError(_TOO_MANY, code=error.code, params={"seconds": error.retry_after_s})


class PasswordForm(AuthenticationForm):
    """A name and its password."""

    error_messages = {
        "invalid_login": _("This name and this password do not belong together. Capitals count in both."),
        "inactive": _("This user has been deactivated here."),
    }

    def get_invalid_login_error(self) -> ValidationError:
        """Why nobody was signed in."""
        error = getattr(self.request, TOO_MANY_FAILURES, None)
        return _not_looked_at(error) if error else super().get_invalid_login_error()


class TokenForm(forms.Form):
    """A local token or one of the Hugging Face Hub; it is looked at and not kept."""

    token = forms.CharField(
        label=_("Token"),
        max_length=2100,
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        self.request = request
        self.user: User | None = None
        self.kind: TokenKind = "local"
        super().__init__(*args, **kwargs)

    def clean_token(self) -> str:
        """The token, whose user is `user` from here on. Raises ValidationError that says what is wrong."""
        token: str = self.cleaned_data["token"].removeprefix("Bearer ").strip()
        if not TOKEN_PATTERN.fullmatch(token):
            raise ValidationError(_("This is no token as it was issued: they begin with hf_ or img_."))
        try:
            self.user, auth = user_of_token(token, address=address_of(self.request))
        except TooManyFailuresError as error:
            raise _not_looked_at(error) from error
        except (AuthenticationFailed, DomainError) as error:
            code = cast(str, getattr(error, "code", "invalid_token"))
            raise ValidationError(str(error.detail), code=code) from error
        self.kind = auth.kind
        return token
