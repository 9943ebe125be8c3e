"""A caller's mistake is told by a status of 4xx, a code and a sentence; the log has no trace of it."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError, ValidationError
from prometheus_client.parser import text_string_to_metric_families

from latent_ae.app.perimeter import error_replies
from latent_ae.app.perimeter.content import parsed
from latent_ae.service.errors import BadRequest, ServiceError
from latent_ae.service.service import Service
from tests.app.conftest import served
from tests.app.perimeter.test_access import routes
from tests.app.pictures import pixels, png

JSON = {"Content-Type": "application/json"}
CODES = {kind.code for kind in ServiceError.__subclasses__() if hasattr(kind, "code")} | {
    *("unauthorized", "forbidden", "not_found", "method_not_allowed", "bad_range"),
}


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No trace is printed or logged, and no error."""
    yield
    said = "".join(capfd.readouterr()) + caplog.text
    assert "Traceback" not in said
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


def told(answer: httpx.Response) -> str:
    """The code of an answer that is an error of the caller, in the form that all have."""
    assert 400 <= answer.status_code < 500, (answer.request.url, answer.status_code, answer.text[:300])
    if answer.request.method == "HEAD":
        return ""
    content = answer.json()
    assert {"error", "message"} <= content.keys() <= {"error", "message", "detail"}
    assert content["error"] in CODES
    assert content["message"].isprintable()
    assert 10 < len(content["message"]) < 400
    return str(content["error"])


CALLS = [
    *("call/encode", "call/sample", "call/nothing", "call/v2/encode", "call/v2/sample", "call/v2/nothing", "call/"),
    *("call/v2", "run/encode", "run/nothing", "queue/join", "queue/nothing", "cancel", "reset", "call/encode/"),
]
BODIES = [
    *(b"", b"hello", b"[]", b"7", b"null", b'"x"', b"\xff\xfe\xfd", b'{"data": [1', b'{"data":[NaN]}', b"[" * 100_000),
    *(b'{"data":[-Infinity]}', b'{"data":[1e400]}', b'{"data":["\\ud800"]}', b'{"data":[' + b"9" * 5000 + b"]}"),
    *(b'{"data":"x"}', b'{"data":[]}', b'{"data":[null]}', json.dumps({"data": [None] * 30}).encode()),
    *(b'{"data":[],"fn_index":%s,"session_hash":"s"}' % number for number in (b"99999", b"-1", b'"x"', b"1.5", b"[]")),
    *(b'{"data":[],"fn_index":0,"session_hash":%s}' % name for name in (b"5", b'"a\\u0000b"', b"null")),
    b'{"data":[null,null,null,null,null],"fn_index":0,"session_hash":"s","batched":true}',
    *(b'{"imagee":1}', b'{"image":1,"seed":2,"more":3}', b'{"seed":NaN}'),
]


@pytest.mark.parametrize("route", CALLS)
@pytest.mark.usefixtures("quiet")
def test_calls_that_are_none_are_refused(server: str, route: str) -> None:
    with httpx.Client(base_url=f"{server}gradio_api/") as client:
        for body in BODIES:
            for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x", None):
                told(client.post(route, content=body, headers={"Content-Type": kind} if kind else {}))
                if kind == "application/json":
                    continue
                break  # the others differ in nothing once the body is no JSON


