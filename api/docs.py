"""The OpenAPI document and the page to read and try it: both made once, from this process's own files.

The page is Swagger UI as the package `flask-swagger-ui` carries it, and loads nothing from anywhere else. Its policy
lets it run nothing but these files and ask nobody but this API.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from threading import Lock
from typing import Final

import orjson
from flask import Blueprint, Response, current_app, request
from flask.blueprints import BlueprintSetupState

from api.endpoint import endpoint
from api.openapi import document
from api.queries import NoQuery, read_query
from api.services import services
from scheduler.errors import NotFound

docs = Blueprint("docs", __name__)

_EXTENSION: Final = "daybreak_openapi"
_UI: Final = "flask_swagger_ui"
_GZIP_WINDOW: Final = 31

_FILES: Final[Mapping[str, str]] = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
}

# Swagger UI writes style attributes and small pictures into its page; scripts are its own file and ours.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    packed: bytes
    tag: str


def _file(content: bytes) -> _File:
    packer = zlib.compressobj(wbits=_GZIP_WINDOW)
    packed = packer.compress(content) + packer.flush()
    return _File(content, packed, hashlib.blake2b(content, digest_size=12).hexdigest())


class _Document:
    """The document of one application, made when it is first asked for."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._file: _File | None = None

    def file(self) -> _File:
        with self._lock:
            if self._file is None:
                settings = services().settings
                made = document(
                    current_app,
                    url=settings.public_url or "/",
                    is_guarded=settings.api_authentication == "required",
                )
                self._file = _file(orjson.dumps(made))
            return self._file


@docs.record_once
def _prepare(state: BlueprintSetupState) -> None:
    state.app.extensions[_EXTENSION] = _Document()


@docs.get("/openapi.json")
@endpoint(None, is_listed=False)
def read_document() -> Response:
    """The OpenAPI 3.1 document of this API."""
    read_query(NoQuery)
    made: _Document = current_app.extensions[_EXTENSION]
    return _answer(made.file(), "application/json", "no-cache")


@docs.get("/docs")
@endpoint(None, is_listed=False)
def page() -> Response:
    """The page to read the document and to try the API."""
    response = current_app.send_static_file("docs.html")
    response.headers["Content-Security-Policy"] = _POLICY
    return response


@docs.get("/docs/<name>")
@endpoint(None, is_listed=False)
def asset(name: str) -> Response:
    """A file of Swagger UI."""
    if name not in _FILES:
        raise NotFound("file", name)
    return _answer(_asset(name), _FILES[name], "no-cache")


@cache
def _asset(name: str) -> _File:
    return _file(files(_UI).joinpath("dist", name).read_bytes())


def _answer(file: _File, content_type: str, caching: str) -> Response:
    is_packed = request.accept_encodings["gzip"] > 0
    response = Response(file.packed if is_packed else file.content, content_type=content_type)
    response.headers["Cache-Control"] = caching
    response.vary.add("Accept-Encoding")
    if is_packed:
        response.headers["Content-Encoding"] = "gzip"
    response.set_etag(f"{file.tag}-gzip" if is_packed else file.tag)
    return response
