"""Plain HTTP routes beside Gradio's: health, metrics, and diffusers' remote VAE.

    GET  /healthz                  200 as long as the process answers
    GET  /readyz                   200 if a request would be admitted now, else 503
    GET  /metrics                  Prometheus' text format
    POST /remote/decode[/MODEL]    from diffusers.utils.remote_utils.remote_decode
    POST /remote/encode[/MODEL]    from remote_encode

What they raise, `perimeter.error_replies` answers.
"""

import functools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

import anyio.from_thread
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
    registry, threads = CollectorRegistry(), CapacityLimiter(service.limits.queue)
    registry.register(StatsCollector(service, replies))

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        if service.stats().inside >= service.limits.queue:
            raise Busy("the server is busy with as many requests as it takes: try again in a moment")
        return PlainTextResponse("ready\n")

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    answers = {
        "/readyz": ("GET", readyz),
        "/metrics": ("GET", metrics),
        "/remote/decode": ("POST", _remote(RemoteDecode, service.decode_tensor, threads)),
        "/remote/encode": ("POST", _remote(RemoteEncode, service.encode_tensor, threads)),
    }
    return [
        Route("/healthz", healthz, methods=["GET"]),
        *(
            Route(f"{path}{model}", _for_accounts(answer, accounts), methods=[method])
            for path, (method, answer) in answers.items()
            for model in (("", "/{model}") if path.startswith("/remote") else ("",))
        ),
    ]


class StatsCollector(Collector):
    """Figures of the service for Prometheus."""

    def __init__(self, service: Service, replies: Replies) -> None:
        self._service = service
        self._replies = replies

    def collect(self) -> Iterator[Metric]:
        """One family for each figure, read when it is asked for."""
        stats, errors = self._service.stats(), list(self._replies.counts.items())
        seconds = [((endpoint,), total) for endpoint, total in stats.seconds.items()]
        labels = "endpoint", "outcome"
        yield _counter("requests", "Requests that were answered or refused.", labels, stats.requests.items())
        yield _counter("request_seconds", "Sum of the response times.", labels[:1], seconds)
        yield _counter("http_errors", "HTTP error replies.", ("route", "error"), errors)
        yield _counter("batches", "Batches that the models worked on.", (), [((), stats.batches)])
        yield _counter("batched_images", "Images in these batches.", (), [((), stats.batched)])
        for name, text, value in (
            ("requests_inside", "Requests that are not answered yet.", stats.inside),
            ("requests_limit", "As many can be inside.", self._service.limits.queue),
            ("images_waiting", "Images that wait for a model.", stats.queued),
            ("images_running", "Images that a model works on.", stats.running),
        ):
            yield GaugeMetricFamily(f"latent_ae_{name}", text, value=value)


def _counter(
    name: str, text: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"latent_ae_{name}", text, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def _remote(
    asked: type[RemoteDecode] | type[RemoteEncode], function: Callable[..., RemoteReply], threads: CapacityLimiter
) -> Answer:
    """A route of the remote VAE, whose work runs in one of `threads`."""

    async def answer(request: Request) -> Response:
        def tick(_: float) -> None:
            if anyio.from_thread.run(request.is_disconnected):
                raise ClientDisconnect

        # A slot is taken once the body is here, which the guard bounds in size and time.
        given = asked.from_query(request.query_params.multi_items(), await request.body())
        call = functools.partial(function, given, model=request.path_params.get("model"), tick=tick)
        reply = await anyio.to_thread.run_sync(call, limiter=threads)
        return Response(reply.data, media_type=reply.media_type, headers=reply.headers)

    return answer


def _for_accounts(answer: Answer, accounts: Accounts | None) -> Answer:
    """The answer for those who give the name and password of an account, if there are accounts."""

    async def asked(request: Request) -> Response:
        if accounts is not None and accounts.named(request.headers.get("authorization")) is None:
            raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})
        return await answer(request)

    return asked
