"""Errors: one tree, by whose fault it is; codes and texts that clients know (protocol 6.1)."""

import ast
from pathlib import Path

import pytest

from wire import errors
from wire.errors import ClientError, Close, StackError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


@pytest.mark.parametrize(
    "name,code",
    [
        ("NORMAL", 1000),
        ("UNAUTHORIZED", 1008),
        ("TOO_BIG", 1009),
        ("SERVER_ERROR", 3005),
        ("INVALID_INPUT", 3006),
        ("INPUT_DURATION", 3007),
        ("SESSION_EXPIRED", 3008),
        ("TOO_MANY_SESSIONS", 3009),
    ],
)
def test_close_codes(name: str, code: int):
    assert Close[name] == code


def test_every_code_may_travel_in_a_close_frame():
    assert all(code in (1000, 1008, 1009, 1012) or 3000 <= code <= 4999 for code in Close)


def test_every_close_reason_fits_a_close_frame():
    for reason in (errors.REASON_ENDED, errors.REASON_SEE_ERROR):
        assert len(reason.encode()) <= 123


def test_what_is_raised_on_purpose_has_one_base():
    assert all(issubclass(kind, StackError) for kind in KINDS)
    assert all(kind.__doc__ for kind in KINDS)


def test_the_tree_in_the_docstring_is_the_tree():
    drawn = {line.split()[0] for line in (errors.__doc__ or "").splitlines() if line.startswith("    ")}
    assert drawn == {kind.__name__ for kind in KINDS}


def test_no_error_of_the_stack_hides_a_builtin():
    source = ast.parse(Path(errors.__file__).read_text())
    assert not {node.name for node in source.body if isinstance(node, ast.ClassDef)} & set(dir(__builtins__))


@pytest.mark.parametrize(
    "error,code,text",
    [
        (errors.unauthorized("missing API key"), 1008, "Unauthorized Connection: missing API key"),
        (
            errors.invalid_parameter("sample_rate", "Value error, sample_rate must be at least 8,000 Hz"),
            3006,
            "User Input Validation Error: Invalid 'sample_rate': Value error, sample_rate must be at least 8,000 Hz",
        ),
        (errors.too_many_sessions(), 3009, "Unauthorized Connection: Too many concurrent sessions"),
        (errors.shutting_down(), 3005, "Session Cancelled: The server is shutting down"),
        (errors.internal_error(), 3005, "Session Cancelled: An error occurred"),
    ],
)
def test_texts_for_the_client(error: ClientError, code: int, text: str):
    assert (error.code, error.text, str(error)) == (code, text, text)
