"""`Idempotency-Key`: a POST that is repeated does not happen twice (draft-ietf-httpapi-idempotency-key-header).

Guaranteed, for a day and for one caller: however often a POST is sent with the same key, at once or again, whatever
breaks meanwhile, its transactions are committed by one of them only.
- The key is claimed in a transaction of its own before the handler runs. Each transaction that the handler commits
  notes in the claim that the request took effect, or is rolled back where the claim has been lost.
- An answer below 400 is kept, and given to whoever repeats the request, with `Idempotent-Replayed: true`. So is
  another one if something took effect before it. Else the key is free again: nothing has happened.
- An answer that says `Cache-Control: no-store` holds a secret, and is not kept: the repeated request is told that.
- Where the answer was lost (the process died, or the database did not say whether it had committed), the claim knows
  whether there was an effect. If not, it is free at once or, after a crash, in two minutes. If so, the answer is 409:
  the caller looks at what there is.

The same key for another request is 422, for one that is still under way 409. Without the header nothing is done, and
nothing is asked of the database. Routes that anybody may call do not have it: there is no caller to keep keys apart by.

Limit: of a body, the first megabyte and the length are compared; larger are imports alone.
"""

from __future__ import annotations

import hashlib
import re
from http import HTTPStatus
from typing import IO, Any, Final

from flask import Request, Response, g, has_app_context
from loguru import logger
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import BadRequest, ClientDisconnected

from api.access import Access
from api.bodies import MOST_BODY_BYTES
from api.problems import Problem, Refused
from api.request_log import request_id, route
from api.services import services
from scheduler.domain.access import Actor
from scheduler.store import idempotency
from scheduler.store.idempotency import Claim, EarlierRequest, KeptAnswer

HEADER: Final = "Idempotency-Key"
REPLAYED_HEADER: Final = "Idempotent-Replayed"
MOST_KEY_CHARACTERS: Final = 255

KEY_PATTERN: Final = rf"[\x21\x23-\x5b\x5d-\x7e]{{1,{MOST_KEY_CHARACTERS}}}"

# RFC 8941 §3.3.3 writes a string between quotation marks, as the draft asks for; most callers send the bare text.
_KEY: Final = re.compile(rf'("?)({KEY_PATTERN})\1')
_KEPT_HEADERS: Final = ("Content-Type", "ETag", "Location")
_DIGEST_BYTES: Final = 16
_RETRY_SECONDS: Final = 1


def mark_commits(engine: Engine) -> None:
    """Have each commit of `engine` for a request with a key note that it took effect."""
    if not event.contains(engine, "commit", _mark):
        event.listen(engine, "commit", _mark)


def claims_a_key() -> bool:
    """Whether the present request is noted by what it commits: nobody may commit for it then, nor it for others."""
    return has_app_context() and "idempotency_claim" in g


def begin(access: Access, request: Request, g: Any) -> Response | None:
    """Claim the key of a request; the kept answer where it was carried out already. Raises Refused.

    To be called once the caller is known.
    """
    if request.method != "POST" or HEADER not in request.headers or not _has_caller(access, request):
        return None
    key = _key(request)
    actor: Actor = g.actor
    parts = services()
    fingerprint = _fingerprint(request)
    with parts.engine.begin() as connection:
        found = idempotency.claim(
            connection, actor.tenant_id, actor.name, key, fingerprint, now=parts.clock.now()
        )
    if isinstance(found, Claim):
        g.idempotency_claim = found
        return None
    return _answer_again(found, fingerprint)


def _has_caller(access: Access, request: Request) -> bool:
    noted = access.noted(request)
    return noted is not None and noted.scope is not None


def _key(request: Request) -> str:
    found = _KEY.fullmatch(request.headers[HEADER].strip())
    if found is None:
        raise BadRequest(
            f"{HEADER} must be 1 to {MOST_KEY_CHARACTERS} visible ASCII characters, such as a UUID"
        )
    return found.group(2)


def _answer_again(earlier: EarlierRequest, fingerprint: bytes) -> Response:
    if earlier.fingerprint != fingerprint:
        raise Refused(
            Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "Idempotency key used already",
                f"this {HEADER} belongs to another request: use a new one for each new request",
                "/problems/idempotency-key-used",
            )
        )
    if earlier.answer is not None:
        answer = Response(earlier.answer.body, earlier.answer.status, dict(earlier.answer.headers))
        answer.headers[REPLAYED_HEADER] = "true"
        return answer
    raise _outstanding() if earlier.took_effect else _under_way()


def _under_way() -> Refused:
    return Refused(
        Problem(
            HTTPStatus.CONFLICT,
            "Request under way",
            f"the request with this {HEADER} is still being carried out",
            "/problems/idempotency-key-in-flight",
            headers={"Retry-After": str(_RETRY_SECONDS)},
        )
    )


def _outstanding() -> Refused:
    return Refused(
        Problem(
            HTTPStatus.CONFLICT,
            "Answer lost",
            f"the request with this {HEADER} took effect, but it is still under way, or its answer was lost "
            "or is a secret that is shown once: look at what it was to change",
            "/problems/idempotency-answer-lost",
        )
    )


def _fingerprint(request: Request) -> bytes:
    """What tells this request from others; puts what it read of the body back."""
    environ = request.environ
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    length = request.content_length
    for part in (request.full_path, request.content_type or "", str(length)):
        digest.update(part.encode("utf-8", "replace") + b"\0")
    if length or "wsgi.input_terminated" in environ:
        try:
            head = environ["wsgi.input"].read(
                MOST_BODY_BYTES if length is None else min(length, MOST_BODY_BYTES)
            )
        except OSError as error:
            raise ClientDisconnected(str(error)) from None
        digest.update(head)
        environ["wsgi.input"] = _Rejoined(head, environ["wsgi.input"])
    return digest.digest()


class _Rejoined:
    """A body whose beginning has been read."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int = -1, /) -> bytes:
        """What is next, at most `size` bytes; all of it for a negative one."""
        if not self._head:
            return self._rest.read(size)
        if size < 0:
            data, self._head = self._head + self._rest.read(), b""
        else:
            data, self._head = self._head[:size], self._head[size:]
        return data


def _mark(connection: Connection) -> None:
    """Before a commit: note in it that the present request took effect. Raises Refused, so that it is rolled back."""
    claimed: Claim | None = g.get("idempotency_claim") if has_app_context() else None
    if claimed is not None and not idempotency.mark(connection, claimed):
        raise _under_way()


def finish(g: Any, response: Response) -> None:
    """Keep the answer of a request with a key, or give the key back."""
    if "idempotency_claim" not in g:
        return
    # Read first: what is streamed may still write.
    answer = KeptAnswer(response.status_code, _headers_of(response), response.get_data())
    claimed: Claim = g.pop("idempotency_claim")
    is_secret = response.cache_control.no_store
    try:
        with services().engine.begin() as connection:
            is_failure = answer.status >= HTTPStatus.BAD_REQUEST
            is_free = is_failure and idempotency.release(connection, claimed)
            if not is_free and not is_secret:
                _keep(connection, claimed, answer)
    except SQLAlchemyError as error:
        logger.bind(cause=type(error).__name__, route=route(), request_id=request_id()).warning(
            "idempotent_answer_not_kept"
        )


def _keep(connection: Connection, claimed: Claim, answer: KeptAnswer) -> None:
    """Not where the server failed: that what it began took effect is all that is known, and is noted already."""
    if answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        idempotency.keep(connection, claimed, answer, now=services().clock.now())


def _headers_of(response: Response) -> dict[str, str]:
    return {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
