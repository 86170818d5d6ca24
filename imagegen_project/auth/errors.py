"""Refusals of this app, with their stable codes."""

from rest_framework import status
from rest_framework.exceptions import AuthenticationFailed

from imagegen_project.common.errors import DomainError

RETRY_AFTER_S = 5


class InvalidTokenError(AuthenticationFailed):
    """401: the credential is malformed, unknown, expired, revoked, or may not be used here."""

    default_detail = "This token is not known here. Send a Hugging Face token (hf_…) or a local one (img_…)."
    default_code = "invalid_token"


class HubUnavailableError(DomainError):
    """503: whether the token is valid is unknown, since the Hub could not be asked."""

    code = "hub_unavailable"
    http_status = status.HTTP_503_SERVICE_UNAVAILABLE
    title = "The Hugging Face Hub could not be asked"

    def __init__(self, *, retry_after_s: int = RETRY_AFTER_S) -> None:
        super().__init__(
            "The Hugging Face Hub cannot say now whether this token is valid. Try again soon.",
            headers={"Retry-After": str(retry_after_s)},
        )


class TooManyFailuresError(DomainError):
    """429: this address, or this very token, has failed too often within a minute."""

    code = "too_many_failures"
    http_status = status.HTTP_429_TOO_MANY_REQUESTS
    title = "Too many failed attempts"

    def __init__(self, *, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(
            "Too many credentials have been refused lately; try again in a minute, with one that is valid.",
            headers={"Retry-After": str(retry_after_s)},
        )


class HubUserNotAllowedError(DomainError):
    """403: a valid Hub token of an account that is on neither allow-list."""

    code = "hub_user_not_allowed"
    http_status = status.HTTP_403_FORBIDDEN
    title = "This Hugging Face account may not use this service"

    def __init__(self) -> None:
        super().__init__("Only certain Hugging Face users and organisations are admitted; ask the operator.")


class TicketStoreUnavailableError(DomainError):
    """503: Redis, where tickets live, does not answer."""

    code = "ticket_store_unavailable"
    http_status = status.HTTP_503_SERVICE_UNAVAILABLE
    title = "Tickets cannot be used now"

    def __init__(self) -> None:
        super().__init__(
            "Socket tickets cannot be made or redeemed now. Try again soon, or send the token in a header.",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )


class SessionRequiredError(DomainError):
    """403: who holds a token could make others, which would outlive it."""

    code = "session_required"
    http_status = status.HTTP_403_FORBIDDEN
    title = "Sign in on the page for this"

    def __init__(self) -> None:
        super().__init__(
            "A token cannot make tokens: sign in on the page with a password, a Hugging Face token or a link."
        )


class TokenNotFoundError(DomainError):
    """404: unknown, revoked, or somebody else's."""

    code = "token_not_found"
    http_status = status.HTTP_404_NOT_FOUND
    title = "There is no such token"


class TooManyTokensError(DomainError):
    """409: the user has as many tokens as one may have."""

    code = "too_many_tokens"
    http_status = status.HTTP_409_CONFLICT
    title = "You have too many tokens"

    def __init__(self) -> None:
        super().__init__("Revoke one that is not used any more.")


def challenge(*, presented: bool) -> str:
    """The `WWW-Authenticate` value (RFC 6750, section 3): no error where no credential was presented."""
    realm = 'Bearer realm="imagegen"'
    return f'{realm}, error="invalid_token"' if presented else realm


def challenges() -> str:
    """The same where HTTP Basic with a token is taken too."""
    return f'Basic realm="imagegen", {challenge(presented=False)}'
