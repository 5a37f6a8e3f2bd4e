"""dicom.transfer_syntax: every syntax that can be stored has the right properties."""

from __future__ import annotations

from pydicom.uid import UID, AllTransferSyntaxes

from engine.dicom import transfer_syntax
from engine.dicom.transfer_syntax import ALL, UNCOMPRESSED, TransferSyntax, of

PAPYRUS_AND_FORMS_OF_EXCHANGE = ("1.2.840.10008.1.20", "1.2.840.10008.1.2.6.1", "1.2.840.10008.1.2.6.2")


def test_properties_are_those_of_pydicom() -> None:
    for uid in AllTransferSyntaxes:
        syntax, theirs = of(uid), UID(uid)
        assert syntax.known, uid
        assert syntax.explicit_vr == (not theirs.is_implicit_VR)
        assert syntax.big_endian == (not theirs.is_little_endian)
        assert syntax.convertible == (uid in {s.uid for s in UNCOMPRESSED})
        if "JPIP" not in syntax.name:
            assert syntax.deflated == theirs.is_deflated
        if uid != "1.2.840.10008.1.2.1.98":  # pydicom has not heard that it is encapsulated
            assert syntax.encapsulated == theirs.is_encapsulated or "2110" in syntax.name


def test_all_syntaxes_of_the_feature_list_are_known() -> None:
    stems = [*(f"4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 92, 93, 94, 95)), "5", "1.98", "8.1"]
    stems += [f"4.{n}" for n in (100, 101, 102, 103, 104, 105, 106, 107, 108, 110, 111, 112, 201, 202, 203)]
    stems += [f"4.{n}.1" for n in range(100, 107)] + ["7.1", "7.2", "7.3"]
    for stem in stems:
        assert of(f"1.2.840.10008.1.2.{stem}").known, stem


def test_uids_are_listed_once() -> None:
    assert len({syntax.uid for syntax in ALL}) == len(ALL)
    assert not {syntax.uid for syntax in ALL} & set(PAPYRUS_AND_FORMS_OF_EXCHANGE)


def test_an_unknown_syntax_is_explicit_little_endian_and_encapsulated() -> None:
    syntax = of("1.2.3.4")
    assert syntax == TransferSyntax("1.2.3.4", "1.2.3.4", known=False)
    assert (syntax.explicit_vr, syntax.big_endian, syntax.encapsulated, syntax.known) == (True, False, True, False)
    assert of("1.2.3.4") is syntax
    assert not syntax.convertible


def test_encoding_is_the_two_bits_of_the_walker() -> None:
    assert [syntax.encoding for syntax in UNCOMPRESSED] == [0, 1, 3, 1]
    assert (transfer_syntax.EXPLICIT_VR, transfer_syntax.BIG_ENDIAN) == (1, 2)
