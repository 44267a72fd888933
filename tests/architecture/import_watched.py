"""Imports modules and ends with a message if one of them opens, starts or reads something by that.

Run as a program, `import_watched.py ROOT MODULE…`, in a process of its own: audit hooks cannot be taken back.
"""

import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any
from unittest import mock

FORBIDDEN_EVENTS = {
    "os.fork",
    "os.posix_spawn",
    "socket.bind",
    "socket.connect",
    "sqlite3.connect",
    "subprocess.Popen",
}
# Frames between the code that reads a variable and the place where the reading is noticed.
WAY_TO_ENVIRONMENT = {"os", "_collections_abc", "collections.abc"}


class Opened(BaseException):
    """No module may catch this."""


def forbid_opening() -> None:
    """From now on, connecting, starting a program or writing a file raises Opened."""

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set("wax+").intersection(arguments[1])
        if event in FORBIDDEN_EVENTS or writes:
            raise Opened(f"importing causes {event} {arguments}")

    sys.addaudithook(watch)


def forbid_environment(root: str) -> None:
    """From now on, code below `root` that reads a variable raises Opened; libraries may read theirs."""
    environment = type(os.environ)
    read_one: Callable[[Any, str], str] = environment.__getitem__
    read_all: Callable[[Any], Iterator[str]] = environment.__iter__

    def guarded_one(self: Any, name: str) -> str:
        _refuse_ours(root, sys._getframe(1), name)
        return read_one(self, name)

    def guarded_all(self: Any) -> Iterator[str]:
        _refuse_ours(root, sys._getframe(1), "all of it")
        return read_all(self)

    mock.patch.multiple(environment, __getitem__=guarded_one, __iter__=guarded_all).start()


def _refuse_ours(root: str, frame: FrameType | None, name: str) -> None:
    while frame is not None and frame.f_globals.get("__name__") in WAY_TO_ENVIRONMENT:
        frame = frame.f_back
    reader = frame.f_code.co_filename if frame is not None else ""
    if reader.startswith(root) and "site-packages" not in reader:
        raise Opened(f"importing reads the environment: {name}")


def main(root: str, *modules: str) -> None:
    """Import `modules` from `root`; exit with a message at the first that does more than be imported."""
    sys.path.insert(0, root)
    forbid_opening()
    forbid_environment(root)
    for module in modules:
        try:
            importlib.import_module(module)
        except Opened as error:
            sys.exit(f"{module}: {error}")
        if threading.active_count() > 1:
            sys.exit(f"{module}: importing starts a thread")


if __name__ == "__main__":
    main(*sys.argv[1:])
