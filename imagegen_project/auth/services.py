"""Makes and finds the users behind tokens."""

import math
import time
from datetime import timedelta
from uuid import UUID

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone
from knox.models import AuthToken

from imagegen_project.auth.errors import InvalidTokenError, TokenNotFoundError, TooManyTokensError
from imagegen_project.auth.hub import HubIdentity
from imagegen_project.auth.models import HubAccount, LocalToken

SEEN_EVERY = timedelta(minutes=1)
MAX_TOKENS = 50
# When this process noted a token's use last, by its digest.
_noted: dict[str, float] = {}
_MAX_NOTED = 10_000
INACTIVE = "This user has been deactivated here."
NO_USERNAME = "No username is free for this Hugging Face account; ask the operator."


def token_create(*, user: User, expires_in: timedelta | None, name: str = "") -> str:
    """Makes a local token and returns it, the only time it is readable; None: it never expires."""
    return _token_store(user, expires_in, name)[1]


def token_issue(*, user: User, expires_in: timedelta | None, name: str) -> tuple[LocalToken, str]:
    """The same for a user who asks for one: with its row, and MAX_TOKENS at most. Raises TooManyTokensError."""
    with transaction.atomic():
        # One after the other, so that the limit holds.
        list(User.objects.select_for_update(no_key=True).filter(pk=user.pk).values_list("pk"))
        if AuthToken.objects.filter(user=user).count() >= MAX_TOKENS:
            raise TooManyTokensError
        return _token_store(user, expires_in, name)


def _token_store(user: User, expires_in: timedelta | None, name: str) -> tuple[LocalToken, str]:
    with transaction.atomic():
        row, token = AuthToken.objects.create(user=user, expiry=expires_in)
        return LocalToken.objects.create(token=row, name=name), str(token)


def tokens_of(user: User) -> QuerySet[LocalToken]:
    """A user's local tokens, the newest first, expired ones too."""
    return LocalToken.objects.filter(token__user=user).select_related("token").order_by("-id")


def token_revoke(*, user: User, token_id: UUID) -> None:
    """Ends a user's local token, and sessions that it began. Raises TokenNotFoundError."""
    if not AuthToken.objects.filter(user=user, note=token_id).delete()[0]:
        raise TokenNotFoundError(f"You have no token {token_id}.")


def tokens_all(*, username: str = "") -> QuerySet[LocalToken]:
    """Everybody's local tokens, or one user's, the newest first, for the operator."""
    rows = LocalToken.objects.select_related("token__user").order_by("-id")
    return rows.filter(token__user__username=username) if username else rows


def token_end(*, token_id: UUID) -> str:
    """Ends a local token, whoever has it; returns the owner's name, "" where there is no such token."""
    row = AuthToken.objects.select_related("user").filter(note=token_id).first()
    if row is None:
        return ""
    owner: str = row.user.get_username()
    row.delete()
    return owner


def token_use_is_noted(digest: str) -> bool:
    """Whether this process has noted within the minute that a local token has been used."""
    return time.monotonic() - _noted.get(digest, -math.inf) < SEEN_EVERY.total_seconds()


def token_use_note(digest: str) -> None:
    """Notes that a local token has been used, for its owner to see."""
    if token_use_is_noted(digest):
        return
    if len(_noted) >= _MAX_NOTED:
        _noted.clear()
    _noted[digest] = time.monotonic()
    LocalToken.objects.filter(token=digest).update(last_used_at=timezone.now())


def local_user_ensure(*, username: str = "local", password: str | None = None) -> User:
    """The operator of a standalone installation: staff and superuser; without `password` none is usable."""
    user, created = User.objects.get_or_create(username=username)
    if created or password is not None:
        user.set_password(password)
    user.is_staff = user.is_superuser = user.is_active = True
    user.save()
    return user


def user_for_hub_identity(*, identity: HubIdentity) -> User:
    """The Django user of a Hub account, made at its first visit and renamed when the account was.

    Raises InvalidTokenError where an administrator has deactivated the user.
    """
    account = _find(identity) or _create(identity)
    if account.name != identity.name:
        _rename(account, identity)
    if not account.user.is_active:
        raise InvalidTokenError(INACTIVE, code="user_inactive")
    if timezone.now() - account.last_seen_at > SEEN_EVERY:
        # Not at every request: that would make every read a write.
        HubAccount.objects.filter(pk=account.pk).update(last_seen_at=timezone.now())
    return account.user


def _find(identity: HubIdentity) -> HubAccount | None:
    return HubAccount.objects.select_related("user").filter(hub_id=identity.hub_id).first()


def _create(identity: HubIdentity) -> HubAccount:
    for username in _usernames(identity):
        try:
            with transaction.atomic():
                user = User.objects.create_user(username=username)
                return HubAccount.objects.create(
                    user=user, hub_id=identity.hub_id, name=identity.name, last_seen_at=timezone.now()
                )
        except IntegrityError:
            # Either another request was faster with this account, or the username is someone else's.
            if account := _find(identity):
                return account
    raise InvalidTokenError(NO_USERNAME, code="no_username")


def _rename(account: HubAccount, identity: HubIdentity) -> None:
    for username in _usernames(identity):
        try:
            with transaction.atomic():
                User.objects.filter(pk=account.user_id).update(username=username)
                HubAccount.objects.filter(pk=account.pk).update(name=identity.name)
        except IntegrityError:
            continue
        account.name, account.user.username = identity.name, username
        return


def _usernames(identity: HubIdentity) -> tuple[str, str]:
    """The wanted username, and one that cannot be taken: names are re-used on the Hub, ids are not."""
    return f"{identity.name}@huggingface", f"{identity.name[:60]}+{identity.hub_id}@huggingface"
