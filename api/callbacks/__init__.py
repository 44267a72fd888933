"""The way in for what providers report: one signed endpoint for each provider of the plan."""

from api.callbacks.routes import callbacks

__all__ = ["callbacks"]
