"""Why a text could not be rendered."""


class RenderingFailed(Exception):
    """A text has no result for these values; says why in one line that holds nothing of the values."""
