"""The variables that decide how the Hub is reached: its address, proxies and certificates.

`huggingface_hub` reads ``HF_ENDPOINT`` while it is imported, so this module does not import it.
"""

import importlib.util
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from os import environ
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from hf_lorameta.errors import HubError, UsageError

_SCHEMES = ("http", "https", "all")
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
"""What OpenSSL says of an answer that is not TLS, by its version and the answer."""
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def check_endpoint() -> None:
    """Check that ``HF_ENDPOINT``, where it is set, is a URL that requests can be sent to.

    If it is empty, it is unset: `huggingface_hub` takes it for an address.

    Raises:
        UsageError: it is not.

    Example:
        >>> check_endpoint()
    """
    if environ.get("HF_ENDPOINT") == "":
        del environ["HF_ENDPOINT"]
    if problem := _problem(environ.get("HF_ENDPOINT") or "https://huggingface.co", "http", "https"):
        raise UsageError(
            f"HF_ENDPOINT is not the address of a Hub: {problem}",
            code="hub.invalid-address",
            hint="set it to a URL such as https://huggingface.co, or unset it",
        )


@contextmanager
def naming_variables() -> Iterator[None]:
    """Make a client in the context, and name the variable with which none can be made.

    Raises:
        HubError: a variable holds no proxy, or one for which a package is missing, or names
            certificates that cannot be read.
    """
    for scheme, url in getproxies().items():
        if scheme in _SCHEMES:
            _check_proxy(_variable(scheme), url if "://" in url else f"http://{url}")
    try:
        yield
    except OSError as error:
        named = [name for name in _CERTIFICATES if environ.get(name)]
        if not named:
            raise
        raise HubError(
            f"the certificates that {named[0]} names cannot be read: {environ[named[0]]} "
            f"({error.strerror or error})",
            code="certificates.unreadable",
            hint="set it to a file of certificates in PEM format, or unset it",
        ) from None


def uncompressed(url: str) -> str:
    """Return a URL with all digits of its IPv6 address, which then has no ``::``.

    Example:
        >>> uncompressed("http://[::1]:80/a"), uncompressed("http://a")
        ('http://[0000:0000:0000:0000:0000:0000:0000:0001]:80/a', 'http://a')
    """
    begin, opened, rest = url.partition("[")
    address, closed, end = rest.partition("]")
    return begin + opened + IPv6Address(address).exploded + closed + end if closed else url


def proxy_advice(url: str) -> str:
    """Return which variables to check where a URL does not answer; empty if it needs no proxy.

    Example:
        >>> proxy_advice("file:///a")
        ''
    """
    parts, proxies = urlsplit(url), getproxies()
    scheme = next((one for one in (parts.scheme, "all") if one in proxies), None)
    if scheme is None or not parts.hostname or proxy_bypass(parts.hostname):
        return ""
    return f"check the proxy in {_variable(scheme)}, or add {parts.hostname} to NO_PROXY"


def distrusted(error: BaseException) -> str:
    """Return why the certificate of a server is not trusted; empty for other errors.

    Example:
        >>> distrusted(ValueError())
        ''
    """
    for one in _causes(error):
        if isinstance(one, ssl.SSLCertVerificationError):
            return one.verify_message or one.reason
    return ""


def without_tls(error: BaseException) -> bool:
    """Whether a connection failed since what answers does not speak TLS.

    Example:
        >>> without_tls(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"))
        True
    """
    return any(
        isinstance(one, ssl.SSLError) and any(said in str(one) for said in _NO_TLS)
        for one in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, and those that it comes from."""
    known: BaseException | None = error
    while known is not None:
        yield known
        known = known.__cause__ or known.__context__


def _check_proxy(variable: str, url: str) -> None:
    if problem := _problem(url, "http", "https", "socks5", "socks5h"):
        raise HubError(
            f"{variable} is not the address of a proxy: {problem}",
            code="proxy.invalid-address",
            hint="set it to a URL such as http://host:8080, or unset it",
        )
    if url.startswith("socks") and importlib.util.find_spec("socksio") is None:
        from hf_lorameta.environment import pip_install  # imports `huggingface_hub`

        raise HubError(
            f"{variable} names a SOCKS proxy, for which socksio is not installed",
            code="proxy.needs-socksio",
            hint=[pip_install("socksio"), f"set {variable} to an HTTP proxy"],
        )


def _variable(scheme: str) -> str:
    """Return the variable that a proxy is set with; the system's settings if none is."""
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
    return next((name for name in names if environ.get(name)), "the settings of the system")


def _problem(url: str, *schemes: str) -> str:
    """Return why a URL, which may hold a password, is none of a server; empty if it is one.

    Example:
        >>> _problem("ftp://a", "http", "https")
        'it does not begin with http:// or https://'
        >>> _problem("http://a:99999", "http")
        'its port is not a number up to 65535'
        >>> _problem("http://[::1]:80/path", "http")
        ''
    """
    begin = " or ".join(f"{scheme}://" for scheme in schemes)
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as error:  # such as a bracket without its other one
        return str(error)
    if parts.scheme not in schemes:
        return f"it does not begin with {begin}"
    if not host or any(c.isspace() or not c.isprintable() for c in host):
        return "it names no host"
    try:
        valid = parts.port is None or parts.port > 0
    except ValueError:
        valid = False
    return "" if valid else "its port is not a number up to 65535"
