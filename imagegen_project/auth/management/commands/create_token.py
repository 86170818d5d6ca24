"""`manage.py create_token`: a local API token for a user."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.template.defaultfilters import pluralize
from knox.settings import knox_settings

from imagegen_project.auth.services import token_create
from imagegen_project.common.commands import ReportingCommand, UsageError

MAX_DAYS = 36_500


class Command(ReportingCommand):
    """Makes the user where needed and prints a token; whatever else it says goes to standard error."""

    help = (
        "Makes a local API token (img_…), and the user where there is none of that name. The token is printed"
        " once and kept only as a hash. Send it as `Authorization: Bearer img_…`. Revoke it in the admin."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The command line."""
        parser.add_argument("username", help="whose token; a new user cannot log in with a password")
        parser.add_argument(
            "--days",
            type=int,
            default=knox_settings.TOKEN_TTL.days,
            help="days until it expires; 0: never (default: %(default)s)",
        )
        parser.add_argument(
            "--staff", action="store_true", help="let the user manage the server through the API (staff)"
        )

    def handle(self, *_args: Any, username: str, days: int, staff: bool, **_options: Any) -> None:
        """Raises UsageError for a bad username or a negative number of days."""
        if not 0 <= days <= MAX_DAYS:
            raise UsageError(f"--days must be from 0 (no expiry) to {MAX_DAYS}.")
        user = User.objects.filter(username=username).first()
        if user is None:
            user = _user_create(username)
            self.stderr.write(f"Made the user {username}.")
        if staff and not user.is_staff:
            user.is_staff = True
            user.save(update_fields=["is_staff"])
            self.stderr.write(f"{username} is staff now.")
        token = token_create(user=user, expires_in=timedelta(days=days) if days else None)
        self.stderr.write(f"It expires in {days} day{pluralize(days)}." if days else "It does not expire.")
        self.document |= {"user": username, "token": token, "expires_in_days": days or None}
        self.say(token)


def _user_create(username: str) -> User:
    user = User(username=username)
    user.set_unusable_password()
    try:
        user.full_clean()
    except ValidationError as error:
        raise UsageError("; ".join(error.messages)) from error
    user.save()
    return user
