"""Whose request it is: the network address that limits are counted by.

A page's session is no measure, since a program can name as many sessions as it likes.
"""

from ipaddress import IPv6Address, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.types import Scope

_KEY = "lorameta.address"
_IPV6_PREFIX = 64
"""Bits of an IPv6 address that stand for one visitor, who may choose the others."""


def note_address(scope: Scope, *, on_hub: bool) -> str:
    """Find the address of a request, and keep it in the request's scope for `address_of`.

    Args:
        scope: of the request.
        on_hub: whether a proxy of the Hub forwards all requests. It appends the address that it saw
            to ``X-Forwarded-For``, so the last public one there cannot be made up.
    """
    forwarded = Headers(scope=scope).get("x-forwarded-for", "") if on_hub else ""
    seen = filter(_is_public, reversed([part.strip() for part in forwarded.split(",")]))
    client = scope.get("client")
    scope[_KEY] = address = network(next(seen, client[0] if client else ""))
    return address


def address_of(scope: Scope) -> str:
    """Return the address that `note_address` found; empty if the request did not pass there."""
    return str(scope.get(_KEY, ""))


def network(address: str) -> str:
    """Return an address as limits are counted by it.

    Example:
        >>> network("203.0.113.7"), network("2001:db8:1:2:3:4:5:6"), network("a socket")
        ('203.0.113.7', '2001:db8:1:2::/64', 'a socket')
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped or ip_network((parsed, _IPV6_PREFIX), strict=False))
    return str(parsed)


def _is_public(address: str) -> bool:
    try:
        return ip_address(address).is_global
    except ValueError:
        return False
