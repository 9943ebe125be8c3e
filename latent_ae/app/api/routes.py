"""Plain HTTP routes beside Gradio's: health, metrics, and diffusers' remote VAE.

    GET  /healthz                  200 as long as the process answers
    GET  /readyz                   200 if a request would be admitted now, else 503
    GET  /metrics                  Prometheus' text format
    POST /remote/decode[/MODEL]    from diffusers.utils.remote_utils.remote_decode
    POST /remote/encode[/MODEL]    from remote_encode

What they raise, `perimeter.error_replies` answers.
"""

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import anyio.to_thread
from anyio import CapacityLimiter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from latent_ae.app.perimeter.accounts import Accounts
from latent_ae.app.perimeter.error_replies import Replies
from latent_ae.service.errors import Busy
from latent_ae.service.remote import RemoteDecode, RemoteEncode, RemoteReply
from latent_ae.service.service import Service

Answer = Callable[[Request], Awaitable[Response]]


def plain_routes(service: Service, replies: Replies, accounts: Accounts | None) -> list[BaseRoute]:
    """The routes, to be put before Gradio's. With `accounts` all but /healthz require a name and password."""
    registry = CollectorRegistry()
    registry.register(StatsCollector(service, replies))
    remote = _Remote(service)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        remote.require_place()
        return PlainTextResponse("ready\n")

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    answers: list[tuple[str, str, Answer]] = [
        ("GET", "/readyz", readyz),
        ("GET", "/metrics", metrics),
        *(("POST", f"/remote/decode{model}", remote.decode) for model in ("", "/{model}")),
        *(("POST", f"/remote/encode{model}", remote.encode) for model in ("", "/{model}")),
    ]
    return [
        Route("/healthz", healthz, methods=["GET"]),
        *(Route(path, _for_accounts(answer, accounts), methods=[method]) for method, path, answer in answers),
    ]


class StatsCollector(Collector):
    """Figures of the service for Prometheus."""

    def __init__(self, service: Service, replies: Replies) -> None:
        self._service = service
        self._replies = replies

    def collect(self) -> Iterator[Metric]:
        """One family for each figure, read when it is asked for."""
        stats = self._service.stats()
        requests = CounterMetricFamily(
            "latent_ae_requests", "Requests that were answered or refused.", labels=["endpoint", "outcome"]
        )
        for labels, count in stats.requests.items():
            requests.add_metric(labels, count)
        seconds = CounterMetricFamily("latent_ae_request_seconds", "Sum of the response times.", labels=["endpoint"])
        for endpoint, total in stats.seconds.items():
            seconds.add_metric([endpoint], total)
        errors = CounterMetricFamily("latent_ae_http_errors", "HTTP error replies.", labels=["route", "error"])
        for labels, count in list(self._replies.counts.items()):
            errors.add_metric(labels, count)
        yield from (requests, seconds, errors)
        yield CounterMetricFamily("latent_ae_batches", "Batches that the models worked on.", value=stats.batches)
        yield CounterMetricFamily("latent_ae_batched_images", "Images in these batches.", value=stats.batched)
        yield GaugeMetricFamily("latent_ae_requests_inside", "Requests that are not answered yet.", value=stats.inside)
        yield GaugeMetricFamily("latent_ae_requests_limit", "As many can be inside.", value=self._service.limits.queue)
        yield GaugeMetricFamily("latent_ae_images_waiting", "Images that wait for a model.", value=stats.queued)
        yield GaugeMetricFamily("latent_ae_images_running", "Images that a model works on.", value=stats.running)


class _Remote:
    """The remote VAE."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._threads = CapacityLimiter(service.limits.queue)

    async def decode(self, request: Request) -> Response:
        """Latents to an image or a tensor."""
        return await self._answer(request, RemoteDecode, self._service.decode_tensor)

    async def encode(self, request: Request) -> Response:
        """An image or a tensor to latents."""
        return await self._answer(request, RemoteEncode, self._service.encode_tensor)

    def require_place(self) -> None:
        """Raise Busy if the service would take no request now."""
        if self._service.stats().inside >= self._service.limits.queue:
            raise Busy("the server is busy with as many requests as it takes: try again in a moment")

    async def _answer(
        self,
        request: Request,
        asked: type[RemoteDecode] | type[RemoteEncode],
        function: Callable[..., RemoteReply],
    ) -> Response:
        # A slot is taken once the body is here, which the guard bounds in size and time.
        given = asked.from_query(request.query_params.multi_items(), await request.body())
        call = functools.partial(function, given, model=request.path_params.get("model"))
        async with _watched(request) as tick:
            reply = await anyio.to_thread.run_sync(functools.partial(call, tick=tick), limiter=self._threads)
        return Response(reply.data, media_type=reply.media_type, headers=reply.headers)


@contextlib.asynccontextmanager
async def _watched(request: Request) -> AsyncIterator[Callable[[float], None]]:
    """A tick for work in another thread, which raises ClientDisconnect once the client has left."""
    left = threading.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left.set()

    def tick(_: float) -> None:
        if left.is_set():
            raise ClientDisconnect

    watching = asyncio.create_task(watch())
    try:
        yield tick
    finally:
        watching.cancel()


def _for_accounts(answer: Answer, accounts: Accounts | None) -> Answer:
    """The answer for those who give the name and password of an account, if there are accounts."""

    async def asked(request: Request) -> Response:
        if accounts is not None and accounts.named(request.headers.get("authorization")) is None:
            raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})
        return await answer(request)

    return asked
