"""The way in for programs and people, over HTTP."""
