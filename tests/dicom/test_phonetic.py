"""dicom.phonetic: spellings of one name share a code, other names do not."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dicom.phonetic import CODE_LENGTH_MAX, codes
from engine.dicom.values import fold

SAME = [
    "Meier Meyer Mayer Maier Mair Mayr",
    "Schmidt Schmitt Schmid Smith",
    "Philip Filip Philipp Phillip",
    "Müller Mueller Muller",
    "Stefan Stephan Steven",
    "Katarina Catharina Katharina Katrin Kathryn",
    "Jörg Joerg Jorg",
    "Schulz Schultz Schulze Szulc Šulc",
    "Bäcker Baecker",
    "Becker Baecker",
    "Mohammed Muhammad Mohamed",
    "Joseph Josef Youssef Yusuf",
    "Ivanov Iwanow Иванов",
    "Papadopoulos Παπαδόπουλος",
    "Tschaikowski Tchaikovsky Чайковский",
    "Dijk Dyk Dyck",
    "Erich Erik Eric",
    "Neumann Naumann Newman",
    "Alexander Aleksandr Александр",
    "Sanchez Sánchez Sanches",
    "González Gonzales",
    "Weiß Weiss Weis Weisz",
    "Jürgen Juergen Jurgen",
    "Braun Brown",
    "Schröder Schroeder Schroder",
    "Kowalski Kowalsky Ковальски",
    "Łukasz Lukas",
    "Sørensen Soerensen Sorensen",
    "O'Brien Brien",
    "Meier-Schmidt Maier",
]
OTHER = [
    "Meier Müller",
    "Meier Maria",
    "Schmidt Schneider",
    "Stefan Stein",
    "Fischer Becker",
    "Braun Bauer",
    "Anna Hans",
    "山田 山本",
    "홍길동 홍길순",
    "123 124",
]


@pytest.mark.parametrize("names", SAME)
def test_spellings_of_a_name_have_a_code_in_common(names: str) -> None:
    for one, other in combinations(names.split(), 2):
        assert codes(fold(one)) & codes(fold(other)), (one, other)


@pytest.mark.parametrize("names", OTHER)
def test_other_names_have_none(names: str) -> None:
    one, other = names.split()
    assert not codes(fold(one)) & codes(fold(other))


@given(st.text(min_size=1, max_size=30))
def test_every_word_has_short_codes_in_ascii(word: str) -> None:
    word_codes = codes(fold(word))
    assert word_codes
    for code in word_codes:
        assert code.isascii() and 1 <= len(code) <= CODE_LENGTH_MAX + 1


@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=20))
def test_a_word_in_latin_letters_has_one_or_two(word: str) -> None:
    assert 1 <= len(codes(word)) <= 2
    assert all(code.isalpha() and code.isupper() for code in codes(word))
