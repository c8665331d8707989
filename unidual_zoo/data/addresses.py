"""What lies at an address http(s)://…, whole or a part of it, over connections that are kept.

Whoever asks takes an idle connection to the server, or opens one, and puts it back when the answer is whole: threads
never share one, and a process that was forked begins without its parent's. A kept connection that the server has closed
meanwhile is no fault. Behind a proxy, and where the server names another address, every request is one of urllib's own.
"""

from __future__ import annotations

import atexit
import http.client
import os
import time
import urllib.error
import urllib.request
from collections import deque
from urllib.parse import SplitResult, urlsplit

ATTEMPTS, FIRST_WAIT, TIMEOUT = 4, 0.5, 60.0  # of a request; seconds, the wait doubles
MOST_IDLE = 16  # connections to a server
OK, PARTIAL_CONTENT, REDIRECTS, SERVER_ERROR = 200, 206, (301, 302, 303, 307, 308), 500

_idle: dict[tuple[str, str], deque[http.client.HTTPConnection]] = {}  # by scheme and server


def fetch(address: str, *, span: tuple[int, int] | None = None) -> bytes:
    """What is at an address, or its bytes (offset, size); what may be a passing fault is tried again.

    Raises:
        OSError, http.client.HTTPException: it cannot be had.
        ValueError: the server gives no parts of files.
    """
    headers = {} if span is None else {"Range": f"bytes={span[0]}-{span[0] + span[1] - 1}"}
    for attempt in range(ATTEMPTS):
        try:
            return _fetch(address, headers)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < SERVER_ERROR or attempt == ATTEMPTS - 1:
                raise OSError(f"HTTP {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException):
            if attempt == ATTEMPTS - 1:
                raise
        time.sleep(FIRST_WAIT * 2**attempt)
    raise AssertionError("a request ends in an answer or an error")


def close_idle() -> None:
    """Closes the connections that nobody uses."""
    while _idle:
        _, connections = _idle.popitem()
        for connection in connections:
            connection.close()


atexit.register(close_idle)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=close_idle)  # the parent's stay open: a socket ends with its last owner


def _fetch(address: str, headers: dict[str, str]) -> bytes:
    place = urlsplit(address)
    proxied = place.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(place.hostname or "")
    data = None if proxied else _over_kept(place, headers)
    if data is None:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT) as answer:
            _check_part(answer.status, headers)
            data = answer.read()
    return data


def _over_kept(place: SplitResult, headers: dict[str, str]) -> bytes | None:
    """The answer over a kept connection, or one to be kept; None if the server names another address."""
    server = place.scheme, place.netloc.rpartition("@")[2]
    target = (place.path or "/") + (f"?{place.query}" if place.query else "")
    while True:
        connection, is_kept = _take(server)
        whole = False
        try:
            connection.request("GET", target, headers=headers)
            answer = connection.getresponse()
            if answer.status in REDIRECTS:
                return None
            if answer.status not in (OK, PARTIAL_CONTENT):
                raise urllib.error.HTTPError(place.geturl(), answer.status, answer.reason, answer.headers, None)
            _check_part(answer.status, headers)
            data = answer.read()
            whole = not answer.will_close
            return data
        except ConnectionError:
            if not is_kept:
                raise
        finally:
            if whole:
                _put_back(server, connection)
            else:
                connection.close()


def _check_part(status: int, headers: dict[str, str]) -> None:
    """Before anything is read: the whole of a shard may be gigabytes."""
    if "Range" in headers and status != PARTIAL_CONTENT:
        raise ValueError("the server gives no parts of files (no answer to Range): copy the shards")


def _take(server: tuple[str, str]) -> tuple[http.client.HTTPConnection, bool]:
    """A connection, and whether it is an idle one. That of deques is the only lock: taking and adding are atomic."""
    try:
        return _idle[server].pop(), True
    except (KeyError, IndexError):
        kind = http.client.HTTPSConnection if server[0] == "https" else http.client.HTTPConnection
        return kind(server[1], timeout=TIMEOUT), False


def _put_back(server: tuple[str, str], connection: http.client.HTTPConnection) -> None:
    idle = _idle.setdefault(server, deque())
    if len(idle) < MOST_IDLE:
        idle.append(connection)
    else:
        connection.close()
