"""Conditional requests and ranges as RFC 9110 has them."""

from __future__ import annotations

import pytest

from engine.web.conditional import Unsatisfiable, byte_range, check_match, is_unchanged
from engine.web.errors import PreconditionFailed

TAG = '"abc"'


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, False),
        ('"abc"', True),
        ('W/"abc"', True),
        ('"x", W/"abc" , "y"', True),
        ("*", True),
        ('"ab"', False),
        ("abc", False),
        ("", False),
        ('"abc', False),
    ],
)
def test_if_none_match_compares_weakly(value: str | None, expected: bool) -> None:
    headers = {} if value is None else {"If-None-Match": value}
    assert is_unchanged(headers, TAG) is expected
    assert is_unchanged(headers, f"W/{TAG}") is expected


@pytest.mark.parametrize("value", [None, TAG, "*", f'"x", {TAG}', f"{TAG} , W/{TAG}"])
def test_if_match_lets_the_right_tag_pass(value: str | None) -> None:
    check_match({} if value is None else {"If-Match": value}, (TAG, '"other"'))


@pytest.mark.parametrize("value", ['"x"', f"W/{TAG}", "abc", "", '"*"'])
def test_if_match_compares_strongly_and_comes_before_if_none_match(value: str) -> None:
    with pytest.raises(PreconditionFailed):
        is_unchanged({"If-Match": value, "If-None-Match": TAG}, TAG)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=10-19", (10, 20)),
        ("bytes=90-", (90, 100)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=-5", (95, 100)),
        ("bytes=-500", (0, 100)),
        ("Bytes= 1 - 2 ", (1, 3)),
        ("bytes=5-4", None),
        ("bytes=0-1,5-6", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("items=0-1", None),
        ("", None),
        ("bytes=" + "9" * 50 + "-", None),
    ],
)
def test_a_range_is_exact_or_the_whole(value: str, expected: tuple[int, int] | None) -> None:
    assert byte_range({"Range": value}, TAG, 100) == expected
    assert byte_range({"Range": value, "If-Range": TAG}, TAG, 100) == expected
    for other in ('"other"', f"W/{TAG}", "Sun, 29 Nov 2026 17:00:00 GMT"):
        assert byte_range({"Range": value, "If-Range": other}, TAG, 100) is None
    assert byte_range({"Range": value, "If-Range": f"W/{TAG}"}, f"W/{TAG}", 100) is None


@pytest.mark.parametrize("value", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_without_a_byte_is_unsatisfiable(value: str) -> None:
    with pytest.raises(Unsatisfiable) as caught:
        byte_range({"Range": value}, TAG, 100)
    assert caught.value.length == 100
    with pytest.raises(Unsatisfiable):
        byte_range({"Range": "bytes=0-"}, TAG, 0)
