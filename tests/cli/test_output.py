"""engine.cli as processes: encodings of standard output, readers that go away, terminals, Ctrl-C, errors in JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from engine.archive.admin import times
from engine.cli import exit_codes, units
from tests import samples, template
from tests.cli.commands import run

NAMES = ("Иванов^Иван", "山田^太郎", "Müller^Jörg", "Doe^😀")


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "engine", *arguments],
        capture_output=True,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )


def on_terminal(columns: int, *arguments: str) -> str:
    """What a terminal of that width shows of a command."""
    controller, terminal = pty.openpty()
    done: list[bytes] = []

    def read() -> None:
        while True:
            try:
                done.append(os.read(controller, 65536))
            except OSError:
                return

    reader = threading.Thread(target=read)
    reader.start()
    environment = {**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    process = template.start("engine", *arguments, environment=environment, terminal=terminal)
    process.wait(60)
    process.stdout.close()
    process.stderr.close()
    os.close(terminal)
    reader.join(60)
    os.close(controller)
    return b"".join(done).decode().replace("\r\n", "\n")


@pytest.fixture
def named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A patient of each script."""
    files = [samples.instance(number, patient_id=f"P{number}", patient_name=name) for number, name in enumerate(NAMES)]
    samples.write(tmp_path / "files", *files)
    assert run(capsys, "import", "files")[0] == exit_codes.OK


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "ascii:surrogateescape"},
        {"PYTHONIOENCODING": "cp1252:strict"},
        {"PYTHONIOENCODING": "utf-8"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "POSIX"},
    ],
    ids=str,
)
@pytest.mark.usefixtures("named")
@pytest.mark.rotating(7)
def test_names_of_every_script_are_shown_in_every_encoding(environment: dict[str, str]) -> None:
    encoding = environment.get("PYTHONIOENCODING", "utf-8").split(":")[0]
    done = command("find", "-r", "PatientName", **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.decode(encoding).splitlines()) == 1 + len(NAMES)
    done = command("find", "-r", "PatientName", "--json", **environment)
    assert {json.loads(line)["PatientName"] for line in done.stdout.splitlines()} == set(NAMES)
    # What is said on standard error has names, too.
    for more in ([], ["--json"]):
        done = command("find", "Пациент=1", *more, **environment)
        assert (done.returncode, b"Traceback" in done.stderr) == (exit_codes.USAGE, False)
    assert command("--help", **environment).returncode == 0


