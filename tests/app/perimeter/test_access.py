"""No page of another site acts as a visitor: by its origin, by a name that it made point here, or by a link."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from starlette.routing import BaseRoute, Mount, Route

from latent_ae.app.launch import Running
from latent_ae.app.perimeter.access import ForeignRequest, Origins
from latent_ae.app.perimeter.accounts import Accounts
from latent_ae.errors import UserError
from latent_ae.service.service import Service
from tests.app.conftest import served

FOREIGN = {
    "another site": {"Origin": "https://evil.example"},
    "another port of this machine": {"Origin": "http://localhost:1"},
    "no page that has a name": {"Origin": "null"},
    "a name that begins like ours": {"Origin": "http://127.0.0.1.evil.example"},
    "a picture or a script on another site": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    "another port, without an origin": {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    "a name that was made to point here": {"Host": "evil.example"},
    "the same, with its origin": {"Host": "evil.example", "Origin": "http://evil.example"},
    "the same, as if by a proxy": {"X-Forwarded-Host": "evil.example"},
}
BODIES = {"application/json": b'{"data": []}', "text/plain": b"{}", "multipart/form-data; boundary=x": b"--x--\r\n"}


class Server(NamedTuple):
    """A server that runs, and what a browser that is logged in sends by itself."""

    running: Running
    cookies: dict[str, str]


@pytest.fixture(scope="module", params=["open", pytest.param("with accounts", marks=pytest.mark.slow)])
def app(request: pytest.FixtureRequest, service: Service, gradio_folder: Path) -> Iterator[Server]:
    auth = Accounts({"ann": "secret"}) if request.param == "with accounts" else None
    with served(service, auth=auth) as running:
        cookies = {}
        if auth:
            answer = httpx.post(f"{running.url}login", data={"username": "ann", "password": "secret"})
            cookies = {name: value for name, value in answer.cookies.items() if "unsecure" in name}
            assert httpx.get(f"{running.url}gradio_api/user", cookies=cookies).json() == "ann"
        yield Server(running, cookies)


def routes(running: Running) -> list[tuple[str, str]]:
    """Method and path of everything that the server has a route for, and of paths it has none for."""

    def below(found: list[BaseRoute], prefix: str) -> Iterator[tuple[str, str]]:
        for route in found:
            if isinstance(route, Mount):
                yield from below(list(route.routes), prefix + route.path)
            elif isinstance(route, Route):
                yield from ((method, prefix + route.path) for method in sorted(route.methods or ()))
            elif hasattr(route, "original_router"):
                yield from below(list(route.original_router.routes), prefix)

    found = [*below(list(running.demo.server_app.routes), "")]
    names = {"api_name": "models", "path": "x", "path_or_url": "x", "model": "tiny-kl"}
    filled = [
        (
            method,
            "/".join(
                names.get(part[1:].split(":")[0].rstrip("}"), "x") if "{" in part else part for part in path.split("/")
            ),
        )
        for method, path in found
    ]
    assert {("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/upload"), ("POST", "/remote/encode")} < {*filled}
    assert {("GET", "/metrics"), ("GET", "/"), ("GET", "/config"), ("POST", "/login"), ("GET", "/logout")} < {*filled}
    assert len(filled) > 80
    return [
        *filled,
        ("GET", "/nothing"),
        ("OPTIONS", "/gradio_api/queue/join"),
        ("PUT", "/"),
        ("POST", "/gradio_api/mcp/"),
    ]


def work(service: Service) -> Any:
    return service.stats().requests


def test_no_route_answers_a_page_of_another_site(app: Server, service: Service, gradio_folder: Path) -> None:
    before = work(service), set(gradio_folder.rglob("*"))
    with httpx.Client(base_url=app.running.url, cookies=app.cookies, timeout=60) as browser:
        for number, (method, path) in enumerate(routes(app.running)):
            for which, headers in enumerate(FOREIGN.values()):
                kind, body = [*BODIES.items()][(number + which) % len(BODIES)]
                sent = {**headers, "Content-Type": kind}
                if method == "OPTIONS":
                    sent["Access-Control-Request-Method"] = "POST"
                answer = browser.request(method, path, headers=sent, content=body if method == "POST" else None)
                assert answer.status_code == 403, (method, path, headers)
                assert method == "HEAD" or answer.json()["error"] == "forbidden"
                assert not [name for name in answer.headers if name.startswith("access-control-")]
                assert "set-cookie" not in answer.headers
    assert (work(service), set(gradio_folder.rglob("*"))) == before
    assert app.running.demo._queue.events_recorded == 0  # Gradio counts them nowhere else


def test_own_pages_and_programs_are_answered_and_no_answer_is_for_other_sites(app: Server) -> None:
    url = httpx.URL(app.running.url)
    with httpx.Client(base_url=url, cookies=app.cookies) as browser:
        for host in (f"127.0.0.1:{url.port}", f"localhost:{url.port}", "localhost:8080", "192.168.1.7", "[::1]:80"):
            for own in (
                {},
                {"Origin": f"http://{host}"},
                {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"},
            ):
                headers = {"Host": host, **own}
                assert browser.get("/config", headers=headers).status_code == 200
                answer = browser.post("/gradio_api/call/models", headers=headers, json={"data": []})
                assert answer.status_code == 200
                assert not [name for name in answer.headers if name.startswith("access-control-")]
                assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        assert browser.get("/", headers=link).status_code == 200
        assert browser.get("/", headers={**link, "Sec-Fetch-Dest": "iframe"}).status_code == 403
        assert browser.get("/logout", headers=link).status_code == 403
        assert browser.get("/gradio_api/token").status_code == 404


@pytest.mark.slow
@pytest.mark.parametrize("app", ["with accounts"], indirect=True)
def test_the_login_cookie_stays_with_the_server(app: Server) -> None:
    login = {"username": "ann", "password": "secret"}
    for headers, secure in (({}, False), ({"X-Forwarded-Proto": "https"}, True)):
        answer = httpx.post(f"{app.running.url}login", data=login, headers=headers)
        cookies = [cookie.lower() for cookie in answer.headers.get_list("set-cookie")]
        assert len(cookies) == 2
        for cookie in cookies:
            assert "samesite=lax" in cookie
            assert "samesite=none" not in cookie
            assert "httponly" in cookie
            assert "secure" in cookie.split("; ") or not (secure or "unsecure" not in cookie)


def scope(**headers: str) -> dict[str, Any]:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": "POST", "scheme": "http", "headers": raw}


def allowed(origins: Origins, **headers: str) -> bool:
    try:
        origins.check(scope(**headers), "gradio_api/upload")
    except ForeignRequest:
        return False
    return True


def test_names_are_those_that_were_given() -> None:
    plain, named = Origins(), Origins(host="box.lan", names=["VAE.example.com."], root_path="https://example.com/vae")
    for host in (
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
        "a@localhost",
        "box:1:2",
        "vae",
    ):
        assert not allowed(plain, host=host)
        assert not allowed(named, host=host)
    for host in ("box.lan:7860", "vae.example.com", "example.com:443", "localhost.", "10.0.0.1:1", "[fe80::1]"):
        assert allowed(named, host=host)
    assert allowed(plain)  # HTTP/1.0 of a health check


def test_an_origin_is_the_host_or_a_name_that_was_given() -> None:
    plain, named = Origins(), Origins(names=["vae.example.com"], root_path="https://example.com/vae")
    assert allowed(plain, host="localhost:7860", origin="http://localhost:7860")
    assert not allowed(plain, host="localhost:7860", origin="http://127.0.0.1:7860")
    assert not allowed(plain, host="localhost:7860", origin="http://localhost")
    # A proxy that does not pass the name on.
    assert allowed(named, host="127.0.0.1:7860", origin="https://vae.example.com")
    assert allowed(named, host="127.0.0.1:7860", origin="https://example.com")
    assert not allowed(named, host="example.com", origin="http://example.com")  # the page itself comes by https
    assert not allowed(plain, host="10.0.0.1", origin="http://10.0.0.1", x_forwarded_proto="https")
    assert not allowed(plain, host="localhost", origin="localhost")
    assert not allowed(plain, host="localhost", origin="file://localhost")


@pytest.mark.parametrize("name", ["https://vae.example.com", "vae.example.com:443", "", "*", "a b", "-a"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="--allow-host"):
        Origins(names=[name])


@pytest.mark.parametrize("path", ["vae", "ftp://example.com", "https://", "https://a:b:c/"])
def test_what_is_neither_path_nor_url_is_refused(path: str) -> None:
    with pytest.raises(UserError, match="--root-path"):
        Origins(root_path=path)
