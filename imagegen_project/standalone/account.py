"""The local account of `manage.py standalone`: whose token and link it prints."""

from pathlib import Path

from django.contrib.auth.models import User
from django.db import connections
from knox.crypto import hash_token
from knox.models import AuthToken

from imagegen_project.auth.services import local_user_ensure, token_create
from imagegen_project.auth.tickets import link_create
from imagegen_project.standalone import paths

LOCAL_USER = "local"


def local_account(data_dir: Path) -> str:
    """Makes the local user and a token without expiry, kept in `<data-dir>/token`; a token that works is kept.

    The password (for the admin pages) is made with the user and kept among the secrets.
    """
    # The password of a user that exists may have been changed in the admin pages: leave it.
    known = User.objects.filter(username=LOCAL_USER).exists()
    password = None if known else paths.ensure_secret(data_dir, "admin_password")
    user = local_user_ensure(username=LOCAL_USER, password=password)
    token_file = data_dir / "token"
    token = token_file.read_text(encoding="ascii").strip() if token_file.is_file() else ""
    if token and AuthToken.objects.filter(digest=hash_token(token), user=user, expiry=None).exists():
        return token
    token = token_create(user=user, expires_in=None, name="demo")
    token_file.unlink(missing_ok=True)
    token_file.touch(mode=0o600)
    token_file.write_text(token, encoding="ascii")
    return token


def sign_in_path() -> str:
    """The path of a link that signs in as the local user: once, within LINK_TTL_S, in a browser on this machine."""
    try:
        nonce = link_create(user=User.objects.get(username=LOCAL_USER))
    finally:
        close_database()
    return f"/sign-in/once/{nonce}/"


def close_database() -> None:
    """Ends this process's connections and the pool's threads; from here on it only watches its children."""
    for connection in connections.all(initialized_only=True):
        connection.close()
        connection.close_pool()  # type: ignore[attr-defined]  # PostgreSQL's have one
