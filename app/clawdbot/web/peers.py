"""Who is on the other side of a connection, and who may see more than a stranger."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING

from werkzeug.middleware.proxy_fix import ProxyFix

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: Loopback and networks that are not routed on the internet (RFC 1918, RFC 6598, RFC 4193, RFC 4291).
PRIVATE = "127.0.0.0/8,::1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7,fe80::/10"


class Peers:
    """A set of addresses and networks."""

    def __init__(self, written: str) -> None:
        """Read ``written``: addresses and networks with commas between them; ``*`` is everybody.

        Raises:
            ValueError: one of them is neither.
        """
        parts = [part.strip() for part in written.split(",") if part.strip()]
        self._everybody = "*" in parts
        self._networks = [ipaddress.ip_network(part, strict=False) for part in parts if part != "*"]
        self.have = functools.lru_cache(maxsize=4096)(self._have)

    def _have(self, address: str) -> bool:
        """Whether ``address`` is one of them; what is no address (a Unix socket) is of this host."""
        if self._everybody or not address:
            return True
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
            found = found.ipv4_mapped
        return any(found in network for network in self._networks)


class TrustedProxies:
    """WSGI middleware: believes ``X-Forwarded-For`` and ``-Proto``, exactly one hop, if a proxy of ours has sent them.

    gunicorn's ``forwarded_allow_ips`` concerns the scheme only.
    """

    def __init__(self, app: WSGIApplication, proxies: Peers) -> None:
        """Stand in front of ``app``."""
        self._app = app
        self._behind = ProxyFix(app, x_for=1, x_proto=1, x_host=0)
        self._proxies = proxies

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, see PEP 3333."""
        app = self._behind if self._proxies.have(environ.get("REMOTE_ADDR", "")) else self._app
        return app(environ, start_response)
