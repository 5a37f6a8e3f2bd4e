"""engine.cli.tables: how lists are laid out for a terminal; nothing that is copied is ever broken."""

from __future__ import annotations

import pytest

from engine.cli import tables
from engine.cli.tables import Column, Form, cut, whole, wrapped

UID = "1.2.840.113619.2.55.3.604688119.969.1268071029.320.11234567"
COLUMNS = (
    whole("date"),
    Column("patient", form=Form.CUT, least_width=20),
    cut("description"),
    whole("bytes"),
    whole("uid", "study"),
    wrapped("reason"),
)
ROWS = [
    ["20260102", "Doe^Jane", "CT of everything that can be looked at in one go", "12", UID, "the head is damaged"],
    ["20260103", "山田^太郎" * 6, "", "9999999", UID + ".1", "no word of this sentence may be lost " * 4],
]


@pytest.mark.parametrize("width", [20, 40, 80, 100, 132, 400])
def test_whole_cells_are_never_broken_and_sentences_lose_no_word(width: int) -> None:
    head, body = tables.lines(COLUMNS, ROWS, width, frozenset({3}))
    text = "\n".join(body)
    for row in ROWS:
        assert row[0] in text and row[3] in text
        assert any(row[4] in line.split() for line in body)
    assert " ".join(text.split()).count("sentence") == 4
    assert {word for line in head for word in line.split()} == {
        "date",
        "patient",
        "description",
        "bytes",
        "study",
        "reason",
    }
    if width >= 80:
        assert max(map(tables.cell_width, [*head, *body])) <= width


def test_what_fits_is_one_line_an_entry_with_its_columns_below_each_other() -> None:
    head, body = tables.lines(
        (whole("id"), cut("text"), whole("n")), [["a", "x", "5"], ["bb", "yy", "15"]], 80, frozenset({2})
    )
    assert head == ["id  text   n"]
    assert body == ["a   x      5", "bb  yy    15"]


def test_columns_without_a_value_are_left_out_before_an_entry_takes_a_second_line() -> None:
    columns = (whole("time"), whole("address of the peer"), whole("count"), whole("detail"))
    rows = [["12:00", "", "7", "a"], ["12:01", "", "17", "b"]]
    assert tables.lines(columns, rows, 80)[0] == ["time   address of the peer  count  detail"]
    head, body = tables.lines(columns, rows, 25, frozenset({2}))
    assert (head, body) == (["time   count  detail"], ["12:00      7  a", "12:01     17  b"])
    assert len(tables.lines(columns, [["", "", "", ""]], 25)[0]) == 2


def test_descriptions_are_cut_before_an_entry_takes_a_second_line() -> None:
    columns = (cut("text"), whole("uid"))
    _, body = tables.lines(columns, [["a description that is long" * 3, UID]], 80)
    (line,) = body
    assert line.endswith(UID) and "…" in line and len(line) <= 80


def test_what_does_not_fit_goes_on_in_lines_of_its_own_without_empty_ones() -> None:
    columns = (whole("id"), whole("uid"), wrapped("reason"))
    _, body = tables.lines(columns, [["7", UID, "why"], ["8", UID, ""]], 60)
    assert body == ["7", f"    {UID}", "    why", "8", f"    {UID}"]


def test_wide_characters_count_for_two_cells() -> None:
    _, body = tables.lines((cut("name"), whole("id")), [["山田", "1"], ["Doe", "2"]], 80)
    assert [tables.cell_width(line) for line in body] == [7, 7]