@pytest.mark.parametrize(
    ("route", "body", "status", "message"),
    [
        ("call/v2/encode", {}, 400, "encode needs image; it takes image, model, seed, dtype, logvar"),
        ("call/v2/encode", {"imag": 1}, 400, "encode has no parameter 'imag'; it takes image, model, seed, dtype,"),
        ("call/v2/models", {"data": []}, 400, "models has no parameter 'data'; it takes nothing"),
        (
            "call/v2/nobody",
            {},
            404,
            "there is no endpoint 'nobody'; there are encode, decode, reconstruct, compare, sa",
        ),
        ("call/nobody", {"data": []}, 404, "there is no endpoint 'nobody'"),
        ("run/nobody", {"data": []}, 404, "there is no endpoint 'nobody'"),
        ("call/sample", {"data": [None]}, 400, "data has 1 values, expected 9"),
        ("run/encode", {"data": [0] * 6}, 400, "data has 6 values, expected 5"),
        (
            "run/encode",
            {"data": [0] * 5},
            400,
            'image: expected an uploaded file, as {"path": PATH, "meta": {"_type": "gr',
        ),
        ("call/encode", {"data": [0] * 5}, 400, "image: expected an uploaded file"),
        ("call/v2/encode", {"image": None}, 400, "image: expected an uploaded file"),
        ("call/v2/sample", {"seed": "x"}, 400, "seed: input should be a valid integer"),
        ("call/v2/sample", {"prior": "x"}, 400, "prior: input should be 'normal' or 'learned'"),
        (
            "run/sample",
            {"data": ["nobody", 1, 0, 1.0, 8, "normal", None, None, None]},
            404,
            "there is no model 'nobody'; this server has",
        ),
        ("run/x", {"data": [], "fn_index": 10**6}, 404, "there is no function 1000000"),
        ("queue/join", {"data": [], "session_hash": "s"}, 422, "expected fn_index as the number of a function"),
        ("cancel", {"session_hash": "s"}, 400, "fn_index: field required"),
    ],
)
@pytest.mark.usefixtures("quiet")
def test_the_sentence_says_what_is_wrong(
    server: str, route: str, body: dict[str, Any], status: int, message: str
) -> None:
    answer = httpx.post(f"{server}gradio_api/{route}", json=body)
    told(answer)
    assert (answer.status_code, answer.json()["message"][: len(message)]) == (status, message)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("gradio_api/queue/data", 400),
        ("gradio_api/queue/data?session_hash=", 400),
        ("gradio_api/queue/data?session_hash=nobody", 404),
        ("gradio_api/queue/data?session_hash=%00%ff", 404),
        ("gradio_api/call/encode/nothing", 404),
        ("gradio_api/call/v2/encode/nothing", 404),
        ("gradio_api/call/nothing/nothing", 404),
        ("gradio_api/upload_progress", 400),
        ("gradio_api/upload_progress?upload_id=nobody", 404),
        ("gradio_api/file=nothing", 403),
        ("gradio_api/file=", 403),
        ("gradio_api/file=%00", 403),
        ("gradio_api/file=/etc/passwd", 403),
        ("gradio_api/file=" + "x" * 300, 404),
        ("assets/" + "x" * 300, 404),
        ("static/%00", 404),
        ("svelte/nothing", 404),
        ("pwa_icon/x", 400),
        ("nothing/" + "x/" * 2000, 404),
        ("gradio_api/nothing", 404),
        ("gradio_api/upload", 405),
        ("remote/decode", 405),
        ("remote/decode/tiny-kl/x", 404),
    ],
)
@pytest.mark.usefixtures("quiet")
def test_pages_files_and_results_that_are_not_there(server: str, path: str, status: int) -> None:
    answer = httpx.get(server + path, timeout=60)
    told(answer)
    assert answer.status_code == status


@pytest.fixture(scope="module")
def file(server: str) -> str:
    """The path of an upload of ten bytes."""
    return str(httpx.post(f"{server}gradio_api/upload", files={"files": ("a.bin", b"abcdefghij")}).json()[0])


