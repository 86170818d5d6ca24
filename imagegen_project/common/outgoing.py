"""One request to an address that a stranger chose: to public hosts only, without redirects, within one deadline."""

import asyncio
import socket
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import urlsplit

import httpcore2

# Python's `ipaddress` does not call these private. The first two are for use within a site (RFC 8215, RFC 3879); in the
# last, IPv4 addresses were once written as IPv6 ones ("IPv4-compatible", RFC 4291).
_LOCAL = (IPv6Network("64:ff9b:1::/48"), IPv6Network("fec0::/10"), IPv6Network("::/96"))
# Addresses of IPv4 hosts behind a translator (RFC 6052): what counts is the host.
_TRANSLATED = IPv6Network("64:ff9b::/96")


class UnreachableError(Exception):
    """There was no answer; the message says why in a few words."""


class AddressRefusedError(UnreachableError):
    """The name leads to an address that nothing may be sent to."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the open internet: not private, loopback, link-local, shared or multicast."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address.teredo is not None or any(address in network for network in _LOCAL):
            return False
        if address in _TRANSLATED:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


class PinnedBackend(httpcore2.AnyIOBackend):
    """Resolves a name once, refuses it unless every address it has is public, and connects to just these.

    Whoever answers the next question for that name otherwise (DNS rebinding) changes nothing: there is none.
    """

    def __init__(self, *, allow_private: bool) -> None:
        self.allow_private = allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the base's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connects. Raises AddressRefusedError, OSError, or httpcore2's ConnectError and ConnectTimeout."""
        addresses = await self._addresses(host, port)
        for last, address in enumerate(addresses, start=1 - len(addresses)):
            try:
                return await super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if last == 0:
                    raise
        raise UnreachableError("the name has no address")

    async def _addresses(self, host: str, port: int) -> list[str]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not self.allow_private and not all(is_public(ip_address(address)) for address in addresses):
            raise AddressRefusedError("not a public address")
        return addresses


@dataclass(frozen=True)
class OutgoingAnswer:
    """What came back: the status, and the body as far as somebody reads it."""

    status: int
    body: bytes = b""


def outgoing_request(
    method: str,
    url: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str],
    timeout_s: float,
    allow_private: bool,
    max_bytes: int = 0,
) -> OutgoingAnswer:
    """Sends a request, and reads `max_bytes` of the answer's body at most; a redirect is an answer like any other.

    Raises UnreachableError, also for a longer body where one is read.
    """
    exchange = _exchange(method, url, body, headers, allow_private=allow_private, max_bytes=max_bytes)
    try:
        return asyncio.run(_within(timeout_s, exchange))
    except UnreachableError:
        raise
    except (TimeoutError, httpcore2.TimeoutException) as error:
        raise UnreachableError("no answer in time") from error
    except (socket.gaierror, UnicodeError) as error:  # the latter for what can be no name at all
        raise UnreachableError("the name is not known") from error
    except (OSError, httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol) as error:
        raise UnreachableError(str(error)[:200] or type(error).__name__) from error


async def _exchange(
    method: str, url: str, body: bytes, headers: Mapping[str, str], *, allow_private: bool, max_bytes: int
) -> OutgoingAnswer:
    backend = PinnedBackend(allow_private=allow_private)
    async with (
        httpcore2.AsyncConnectionPool(network_backend=backend, max_keepalive_connections=0) as pool,
        pool.stream(method, url, headers=list(headers.items()), content=body or None) as response,
    ):
        if not max_bytes:
            return OutgoingAnswer(response.status)
        read = bytearray()
        async for piece in response.aiter_stream():
            read += piece
            if len(read) > max_bytes:
                raise UnreachableError(f"the answer has more than {max_bytes >> 20} MiB")
        return OutgoingAnswer(response.status, bytes(read))


async def _within(timeout_s: float, exchange: Coroutine[Any, Any, OutgoingAnswer]) -> OutgoingAnswer:
    # One limit for everything: each read of a server that drips its answer would be in time.
    async with asyncio.timeout(timeout_s):
        return await exchange


def url_problem(url: str, *, allow_private: bool) -> str | None:
    """What is wrong with an address, as far as it shows; where its name leads is looked at when it is used."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "Not an address."
    if not url.isascii() or not url.isprintable() or " " in url:
        return "Only printable ASCII; encode anything else."
    if parts.scheme not in ("http", "https") or not host:
        return "An address that begins with https:// or http:// and names a host."
    try:
        host.encode("idna")
    except UnicodeError:
        return "Not a host's name."
    if parts.username is not None or parts.fragment:
        return "Without user, password and fragment."
    try:
        public = is_public(ip_address(host))
    except ValueError:
        return None
    return None if public or allow_private else "Not a public address."
