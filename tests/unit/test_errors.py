import inspect
import pickle
import re

import pytest

from scheduler import errors
from scheduler.domain.field_error import FieldError
from scheduler.errors import DaybreakError, InvalidInput, LeaseLost, NotFound


def test_the_drawn_tree_is_the_tree() -> None:
    drawing = inspect.getdoc(DaybreakError) or ""
    drawn: dict[str, str] = {}
    parents = {0: "DaybreakError"}
    for line in drawing.splitlines():
        if match := re.match(r"([│ ]*)[├└]── (\w+)", line):
            depth = len(match[1]) // 4
            drawn[match[2]] = parents[depth]
            parents[depth + 1] = match[2]
    real = {
        name: kind.__base__.__name__
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, DaybreakError) and kind is not DaybreakError and kind.__base__ is not None
    }
    assert drawn == real


def test_invalid_input_lists_every_breach() -> None:
    error = InvalidInput([FieldError("/timezone", "unknown time zone"), FieldError("", "too large")])
    assert [breach.pointer for breach in error.errors] == ["/timezone", ""]
    assert str(error) == "/timezone: unknown time zone; too large"


def test_invalid_input_needs_a_breach() -> None:
    with pytest.raises(ValueError, match="at least one"):
        InvalidInput([])


@pytest.mark.parametrize(
    "error",
    [InvalidInput([FieldError("/a", "b")]), NotFound("user", 7), LeaseLost(3), errors.Conflict("taken")],
)
def test_errors_cross_process_boundaries(error: DaybreakError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_errors_say_what_they_are_about() -> None:
    assert str(NotFound("user", "ada")) == "no user 'ada'"
    assert str(LeaseLost(3)) == "the lease on batch 3 is lost"
