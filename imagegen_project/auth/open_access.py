"""Letting certain networks in without credentials, as one user: for clients of A1111 that have no place for any."""

from ipaddress import IPv6Address, ip_address

from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.http.request import split_domain_port, validate_host
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from imagegen_project.auth.authentication import TokenAuth
from imagegen_project.auth.errors import InvalidTokenError
from imagegen_project.common.context import username
from imagegen_project.common.http import is_foreign

# What proxies add: the connection then says nothing of where the request is from.
_FORWARDED_PREFIX = "HTTP_X_FORWARDED"
_FORWARDED = frozenset(
    f"HTTP_{name}"
    for name in (
        *("FORWARDED", "VIA", "X_REAL_IP", "X_CLIENT_IP", "X_CLUSTER_CLIENT_IP", "X_ORIGINAL_FORWARDED_FOR"),
        *("CF_CONNECTING_IP", "TRUE_CLIENT_IP", "FASTLY_CLIENT_IP", "X_ENVOY_EXTERNAL_ADDRESS"),
        *("X_ORIGINAL_HOST", "X_ORIGINATING_IP", "X_REMOTE_IP", "X_REMOTE_ADDR"),
    )
)


class OpenAuthentication(BaseAuthentication):
    """The user A1111_OPEN_USER, for requests without credentials from A1111_OPEN_NETWORKS."""

    def authenticate(self, request: Request) -> tuple[User, TokenAuth] | None:
        """The user; None for everybody else. Raises InvalidTokenError where the user was deactivated."""
        user = open_user(request)
        if user is None:
            return None
        username.set(user.get_username())
        return user, TokenAuth(kind="open")


def open_user(request: HttpRequest | Request) -> User | None:
    """The user for a request that is let in; None for others. Raises InvalidTokenError where they were deactivated."""
    if not is_let_in(request):
        return None
    user, created = User.objects.get_or_create(username=settings.A1111_OPEN_USER)
    if created:
        user.set_unusable_password()
        user.save(update_fields=["password"])
    if not user.is_active:
        raise InvalidTokenError("This service's open user has been deactivated.", code="user_inactive")
    return user


def is_let_in(request: HttpRequest | Request) -> bool:
    """Whether a request comes straight from an open network, to a name of this server, from no other site's page."""
    if not settings.A1111_OPEN_NETWORKS or is_foreign(request) or not _host_is_listed(request):
        return False
    if any(name in _FORWARDED or name.startswith(_FORWARDED_PREFIX) for name in request.META):
        return False
    try:
        address = ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in settings.A1111_OPEN_NETWORKS)


def _host_is_listed(request: HttpRequest | Request) -> bool:
    """Whether ALLOWED_HOSTS names the host; `*` names none: any page can have a name that leads here."""
    domain, _ = split_domain_port(request.headers.get("Host", ""))
    listed = [name for name in settings.ALLOWED_HOSTS if name != "*"]
    return bool(domain) and validate_host(domain, listed)