@pytest.mark.usefixtures("named")
def test_a_reader_that_goes_away_ends_a_command_quietly() -> None:
    for arguments in (["find"], ["find", "--json"], ["stats"], ["--help"], ["corrections"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [sys.executable, "-m", "engine", *arguments],
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
        os.close(writing)
        assert done.stderr == b"", arguments
        assert done.returncode in (exit_codes.READER_GONE, 1), arguments


@pytest.mark.usefixtures("filled")
@pytest.mark.rotating(2)
@pytest.mark.parametrize("columns", [80, 100])
def test_a_terminal_shows_uids_ids_and_dates_whole(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    samples.write(Path("again"), samples.instance(1, 1, 1, pixels=bytes(512)))
    assert run(capsys, "import", "again")[0] == exit_codes.OK
    run(capsys, "correct", "--study", f"{samples.ROOT}.2", "StudyDescription=x", "--reason", "a long reason " * 9)
    run(capsys, "hold", "set", "--study", f"{samples.ROOT}.1", "--reason", "a long reason " * 9)
    for arguments, pattern in (
        (["find"], rf" {re.escape(samples.ROOT)}\.[123]$"),
        (["find", "-l", "series"], rf"{re.escape(samples.ROOT)}\.1\.2$"),
        (["find", "-l", "instance"], rf"{re.escape(samples.ROOT)}\.3\.1\.1$"),
        (["find"], r"\b20260102\b"),
        (["quarantine", "list"], r"^[0-9a-f]{24}  version  \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"),
        (["corrections"], r"^[0-9a-f]{16}  \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"),
        (["hold", "list"], rf"^{re.escape(samples.ROOT)}\.1\b"),
    ):
        shown = on_terminal(columns, *arguments)
        assert re.search(pattern, shown, re.MULTILINE), (arguments, shown)
        assert max(map(len, shown.splitlines())) <= columns, (arguments, shown)


def test_find_on_a_terminal_shows_a_page_and_says_how_much_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples.write(tmp_path / "files", *(samples.instance(number, patient_id=f"P{number}") for number in range(203)))
    assert run(capsys, "import", "files")[0] == exit_codes.OK
    shown = on_terminal(100, "find")
    assert shown.count("Doe^Jane") == 200
    assert "the first 200 of 203 matches" in shown and "--all" in shown and "--offset 200" in shown
    assert on_terminal(100, "find", "--all").count("Doe^Jane") == 203
    assert on_terminal(100, "find", "--limit", "200", "--offset", "200").count("Doe^Jane") == 3
    assert len(run(capsys, "find")[1].splitlines()) == 204
    assert len(run(capsys, "find", "--json")[1].splitlines()) == 203


def test_errors_are_json_with_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, code in (
        (("find", "--json"), exit_codes.UNAVAILABLE),
        (("--json", "find"), exit_codes.UNAVAILABLE),
        (("quarantine", "--json", "list"), exit_codes.UNAVAILABLE),
        (("find", "--json", "PatinetName=1"), exit_codes.USAGE),
        (("fnd", "--json"), exit_codes.USAGE),
        (("find", "--json", "--nonsense"), exit_codes.USAGE),
        (("echo", "NOBODY", "--json"), exit_codes.CONFIGURATION),
    ):
        got, out, err = run(capsys, *arguments)
        said: dict[str, Any] = json.loads(err)
        assert (got, out, said["exit_code"]) == (code, "", code), arguments
        assert said["error"]
        assert not said["error"].startswith("filmroom:")


def test_a_mistyped_command_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean find?" in run(capsys, "fnd")[2]
    assert "did you mean release?" in run(capsys, "hold", "relase")[2]
    assert "did you mean" not in run(capsys, "xyzzy")[2]


@pytest.mark.usefixtures("filled")
def test_data_and_config_are_taken_at_every_place(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('data = "elsewhere"\n')
    os.rename("filmroom-data", "elsewhere")
    for arguments in (
        ["--data", "elsewhere", "quarantine", "list"],
        ["quarantine", "--data", "elsewhere", "list"],
        ["quarantine", "list", "--data", "elsewhere"],
        ["--config", "other.toml", "hold", "list"],
        ["hold", "--config", "other.toml", "list"],
        ["hold", "list", "--config", "other.toml"],
        ["reindex", "--data", "elsewhere", "status"],
        ["--data", "wrong", "find", "--data", "elsewhere"],
        ["--data", "elsewhere", "version"],
        ["--data", "elsewhere", "verify-backup", "--help"],
    ):
        assert run(capsys, *arguments)[0] == exit_codes.OK, arguments
    assert run(capsys, "quarantine", "list")[0] == exit_codes.UNAVAILABLE


def test_ctrl_c_says_what_was_done_until_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from engine.cli import backend

    def interrupted(config: object, paths: object, jobs: object, progress: Any, **options: object) -> None:
        progress("segments", 1, 1)
        progress("importing", 1234, 5000)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(backend, "import_paths", interrupted)
    code, out, err = run(capsys, "import", str(tmp_path))
    assert (code, out) == (exit_codes.INTERRUPTED, "")
    assert err == "interrupted; importing: 1234 of 5000\n"
    code, _, err = run(capsys, "import", str(tmp_path), "--json")
    assert json.loads(err) == {
        "error": "interrupted",
        "exit_code": exit_codes.INTERRUPTED,
        "done": "importing: 1234 of 5000",
    }


def test_sizes_rates_and_times_have_one_form() -> None:
    for text, size in (("10MB", 10**7), ("64MiB", 64 << 20), ("1.5 gb", 1_500_000_000), ("4096", 4096), ("2k", 2000)):
        assert units.parse_bytes(text) == size
    assert units.parse_rate("64MiB/s") == 64 << 20
    assert units.parse_rate("10MB") == 10**7
    for wrong in ("fast", "-1", "10 MM", "", "1e6", "ten MB"):
        with pytest.raises(ValueError, match="is not a size"):
            units.parse_bytes(wrong)
    assert re.fullmatch(r"2025-06-15T\d\d:\d\d:\d\d[+-]\d\d:\d\d", times.time_text(1_750_000_000 * 10**9))
    assert times.with_times({"a_ns": None, "b": {"c_ns": 0}, "d": 1}) == {
        "a": None,
        "b": {"c": times.time_text(0)},
        "d": 1,
    }


@pytest.mark.usefixtures("filled")
def test_rates_take_suffixes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "scrub", "run", "--rate", "64MiB/s")[0] == exit_codes.OK
    assert run(capsys, "backup", "safe", "--rate", "100MB")[0] == exit_codes.OK
    code, _, err = run(capsys, "backup", "safe", "--rate", "fast")
    assert (code, "write 10MB/s" in err) == (exit_codes.USAGE, True)