@pytest.mark.parametrize(
    ("given", "status", "content"),
    [
        ("bytes=1-3", 206, b"bcd"),
        ("bytes=7-", 206, b"hij"),
        ("bytes=-3", 206, b"hij"),
        ("bytes=0-" + "9" * 30, 206, b"abcdefghij"),
        ("bytes=-" + "9" * 30, 206, b"abcdefghij"),
        ("bytes=0-1,0-2", 206, b"abc"),
        ("bytes=5-2", 400, None),
        ("bytes=10-", 416, None),
        ("bytes=" + "9" * 30 + "-", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=--5", 416, None),
        ("bytes=a-b", 400, None),
        ("bytes=\u00b2-\u00b3", 400, None),
        ("bytes=", 400, None),
        ("bytes", 400, None),
        ("lines=1-2", 400, None),
        ("," * 4000, 400, None),
        ("bytes=" + ",".join(["3-1", "0-1"] * 1000), 200, b"abcdefghij"),
    ],
)
@pytest.mark.usefixtures("quiet")
def test_ranges_of_a_file(server: str, file: str, given: str, status: int, content: bytes | None) -> None:
    answer = httpx.get(f"{server}gradio_api/file={file}", headers={"Range": given.encode("latin-1")})
    assert answer.status_code == status
    if content is None:
        assert told(answer) == ("bad_range" if status == 416 else "bad_request")
    else:
        assert answer.content == content


PART = b'--x\r\nContent-Disposition: form-data; name="files"%s\r\n\r\nabc\r\n--x--\r\n'


@pytest.mark.parametrize("query", ["", "?upload_id=u"])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=x", b"garbage"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--"),
        ("multipart/form-data; boundary=\xff", b"--x"),
        ("application/json", b"{}"),
    ],
)
@pytest.mark.usefixtures("quiet")
def test_uploads_that_are_none(server: str, query: str, kind: str, body: bytes) -> None:
    headers = {"Content-Type": kind.encode("latin-1")}
    told(httpx.post(f"{server}gradio_api/upload{query}", content=body, headers=headers))


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("query", ["", "?upload_id=u"])
def test_a_part_of_an_upload_that_is_no_file_is_refused(server: str, query: str) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = httpx.post(f"{server}gradio_api/upload{query}", content=PART % b"", headers=headers)
    assert told(answer) == "bad_request"
    assert (
        httpx.post(f"{server}gradio_api/upload", content=PART % b'; filename="a"', headers=headers).status_code == 200
    )


@pytest.mark.usefixtures("quiet")
def test_every_route_answers_junk_without_a_fault(server: str, app_routes: list[tuple[str, str]]) -> None:
    """All routes that there are, each by all methods and with bodies of several kinds."""
    paths = sorted({path for _, path in app_routes})
    with httpx.Client(base_url=server, timeout=60) as client:
        for path in paths:
            for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "NONSENSE"):
                for body, kind in ((b"", "text/plain"), (b'{"data": [{}]}', "application/json"), (b"\xff", "a/b")):
                    if method in ("GET", "HEAD", "OPTIONS") and body:
                        continue
                    with client.stream(method, path, content=body, headers={"Content-Type": kind}) as answer:
                        assert answer.status_code < 500, (method, path)
                        if answer.status_code >= 400:
                            answer.read()
                            told(answer)


@pytest.fixture
def app_routes(service: Service, gradio_folder: Path) -> list[tuple[str, str]]:
    with served(service) as running:
        return routes(running)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_functions_of_the_page_are_called_with_junk(server: str, file: str) -> None:
    upload = {"path": file, "meta": {"_type": "gradio.FileData"}}
    junk = [
        *(
            None,
            True,
            -1,
            0,
            3,
            1.5,
            1e300,
            2**70,
            "",
            "x",
            "tiny-kl",
            "normal",
            "\0",
            "x" * 1000,
            [],
            [1],
            {},
            {"a": 1},
        ),
        *(upload, [upload], upload | {"path": f"{file}/x"}, upload | {"path": None}, upload | {"url": 7}),
        *({"value": 1}, {"image": upload, "caption": None}),
    ]
    draws = random.Random(0)
    functions = [each for each in httpx.get(f"{server}config").json()["dependencies"] if each["backend_fn"]]
    assert len(functions) > 30
    with httpx.Client(base_url=f"{server}gradio_api/", timeout=60) as client:
        for function in functions:
            for number in range(5 if function["inputs"] else 1):
                session = f"{function['id']}-{number}"
                data = [draws.choice(junk) for _ in function["inputs"]]
                body = {"fn_index": function["id"], "data": data, "session_hash": session}
                direct = client.post("run/x", json=body)
                if direct.status_code != 200:
                    told(direct)
                joined = client.post("queue/join", json=body)
                if joined.status_code != 200:
                    told(joined)
                    continue
                said = client.get(f"queue/data?session_hash={session}").text
                errors = [
                    json.loads(error) for error in re.findall(r'"output":\{"error":(null|"(?:[^"\\]|\\.)*")', said)
                ]
                assert all(error and error.partition(": ")[0] in CODES for error in errors), (function, data, said)


