"""Passwords of the pages: Django's backend, with a limit on guessing."""

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from imagegen_project.auth.errors import TooManyFailuresError
from imagegen_project.auth.failures import address_of, failure_note, failures_check

TOO_MANY_FAILURES = "too_many_failures"


class PatientModelBackend(ModelBackend):
    """Names and passwords, looked at AUTH_FAILURES times a minute from one address while they are wrong.

    Where it did not look, the request carries the TooManyFailuresError as `too_many_failures`.
    """

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> User | None:
        """The user, or None. Raises PermissionDenied where it did not look, so that no other backend does."""
        if request is None:
            return super().authenticate(request, username=username, password=password, **kwargs)
        address = address_of(request)
        # Not the name alone: whoever knows it could lock its owner out.
        credential = f"{username} from {address}"
        try:
            failures_check(address=address, credential=credential)
        except TooManyFailuresError as error:
            setattr(request, TOO_MANY_FAILURES, error)
            raise PermissionDenied from error
        user = super().authenticate(request, username=username, password=password, **kwargs)
        if user is None:
            failure_note(address=address, credential=credential)
        return user
