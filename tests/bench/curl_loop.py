"""The limit of one HTTP request a message: a bare libcurl multi loop in a process of its own.

    python -m tests.bench.curl_loop URL REQUESTS

keeps 64 requests like ours in flight, does nothing else, and prints the seconds they took.
"""

from __future__ import annotations

import sys
from time import perf_counter
from typing import Final

import click
import pycurl

IN_FLIGHT: Final = 64
_BODY: Final = (
    '{"id":"1.%d.20260101.0.email","channel":"email","to":"user-%d@example.com","subject":"Happy birthday",'
    '"text":"Hello, Ann Example %d!"}'
)


def main() -> None:
    """Run the loop."""
    url, requests = sys.argv[1], int(sys.argv[2])
    bodies = [(_BODY % (number, number, number)).encode() for number in range(requests)]
    started = perf_counter()
    run(url, bodies)
    click.echo(perf_counter() - started)


def run(url: str, bodies: list[bytes]) -> None:
    """Post all bodies; raises RuntimeError where one is not answered 200."""
    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_MAXCONNECTS, IN_FLIGHT)
    handles = [_handle(url) for _ in range(min(IN_FLIGHT, len(bodies)))]
    waiting = iter(bodies)
    for handle in handles:
        _start(multi, handle, next(waiting))
    left = len(bodies)
    while left:
        multi.perform()
        answered = _answered(multi)
        left -= len(answered)
        for handle, body in zip(answered, waiting, strict=False):
            _start(multi, handle, body)
        if left and not answered:
            multi.select(1.0)
    multi.close()


def _answered(multi: pycurl.CurlMulti) -> list[pycurl.Curl]:
    """The handles whose requests are done, removed from the loop; raises RuntimeError where one was refused."""
    _, succeeded, failed = multi.info_read(IN_FLIGHT)
    if failed or any(handle.getinfo(pycurl.RESPONSE_CODE) != 200 for handle in succeeded):
        raise RuntimeError("the sink refused a request")
    for handle in succeeded:
        multi.remove_handle(handle)
    return succeeded


def _handle(url: str) -> pycurl.Curl:
    handle = pycurl.Curl()
    for option, value in (
        (pycurl.URL, url),
        (pycurl.POST, 1),
        (pycurl.TCP_NODELAY, 1),
        (pycurl.NOSIGNAL, 1),
        (pycurl.HTTPHEADER, ["Content-Type: application/json", "Idempotency-Key: 1.1.20260101.0.email"]),
        (pycurl.WRITEFUNCTION, len),
    ):
        handle.setopt(option, value)
    return handle


def _start(multi: pycurl.CurlMulti, handle: pycurl.Curl, body: bytes) -> None:
    handle.setopt(pycurl.POSTFIELDS, body)
    multi.add_handle(handle)


if __name__ == "__main__":
    main()
