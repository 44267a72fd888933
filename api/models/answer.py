"""What all answers have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """Something that the API sends; it may have more members one day, and callers must not mind."""

    model_config = ConfigDict(use_attribute_docstrings=True)
