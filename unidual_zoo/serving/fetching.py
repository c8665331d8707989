"""Files fetched for a client, from places that the operator allows and from no others."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from email.message import Message
from typing import BinaryIO, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from unidual_zoo.serving.limits import Limits, Refused

PORTS = {"http": 80, "https": 443}
SILENCE = 10.0  # seconds without a byte
PIECE = 2**16


class Place(NamedTuple):
    """Where a URL leads: the server, and the path with its escapes resolved."""

    scheme: str
    host: str
    port: int
    path: str


class AllowList:
    """The URLs that may be fetched: those at and below the prefixes, none without prefixes.

    A prefix is a server with or without a path, which counts by whole segments: `https://media.example.org/clips`
    allows /clips/a.mp4 and not /clips2/a.mp4.

    Raises:
        ValueError: a prefix is no URL of http or https, or has a query.
    """

    def __init__(self, prefixes: Sequence[str] = ()) -> None:
        self._places = [_place(prefix, prefix=True) for prefix in prefixes]

    def check(self, url: str) -> None:
        """Raises Refused for a URL that is not allowed."""
        try:
            place = _place(url)
        except ValueError as error:
            raise Refused(400, str(error)) from None
        if not any(_is_below(place, allowed) for allowed in self._places):
            what = "URLs of its allow-list" if self._places else "no URLs, since it was started without --allow-url"
            raise Refused(403, f"the service fetches {what}")


def _place(url: str, *, prefix: bool = False) -> Place:
    """A ValueError for what is no plain URL: what could lead elsewhere than it seems is not taken apart further."""
    parts = urlsplit(url)
    plain = url.isascii() and url.isprintable() and not set(url) & set(" \\")
    if not plain or parts.scheme not in PORTS or not parts.hostname or "@" in parts.netloc or not _has_port(parts):
        raise ValueError("a URL must be http://host/path or https://host/path of ASCII characters, without a user name")
    if prefix and (parts.query or parts.fragment):
        raise ValueError(f"an allowed prefix has no query and no fragment, got {url}")
    path = parts.path
    while (resolved := unquote(path)) != path:
        path = resolved
    if {".", ".."} & set(path.replace("\\", "/").split("/")):
        raise ValueError("the path of a URL must have no . and .. in it")
    return Place(parts.scheme, parts.hostname, parts.port or PORTS[parts.scheme], path)


def _has_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False


def _is_below(place: Place, allowed: Place) -> bool:
    folder = allowed.path.rstrip("/")
    return place[:3] == allowed[:3] and (place.path == allowed.path or place.path.startswith(f"{folder}/"))


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: it may lead to a place that is not allowed."""

    def redirect_request(self, *_: object) -> None:
        return None


def opened(url: str, limits: Limits) -> http.client.HTTPResponse:
    """The answer of an allowed URL's server, whose body has not been read.

    Raises:
        Refused: there is none that can be used.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "unidual-zoo"})
    try:
        response = urllib.request.build_opener(_Stay).open(request, timeout=min(SILENCE, limits.receive_seconds))
    except urllib.error.HTTPError as error:
        error.close()
        stays = ", and redirects are not followed" if 300 <= error.code < 400 else ""
        raise Refused(502, f"the URL's server answered {error.code}{stays}") from None
    except (OSError, http.client.HTTPException) as error:  # a URLError is an OSError
        raise _unreachable(error) from None
    if stated_length(response.headers) > limits.request_bytes:
        response.close()
        raise too_large(limits)
    return response


def save(response: http.client.HTTPResponse, out: BinaryIO, limits: Limits, *, deadline: float) -> None:
    """The body to a file. `deadline` is a time of `time.monotonic`.

    Raises:
        Refused: it is larger than allowed, takes too long, or breaks off.
    """
    length = 0
    try:
        while piece := response.read1(PIECE):
            length += len(piece)
            if length > limits.request_bytes:
                raise too_large(limits)
            if time.monotonic() > deadline:
                raise TimeoutError
            out.write(piece)
    except TimeoutError:
        raise Refused(504, f"fetching the URL took more than {limits.receive_seconds:g} seconds") from None
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(error) from None
    if response.length:  # that are missing
        raise Refused(502, f"the URL's server broke off after {length:,} bytes")


def stated_length(headers: Mapping[str, str] | Message) -> int:
    """The bytes that headers announce, 0 if they do not."""
    stated = headers.get("Content-Length", "0")
    return int(stated) if stated.isdecimal() else 0


def too_large(limits: Limits) -> Refused:
    """The refusal of an upload or a download that is larger than allowed."""
    return Refused(413, f"a file may have {limits.request_bytes:,} bytes at most, with what is sent around it")


def _unreachable(error: Exception) -> Refused:
    reason = getattr(error, "reason", None) or error
    return Refused(502, f"the URL cannot be fetched ({' '.join(str(reason).split()) or type(error).__name__})")
