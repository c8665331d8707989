"""A request's file, into a folder: sent as a form, or fetched from a URL."""

from __future__ import annotations

import asyncio
import json
import mimetypes
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import PureWindowsPath
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from unidual_zoo.data.media import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, is_media
from unidual_zoo.names import printable
from unidual_zoo.serving.fetching import AllowList, opened, save, stated_length, too_large
from unidual_zoo.serving.limits import Limits, Refused

FORM, JSON = "multipart/form-data", "application/json"
FIELD = "file"  # the part of a form
MAX_JSON = 2**16  # bytes
MAX_NAME = 255  # characters of a file's name that are repeated in the answer
TRUNCATED = "the form ends early"


class Received(NamedTuple):
    """A file that lies at `path`, and what the client calls it."""

    path: str
    name: str


async def receive(request: Request, folder: str, limits: Limits, allowed: AllowList) -> Received:
    """The request's file, in the folder; whoever asked removes it.

    Raises:
        Refused: there is none, or it is none that is taken. Nothing is left in the folder then.
    """
    kind, options = parse_options_header(request.headers.get("Content-Type"))
    if kind.decode("latin-1") not in (FORM, JSON):
        raise Refused(415, f"a request is {FORM} with a part {FIELD!r}, or {JSON} with a url")
    if kind.decode("latin-1") == FORM:
        return await _uploaded(request, options.get(b"boundary", b""), folder, limits)
    url = _url(await _body(request, limits))
    allowed.check(url)
    return await asyncio.to_thread(_fetched, url, folder, limits)


async def _uploaded(request: Request, boundary: bytes, folder: str, limits: Limits) -> Received:
    with _Form(boundary, folder) as form:
        await _pieces(request, limits, most=limits.request_bytes, take=form.take)
        return form.received()


async def _body(request: Request, limits: Limits) -> bytes:
    body = bytearray()
    await _pieces(request, limits, most=MAX_JSON, take=body.extend)
    return bytes(body)


async def _pieces(request: Request, limits: Limits, *, most: int, take: Callable[[bytes], object]) -> None:
    """Gives the body to `take`, piece by piece, and stops where it is larger than allowed or takes too long."""
    length = 0
    if stated_length(request.headers) > most:
        raise too_large(limits)
    try:
        async with asyncio.timeout(limits.receive_seconds):
            async for piece in request.stream():
                length += len(piece)
                if length > most:
                    raise too_large(limits)
                take(piece)
    except TimeoutError:
        raise Refused(408, f"the request took more than {limits.receive_seconds:g} seconds") from None


def _url(body: bytes) -> str:
    try:
        url = json.loads(body)["url"]
    except (ValueError, LookupError, TypeError):
        url = None
    if not isinstance(url, str):
        raise Refused(400, 'the body must be JSON of the form {"url": "https://…"}')
    return url


def _fetched(url: str, folder: str, limits: Limits) -> Received:
    deadline = time.monotonic() + limits.receive_seconds
    with opened(url, limits) as response:
        suffix = _suffix(urlsplit(url).path, response.headers.get_content_type())
        path, out = _new_file(folder, suffix)
        try:
            with out:
                save(response, out, limits, deadline=deadline)
        except BaseException:
            os.unlink(path)
            raise
    return Received(path, url[:MAX_NAME])


def _new_file(folder: str, suffix: str) -> tuple[str, BinaryIO]:
    handle, path = tempfile.mkstemp(suffix=suffix, dir=folder)
    return path, os.fdopen(handle, "wb")


def _suffix(name: str, kind: str) -> str:
    """The extension by which a file is read: that of its name or, where that is none of ours, of its type."""
    suffix = PureWindowsPath(name).suffix.lower()
    for known in (suffix, *mimetypes.guess_all_extensions(kind)):
        if is_media(f"_{known}"):
            return known
    allowed = " ".join(sorted(IMAGE_EXTENSIONS | VIDEO_EXTENSIONS))
    raise Refused(415, f"the file's name must have an extension of an image or a video: {allowed}")


class _Form:
    """A form that comes in pieces: the part `file` goes to a file in the folder, which stays if all is well."""

    def __init__(self, boundary: bytes, folder: str) -> None:
        self._folder = folder
        self._path: str | None = None
        self._name: str | None = None
        self._out: BinaryIO | None = None
        self._header, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, str] = {}  # of the part that comes
        self._ended = False
        self._skips = True
        if not boundary:
            raise Refused(400, "the form names no boundary")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._begin,
                    "on_part_data": self._write,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise Refused(400, f"the form cannot be read ({error})") from None

    def __enter__(self) -> _Form:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._out is not None:
            self._out.close()
        if error is not None and self._path is not None:
            os.unlink(self._path)

    def take(self, piece: bytes) -> None:
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise Refused(400, f"the form cannot be read ({error})") from None

    def received(self) -> Received:
        if not self._ended:
            raise Refused(400, TRUNCATED)
        if self._path is None or self._name is None:
            raise Refused(400, f"the form has no part {FIELD!r} with a file")
        return Received(self._path, self._name)

    def _header_end(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value).decode("latin-1")
        self._header.clear()
        self._value.clear()

    def _begin(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._skips = options.get(b"name") != FIELD.encode() or b"filename" not in options
        if self._skips:
            return
        if self._path is not None:
            raise Refused(400, "a request has one file, the form has several")
        name = PureWindowsPath(options[b"filename"].decode(errors="replace")).name
        kind, _ = parse_options_header(self._headers.get(b"content-type"))
        self._path, self._out = _new_file(self._folder, _suffix(name, kind.decode("latin-1")))
        self._name = printable(name)[:MAX_NAME]

    def _write(self, data: bytes, start: int, end: int) -> None:
        if not self._skips and self._out is not None:
            self._out.write(data[start:end])

    def _end(self) -> None:
        self._ended = True
