"""Passwords of the pages: Django's backend, with a limit on guessing."""

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from imagegen_project.auth.errors import TooManyFailuresError
from imagegen_project.auth.failures import TOO_MANY_FAILURES, address_of, failure_note, failures_check


class PatientModelBackend(ModelBackend):
    """Names and passwords, looked at AUTH_FAILURES times a minute from one address while they are wrong."""

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> User | None:
        """The user, or None. Raises PermissionDenied where it did not look, which the log-in forms say in words."""
        if request is None:
            return super().authenticate(request, username=username, password=password, **kwargs)
        address = address_of(request)
        # Not the name alone: whoever knows it could lock its owner out.
        credential = f"{username} from {address}"
        try:
            failures_check(address=address, credential=credential)
        except TooManyFailuresError as error:
            setattr(request, TOO_MANY_FAILURES, True)
            raise PermissionDenied from error
        user = super().authenticate(request, username=username, password=password, **kwargs)
        if user is None:
            failure_note(address=address, credential=credential)
        return user
