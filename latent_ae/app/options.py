"""How the server is reached, and what it keeps."""

from collections.abc import Sequence
from dataclasses import dataclass

from latent_ae.app.perimeter.access import Accounts


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options of `launch`, with defaults for one machine."""

    host: str = "127.0.0.1"
    """address to listen on"""
    port: int = 7860
    """0 for a free one"""
    auth: Accounts | None = None
    """who may use the server; None: everybody"""
    root_path: str = ""
    """path or URL at which a proxy shows the server, like /vae or https://example.com/vae"""
    allow_hosts: Sequence[str] = ()
    """names of the server, besides localhost, addresses, `host` and the name in `root_path`"""
    trusted_proxies: Sequence[str] = ()
    """addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed"""
    mcp: bool = False
    """offer the endpoints as tools to language models"""
    keep_seconds: float = 3600.0
    """time that uploads and results stay on disk; longer than a request takes and a page is looked at"""
    stored_bytes: int = 2 * 10**9
    """maximum size of uploads and results on disk; requests that would add to more are refused"""
