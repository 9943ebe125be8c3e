"""How the server is reached, and what it keeps. `latent-ae serve` has an option for each field."""

from collections.abc import Sequence
from dataclasses import dataclass

from latent_ae.app.perimeter.accounts import Accounts
from latent_ae.service.limits import option


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options of `launch`, with defaults for one machine."""

    host: str = option("127.0.0.1", "address to listen on (default: 127.0.0.1)", type=str)
    port: int = option(7860, "port, 0 for a free one (default: 7860)", type=int)
    auth: Accounts | None = None
    """who may use the server; None: everybody"""
    root_path: str = option(
        "", "where a proxy shows the server: /vae, or https://example.com/vae", metavar="PATH_OR_URL"
    )
    allow_host: Sequence[str] = option(
        (),
        "another name of the server, like vae.example.com; repeatable. localhost, addresses and the name in "
        "--root-path are always allowed",
        action="append",
        metavar="NAME",
    )
    trusted_proxy: Sequence[str] = option(
        (),
        "address or network of a proxy whose X-Forwarded-For and X-Forwarded-Proto are believed, so that limits apply "
        "to its visitors and not to the proxy; repeatable",
        action="append",
        metavar="ADDRESS",
    )
    mcp: bool = option(False, "offer the endpoints as tools to language models (MCP)", action="store_true")
    # Longer than a request takes and a page is looked at.
    keep_seconds: float = option(3600.0, "time that uploads and results stay on disk")
    stored_bytes: int = option(
        2 * 10**9,
        "maximum size of uploads and results on disk; above it the oldest are deleted, and requests that add to them "
        "are refused",
    )
