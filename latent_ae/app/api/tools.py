"""The endpoints as tools of language models (MCP): Gradio's server, told what it cannot know."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import gradio.mcp
from starlette.responses import JSONResponse, Response

from latent_ae.errors import UserError
from latent_ae.service.errors import ServiceError

CALL = "tools/call"
"""the method of JSON-RPC by which a tool is called"""
ROUTES = ("mcp", "mcp/", "mcp/http", "mcp/http/", "mcp/schema")
"""below /gradio_api/; not the older transport, whose answers go another way than its requests"""


def require_usable(*, accounts: bool) -> None:
    """Raise UserError if tools cannot be offered: without their package, or where a password is to be asked for."""
    if importlib.util.find_spec("mcp") is None:
        raise UserError("--mcp needs a package that is not installed: pip install -e '.[mcp]'")
    if accounts:  # Gradio asks for none at these routes, and calls its own endpoints without any
        raise UserError("--mcp with --auth-file: tools are not asked for a password; leave one of the two out")


def prepare(folder: Path, body_bytes: int) -> None:
    """Let the next launch offer tools that put their files into `folder`, and send up to `body_bytes` at a time."""
    gradio.mcp.DEFAULT_TEMP_DIR = str(folder)  # Gradio has decided it when it was imported
    # Gradio makes the server itself, and takes the class from there.
    gradio.mcp.GradioMCPServer = functools.partial(_Server, body_bytes=body_bytes)


class _Server(gradio.mcp.GradioMCPServer):
    """Asks for files as data: URIs, which are all that the guard lets through."""

    _file_data_tool_description = " Files are given as data: URIs, as data:image/png;base64,...; addresses are refused."

    def __init__(self, blocks: Any, *, body_bytes: int) -> None:
        super().__init__(blocks)
        # The package's own limit is 4 MiB, and the guard has looked at the size before.
        self.manager.asgi_app.max_body_size = body_bytes

    def simplify_filedata_schema(self, schema: dict[str, Any]) -> tuple[dict[str, Any], list[list[str | int]]]:
        simplified, places = super().simplify_filedata_schema(schema)
        for name, *_ in places:
            simplified["properties"][name]["format"] = "a data: URI"
        return simplified, places


class RefusedCall(ServiceError):  # noqa: N818 - as those that it stands for
    """A call of a tool that is refused, told as a result of the tool: another status would end the client's session."""

    def __init__(self, call: object, error: ServiceError) -> None:
        super().__init__(str(error))
        self.call = call
        self.code, self.status = error.code, error.status

    def response(self) -> Response:
        """What the client shows to its model."""
        content = [{"type": "text", "text": f"{self.code}: {self}"}]
        return JSONResponse({"jsonrpc": "2.0", "id": self.call, "result": {"content": content, "isError": True}})
