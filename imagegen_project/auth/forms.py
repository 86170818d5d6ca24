"""The forms with which people log in."""

from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.forms import AuthenticationForm
from django.core.exceptions import ValidationError

from imagegen_project.auth.failures import TOO_MANY_FAILURES, WINDOW_S


class PatientForm(AuthenticationForm):
    """Does not call a password wrong that nobody has looked at."""

    def get_invalid_login_error(self) -> ValidationError:
        """Why nobody was logged in."""
        if getattr(self.request, TOO_MANY_FAILURES, False):
            return ValidationError(
                "Too many tries with a wrong password from your address: this one was not looked at. "
                f"Wait {WINDOW_S} seconds, then try again.",
                code=TOO_MANY_FAILURES,
            )
        return super().get_invalid_login_error()


class PatientAdminForm(PatientForm, AdminAuthenticationForm):
    """The same, for the admin pages."""
