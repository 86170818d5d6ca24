"""`Authorization: Bearer …`: one authenticator that knows by the prefix whose token it is."""

import re
from base64 import b64decode
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any, Final, Literal, cast

from django.contrib.auth.models import User
from django.db.models import F, QuerySet
from django.utils import timezone
from knox.auth import TokenAuthentication
from knox.crypto import hash_token
from knox.models import AuthToken
from knox.settings import CONSTANTS, knox_settings
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from imagegen_project.auth.errors import InvalidTokenError, challenge, challenges
from imagegen_project.auth.failures import address_of, failure_note, failures_check, success_note
from imagegen_project.auth.identity import hub_identity
from imagegen_project.auth.services import token_use_is_noted, token_use_note, user_for_hub_identity
from imagegen_project.common.context import username
from imagegen_project.common.prepared import Prepared, open_value

HUB_PREFIX = "hf_"
# RFC 6750's b64token, with a length that any real token keeps.
TOKEN_PATTERN = re.compile(r"[A-Za-z0-9._~+/-]{4,2048}=*")

MALFORMED = "The Authorization header must be `Bearer <token>`, with a token as it was issued."
UNKNOWN_LOCAL = "This local token is unknown or expired, or its user is not active."

TokenKind = Literal["hub", "local", "open"]


@dataclass(frozen=True)
class TokenAuth:
    """`request.auth`: by which kind of token the user came, `open` for none. The token itself is not kept."""

    kind: TokenKind


def bearer_token(header: str) -> str | None:
    """The token of an Authorization header; None where there is no header or it speaks another scheme.

    Raises InvalidTokenError where the header is malformed.
    """
    scheme, _, token = header.strip().partition(" ")
    if scheme.lower() != "bearer":
        return None
    token = token.strip()
    if not TOKEN_PATTERN.fullmatch(token):
        raise InvalidTokenError(MALFORMED)
    return token


def basic_token(header: str) -> str | None:
    """The token in HTTP Basic, as the user name or as the password; None without credentials of that scheme.

    Empty ones are what clients send that were given none. Raises InvalidTokenError where the header is malformed.
    """
    scheme, _, credentials = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, password = b64decode(credentials, validate=True).decode("ascii").partition(":")
    except ValueError as error:
        raise InvalidTokenError(MALFORMED) from error
    if not name and not password:
        return None
    token = password if password and not _is_token(name) else name
    if not TOKEN_PATTERN.fullmatch(token):
        raise InvalidTokenError(MALFORMED)
    return token


def token_kind(token: str) -> TokenKind:
    """Whose token this is, by its prefix. Raises InvalidTokenError where the prefix is unknown."""
    if token.startswith(HUB_PREFIX):
        return "hub"
    if token.startswith(knox_settings.TOKEN_PREFIX):
        return "local"
    raise InvalidTokenError


def _holders() -> QuerySet[User]:
    found = User.objects.filter(auth_token_set__token_key=open_value("key"))
    return found.annotate(digest=F("auth_token_set__digest"), expiry=F("auth_token_set__expiry"))


_HOLDERS: Final = Prepared(_holders)


class _LocalTokens(TokenAuthentication):  # type: ignore[misc]  # knox has no types
    """knox, with a prepared question, since all requests ask it.

    It would look at each use of a token for others of its user that have expired: here once a minute.
    """

    def authenticate_credentials(self, token: bytes) -> tuple[User, AuthToken]:
        """The user of a token, and its row. Raises AuthenticationFailed."""
        text = token.decode()
        digest = hash_token(text)
        holder: Any
        for holder in _HOLDERS.all(key=text[: CONSTANTS.TOKEN_KEY_LENGTH]):
            row = AuthToken(digest=holder.digest, user=holder, expiry=holder.expiry)
            if not self._cleanup_token(row) and compare_digest(digest, row.digest):
                return cast("tuple[User, AuthToken]", self.validate_user(row))
        raise AuthenticationFailed

    def _cleanup_token(self, auth_token: Any) -> bool:
        has_expired = auth_token.expiry is not None and auth_token.expiry < timezone.now()
        if not has_expired and token_use_is_noted(auth_token.digest):
            return False
        return bool(super()._cleanup_token(auth_token))


def local_user(token: str) -> User:
    """The user of a local token. Raises InvalidTokenError: unknown, expired, or its user is inactive."""
    try:
        user, row = _LocalTokens().authenticate_credentials(token.encode())
    except AuthenticationFailed:
        raise InvalidTokenError(UNKNOWN_LOCAL) from None
    token_use_note(row.digest)
    return user


def hub_user(token: str) -> User:
    """The user of a Hub token. Raises what `hub_identity` and `user_for_hub_identity` raise."""
    return user_for_hub_identity(identity=hub_identity(token=token))


def user_of_token(token: str, *, address: str) -> tuple[User, TokenAuth]:
    """The user of either kind of token, which came from an address.

    Raises InvalidTokenError, HubUserNotAllowedError, HubUnavailableError, TooManyFailuresError.
    """
    failures_check(address=address, credential=token)
    try:
        kind = token_kind(token)
        user = hub_user(token) if kind == "hub" else local_user(token)
    except InvalidTokenError:
        failure_note(address=address, credential=token)
        raise
    success_note(credential=token)
    username.set(user.get_username())
    return user, TokenAuth(kind=kind)


class BearerAuthentication(BaseAuthentication):
    """Hub tokens (`hf_…`) and local tokens (`img_…`)."""

    def authenticate(self, request: Request) -> tuple[User, TokenAuth] | None:
        """The user and how they came; None without a Bearer header.

        Raises InvalidTokenError (401), HubUserNotAllowedError (403), TooManyFailuresError (429),
        HubUnavailableError (503).
        """
        token = bearer_token(request.headers.get("Authorization", ""))
        if token is None:
            return None
        return user_of_token(token, address=address_of(request))

    def authenticate_header(self, request: Request) -> str:
        """The challenge that goes with a 401."""
        return challenge(presented="Authorization" in request.headers)


class BasicTokenAuthentication(BaseAuthentication):
    """HTTP Basic with a token as the user name or as the password, for clients that know nothing else.

    The other of the two is not read. Empty ones are what clients send that were given none.
    """

    def authenticate(self, request: Request) -> tuple[User, TokenAuth] | None:
        """The user and how they came; None without Basic credentials. Raises as BearerAuthentication does."""
        token = basic_token(request.headers.get("Authorization", ""))
        if token is None:
            return None
        return user_of_token(token, address=address_of(request))

    def authenticate_header(self, request: Request) -> str:
        """The challenges that go with a 401."""
        return challenges()


def _is_token(text: str) -> bool:
    return text.startswith((HUB_PREFIX, knox_settings.TOKEN_PREFIX))