def test_gradios_client_shows_the_sentence_of_a_refusal_at_the_queue(server: str) -> None:
    client = Client(server, verbose=False)
    address = {"path": "https://example.com/x.png", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(ValidationError, match="bad_request: addresses are not fetched: upload the file"):
        client.predict(image=address, api_name="/encode")
    with pytest.raises(AppError, match=r"^bad_request: seed: input should be a valid integer$"):
        client.predict(seed="x", api_name="/sample")
    client.close()


def test_the_page_finds_the_sentence_of_a_refusal_where_it_looks_for_it(server: str) -> None:
    address = {"path": "https://example.com/x.png"}
    body = {"data": [address, None, None, None, False], "fn_index": 0, "session_hash": "s"}
    answer = httpx.post(f"{server}gradio_api/queue/join", json=body)
    (detail,) = answer.json()["detail"]
    assert (answer.status_code, detail["is_valid"], detail["__type__"]) == (422, False, "validate")
    assert detail["message"] == f"bad_request: {answer.json()['message']}"
    told(answer)
    assert httpx.post(f"{server}gradio_api/run/encode", json=body).json()["detail"] == answer.json()["message"]


def errors(server: str) -> dict[tuple[str, str], float]:
    text = httpx.get(f"{server}metrics").text
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    return {
        (each.labels["route"], each.labels["error"]): each.value
        for each in samples
        if each.name == "latent_ae_http_errors_total"
    }


def test_errors_are_counted_by_a_few_names(server: str) -> None:
    before = errors(server)
    for name in range(5):
        httpx.post(f"{server}gradio_api/call/v2/{name}", json={})
        httpx.get(f"{server}page-{name}")
    httpx.post(f"{server}remote/encode", content=b"")
    after = errors(server)
    changed = {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)}
    assert changed == {("call", "not_found"): 5, ("page", "not_found"): 5, ("remote", "broken_image"): 1}
    assert {route for route, _ in after} <= {*error_replies._ROUTES.values(), "page"}
    assert {code for _, code in after} <= CODES | {"internal"}


def test_values_that_an_endpoint_refuses_are_counted_as_its_requests(server: str, service: Service) -> None:
    before = service.stats().requests.get(("sample", "bad_request"), 0)
    assert (
        httpx.post(
            f"{server}gradio_api/run/sample", json={"data": [None, "x", 0, 1.0, 8, "normal", None, None, None]}
        ).status_code
        == 400
    )
    assert service.stats().requests["sample", "bad_request"] == before + 1


def test_a_fault_of_the_server_is_said_to_be_one_and_logged(
    server: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("made to fail")

    monkeypatch.setattr("gradio.route_utils.get_root_url", fail)
    answer = httpx.get(f"{server}config")
    assert (answer.status_code, answer.json()["error"]) == (500, "internal")
    assert "made to fail" not in answer.text
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.getMessage() == "config failed"


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "1e999", '"\\udead"', "[" * 10**5, "{", "", "\xff", "9" * 5000])
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(BadRequest, match="JSON in the request's body"):
        parsed(text.encode("latin-1"))


def test_json_is_what_it_says() -> None:
    assert parsed('{"a": [1, 2.5, null, "\\u00e9é"]}'.encode()) == {"a": [1, 2.5, None, "éé"]}
    assert png(pixels(2, 2))[:4] == b"\x89PNG"


def test_an_error_that_is_typed_already_stays(server: str) -> None:
    answer = httpx.post(f"{server}remote/decode/nobody", params={"shape": [1, 4, 1, 1], "dtype": "float32"})
    assert answer.json().keys() == {"error", "message"}
    assert (answer.status_code, told(answer)) == (404, "unknown_model")


def test_the_docs_name_every_code_with_its_status() -> None:
    text = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
    table = text.split("### Errors")[1].split("## For operators")[0]
    rows = re.findall(r"^\| (`[^|]+`) \| (\d+) \|", table, re.MULTILINE)
    named = {code: int(status) for codes, status in rows for code in re.findall(r"`(\w+)`", codes)}
    typed = {kind.code: kind.status for kind in ServiceError.__subclasses__() if hasattr(kind, "code")}
    of_http = {code: status for status, (code, _) in error_replies._STATUSES.items() if code not in typed}
    assert named == {**of_http, **typed, "internal": 500}
