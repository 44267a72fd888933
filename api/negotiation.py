"""In which form a caller takes an answer (RFC 9110 §12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence

from flask import request
from werkzeug.exceptions import NotAcceptable


def chosen_form(offered: Sequence[str]) -> str:
    """The media type among `offered` that the caller likes best: the first one without a word. Raises NotAcceptable."""
    if not request.accept_mimetypes:
        return offered[0]
    chosen = request.accept_mimetypes.best_match(offered)
    if chosen is None:
        raise NotAcceptable(f"this is answered as {' or '.join(offered)}")
    return chosen
