"""Makes and finds the users behind tokens."""

from datetime import timedelta

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone
from knox.models import AuthToken

from imagegen_project.auth.errors import InvalidTokenError
from imagegen_project.auth.hub import HubIdentity
from imagegen_project.auth.models import HubAccount

SEEN_EVERY = timedelta(minutes=1)
INACTIVE = "This user has been deactivated here."
NO_USERNAME = "No username is free for this Hugging Face account; ask the operator."


def token_create(*, user: User, expires_in: timedelta | None) -> str:
    """Makes a local token and returns it, the only time it is readable; None: it never expires."""
    _, token = AuthToken.objects.create(user=user, expiry=expires_in)
    return str(token)


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
