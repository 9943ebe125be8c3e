"""What is in the JSON that Gradio's routes and tools are sent: files that were uploaded here, and no addresses."""

from pathlib import Path
from typing import Any

from gradio_client.utils import is_http_url_like

from latent_ae.app.perimeter.bodies import require_size
from latent_ae.service.errors import BadRequest

_DEPTH = 32


class Contents:
    """Checks for files of one folder, of a bounded size."""

    def __init__(self, folder: Path, *, upload_bytes: int) -> None:
        self._folder = folder
        self._upload_bytes = upload_bytes

    def check(self, value: Any, depth: int = 0) -> None:
        """Raise BadRequest unless every file that a request names was uploaded here."""
        if depth > _DEPTH:
            raise BadRequest(f"the request is nested deeper than {_DEPTH} levels")
        if isinstance(value, dict):
            if "path" in value:
                self._require_uploaded(value["path"])
            for inner in value.values():
                self.check(inner, depth + 1)
        elif isinstance(value, list):
            for inner in value:
                self.check(inner, depth + 1)

    def check_tool(self, arguments: Any) -> None:
        """Raise ServiceError for what a tool may not be given: its files are data: URIs, which are written to disk."""
        for argument in arguments.values() if isinstance(arguments, dict) else ():
            require_no_url(argument)
            if isinstance(argument, str):
                require_size(_decoded_bytes(argument), self._upload_bytes)
        self.check(arguments)

    def _require_uploaded(self, path: object) -> None:
        require_no_url(path)
        if not isinstance(path, str) or "\0" in path or not Path(path).resolve().is_relative_to(self._folder):
            raise BadRequest("the file was not uploaded to this server: upload it first")


def require_no_url(path: object) -> None:
    """Raises BadRequest."""
    if is_http_url_like(str(path).strip().lower()):
        raise BadRequest("addresses are not fetched: upload the file, or give it as a data: URI from a tool")


def _decoded_bytes(uri: str) -> int:
    """Bytes that a data: URI in base64 stands for."""
    return 3 * (len(uri) - uri.find(",") - 1) // 4 - uri[-2:].count("=")
