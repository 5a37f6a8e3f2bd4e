"""What logs say of errors: never a value that a sender wrote."""

from __future__ import annotations

import errno
import os

from engine.dicom import tags
from engine.errors import DeliveryFailed, EngineError, JobError, QueryError, for_log

NAME = "DOE^JANE"


def test_what_another_system_said_is_for_the_person_who_asks_and_for_no_log() -> None:
    error = DeliveryFailed("RIS answered C123").quoting(f"no patient {NAME}")
    assert str(error) == f"RIS answered C123: no patient {NAME}"
    assert error.for_log == for_log(error) == "RIS answered C123"
    assert str(JobError("there is no such job").quoting("")) == "there is no such job"
    assert for_log(EngineError()) == "EngineError"


def test_of_a_query_the_keys_are_named_without_their_values() -> None:
    error = QueryError(f"(0010,0030) {NAME!r}: no date", tags.PatientBirthDate)
    assert NAME in str(error)
    assert for_log(error) == "the value of (0010,0030) is not valid"
    assert for_log(QueryError(f"{NAME!r} is no level")) == "the query is not valid"


def test_of_an_error_that_nobody_expected_the_kind_and_the_place_are_named() -> None:
    try:
        int(NAME)
    except ValueError as error:
        said = for_log(error)
    assert said.startswith("ValueError at ") and "test_errors.py:" in said and NAME not in said
    assert for_log(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) == "[Errno 28] No space left on device"
