"""Who makes a request, by network address, and whether its answer is still wanted.

Limits are not counted by session, since a program can name as many sessions as it likes.
"""

import re
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import takewhile
from os import environ
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_KEY = "lorameta_call"
UNASKED_SECONDS = 60.0
"""Seconds until a call whose answer nobody asks for is taken for abandoned."""
_WITH_PORT = re.compile(r"(?:\[(.*)\]|([^:]*))(?::\d+)?")
_IPV6_PREFIX = 64
"""Leading bits of an IPv6 address that identify a visitor, who may choose the other bits."""
_SITE_PREFIX, SITE_SHARES = 48, 4
"""Leading bits that a site has in common, which may have 65,536 networks, and how many shares of an
address all of them have together."""


@dataclass(eq=False)
class Stream:
    """A stream through which a page or a program gets answers.

    Attributes:
        opened: whether the caller has asked for it.
        left: whether the caller left before its end.
    """

    opened: bool = False
    left: bool = False


@dataclass
class Call:
    """A request that computes an answer.

    Attributes:
        address: of the visitor; empty if unknown.
        stream: through which the answer is wanted.
        since: when it was made.
    """

    address: str = ""
    stream: Stream = field(default_factory=Stream)
    since: float = field(default_factory=time.monotonic)

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for the answer, or has not asked for it yet."""
        unasked = not self.stream.opened and time.monotonic() - self.since > UNASKED_SECONDS
        return not (self.stream.left or unasked)


def note_call(scope: Scope, call: Call) -> None:
    """Store a call with its request, for `call_of`."""
    scope.setdefault("state", {})[_KEY] = call


def call_of(request: Any) -> Call:
    """Return the call of a request of Starlette or Gradio."""
    call = getattr(getattr(request, "state", None), _KEY, None)
    return call if isinstance(call, Call) else Call()


def find_address(scope: Scope, *, on_hub: bool) -> str:
    """Return the address of a request.

    Args:
        scope: of the request.
        on_hub: whether a proxy of the Hub forwards all requests. It appends the address that it saw
            to ``X-Forwarded-For``, so the last public one there cannot be made up. The header may
            have several lines, and an address a port.
    """
    lines = Headers(scope=scope).getlist("x-forwarded-for") if on_hub else []
    hops = takewhile(bool, map(_parsed, reversed(",".join(lines).split(","))))
    seen = (str(hop) for hop in hops if hop and hop.is_global)
    client = scope.get("client")
    return network(next(seen, client[0] if client else ""))


def opens_page(scope: Scope) -> bool:
    """Return whether a request opens a page in a window or frame, as a click on a link does."""
    mode = Headers(scope=scope).get("sec-fetch-mode", "navigate")
    return scope["method"] in ("GET", "HEAD") and mode == "navigate"


def from_another_site(scope: Scope, *, own_machine: bool = False) -> bool:
    """Return whether a page of another site sent a request, as browsers say, but to open this one.

    Browsers that do not say which site it is state the origin of what writes, or the page. A page
    that this machine alone may open has no other host: the name of one may point to this machine,
    so that its page can read the answers (DNS rebinding).

    Example:
        >>> headers = [(b"sec-fetch-site", b"cross-site"), (b"sec-fetch-mode", b"cors")]
        >>> from_another_site({"type": "http", "method": "GET", "headers": headers})
        True
        >>> hosts = b"127.0.0.1:7860", b"[::1]:7860", b"evil.example", b"["
        >>> scopes = ({"type": "http", "method": "GET", "headers": [(b"host", h)]} for h in hosts)
        >>> [from_another_site(scope, own_machine=True) for scope in scopes]
        [False, False, True, True]
    """
    headers = Headers(scope=scope)
    if own_machine and _host_name(headers.get("host", "")) not in LOOPBACK:
        return True
    site = headers.get("sec-fetch-site", "none")
    origin = headers.get("origin", headers.get("referer"))
    if site == "none" and origin is not None:
        hosts = headers.get("host"), headers.get("x-forwarded-host"), environ.get("SPACE_HOST")
        same = origin.partition("://")[2].partition("/")[0] in hosts
        site = "same-origin" if same else "cross-site"
    return site not in ("same-origin", "none") and not opens_page(scope)


def _host_name(host: str) -> str | None:
    """Return a host without its port; None if it is invalid."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def network(address: str) -> str:
    """Return the form of an address that limits are counted by.

    Example:
        >>> network("203.0.113.7"), network("2001:db8:1:2:3:4:5:6"), network("a socket")
        ('203.0.113.7', '2001:db8:1:2::/64', 'a socket')
    """
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped or ip_network((parsed, _IPV6_PREFIX), strict=False))
    return str(parsed or address)


def shares_of(address: str) -> dict[str, int]:
    """Return the networks that what an address uses is counted by, and the shares of each.

    Example:
        >>> shares_of("203.0.113.7"), shares_of("2001:db8:1:2::/64")
        ({'203.0.113.7': 1}, {'2001:db8:1:2::/64': 1, '2001:db8:1::/48': 4})
    """
    if ":" not in address or "/" not in address:
        return {address: 1}
    return {address: 1, str(ip_network(address).supernet(new_prefix=_SITE_PREFIX)): SITE_SHARES}


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """Return an address, of a header perhaps with a port and brackets; None if it is none.

    Example:
        >>> [str(_parsed(a)) for a in (" 1.2.3.4:80", "[2001:db8::1]:80", "2001:db8::1", "x")]
        ['1.2.3.4', '2001:db8::1', '2001:db8::1', 'None']
    """
    found = _WITH_PORT.fullmatch(address.strip())
    try:
        return ip_address((found[1] or found[2]) if found else address.strip())
    except ValueError:
        return None
