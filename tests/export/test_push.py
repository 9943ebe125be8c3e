"""`latent-ae push`, against a small hub of our own."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.export.conftest import Run

TOKEN = "hf_" + "x" * 34


class Hub(ThreadingHTTPServer):
    """Takes repositories and commits of one user."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.refuse_commits = False
        self.public = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/validate-yaml":
            valid = "{broken" not in json.loads(body)["content"]
            return self.answer(
                {"errors": [] if valid else [{"message": "broken"}], "warnings": []}, 200 if valid else 400
            )
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            created = json.loads(body)
            self.server.created.append(created)
            owner = created["organization"] or "somebody"
            return self.answer({"url": f"{self.server.url}/{owner}/{created['name']}"})
        if self.path == "/api/models/somebody/vae/preupload/main":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        if self.path == "/api/models/somebody/vae/commit/main" and not self.server.refuse_commits:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer(
                {"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.server.url}/somebody/vae/commit/0"}
            )
        return self.answer({"error": "Forbidden"}, 403)

    def do_GET(self) -> None:
        if self.path == "/api/models/somebody/vae":
            return self.answer({"id": "somebody/vae", "private": not self.server.public})
        return self.answer({"error": "Repository not found"}, 404)

    def answer(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import constants

    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


def test_a_folder_goes_up_with_its_card(hub: Hub, models: Path, run: Run) -> None:
    (models / "kl" / ".hidden").write_text("mine")
    status, said, errors = run("push", models / "kl", "somebody/vae", "--private")
    assert (status, errors) == (0, [])
    assert f"uploaded {models / 'kl'} to {hub.url}/somebody/vae" in said
    assert len(hub.created) == 1
    assert (hub.created[0]["name"], hub.created[0]["organization"]) == ("vae", "somebody")
    assert "private" in hub.created[0].values() or hub.created[0].get("private") is True
    there = {path.name: path.read_bytes() for path in (models / "kl").iterdir() if path.name != ".hidden"}
    assert hub.files == there


def test_a_name_without_an_owner_is_the_users_own(hub: Hub, models: Path, run: Run) -> None:
    status, said, errors = run("push", models / "kl", "vae")
    assert (status, errors) == (0, [])
    assert f"uploaded {models / 'kl'} to {hub.url}/somebody/vae" in said
    assert "README.md" in hub.files


def test_what_is_to_be_private_does_not_go_where_all_can_see_it(hub: Hub, models: Path, run: Run) -> None:
    hub.public = True
    status, _, errors = run("push", models / "kl", "somebody/vae", "--private")
    assert (status, len(errors), hub.files) == (2, 1, {})
    assert f"{hub.url}/somebody/vae already exists and is public" in errors[0]
    assert run("push", models / "kl", "somebody/vae")[0] == 0


def test_without_private_nothing_is_said_of_it(hub: Hub, models: Path, run: Run) -> None:
    assert run("push", models / "kl", "somebody/vae")[0] == 0
    assert not {"private", True} & set(hub.created[0].values())


def test_what_a_hub_refuses_is_one_line(
    hub: Hub, models: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*words: object) -> str:
        status, _, errors = run("push", *words)
        assert (status, len(errors)) == (2, 1), errors
        return errors[0]

    assert refused(tmp_path / "nothing", "somebody/vae").startswith(f"{tmp_path / 'nothing'} does not exist")
    (tmp_path / "model").mkdir()
    assert "has no README.md, the model card" in refused(tmp_path / "model", "somebody/vae")
    assert "is not a repository name, expected NAME or OWNER/NAME" in refused(models / "kl", "a/b/c")
    (tmp_path / "model/README.md").write_text("---\n{broken\n---\n")
    assert "Invalid metadata in README.md" in refused(tmp_path / "model", "somebody/vae")
    assert "the hub refused another/vae" in refused(models / "kl", "another/vae")
    hub.refuse_commits = True
    assert "the hub refused somebody/vae" in refused(models / "kl", "somebody/vae")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "log in with `hf auth login`" in refused(models / "kl", "somebody/vae")
    monkeypatch.delenv("HF_TOKEN")
    assert "log in with `hf auth login`" in refused(models / "kl", "somebody/vae")
    assert hub.files == {}


def test_without_a_network_it_is_one_line(hub: Hub, models: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    status, _, errors = run("push", models / "kl", "somebody/vae")
    assert status == 2
    assert errors[0].startswith("the hub http://127.0.0.1:9 cannot be reached: ")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run("push", models / "kl", "somebody/vae")[2] == ["HF_HUB_OFFLINE is set: unset it to reach the hub"]
