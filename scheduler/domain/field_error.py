"""One breach of a rule by an input, at one place of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """`pointer` says where, as a JSON Pointer (RFC 6901; `""` is the whole input), `message` what is wrong."""

    pointer: str
    message: str

    def __str__(self) -> str:
        """The place, then what is wrong with it."""
        return f"{self.pointer}: {self.message}" if self.pointer else self.message
