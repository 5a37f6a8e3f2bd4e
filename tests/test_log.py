"""engine.log: one event is one line, nothing of a patient unless asked, nothing that a peer could forge."""

from __future__ import annotations

import ast
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import log
from engine.config import Log


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    log.configure(Log())
    root.handlers[:] = handlers
    root.setLevel(level)


def opened(settings: Log | None = None, **context: object) -> io.StringIO:
    stream = io.StringIO()
    log.configure(settings or Log(format="json"), stream=stream, now=lambda: 1795000000.1239, **context)
    return stream


def test_an_event_is_one_line_of_json_with_its_fields() -> None:
    stream = opened(worker=2)
    log.get("net.server").info("association accepted", calling_ae_title="STORESCU", contexts=12, path=Path("/a"))
    assert json.loads(stream.getvalue()) == {
        "time": "2026-11-18T11:06:40.123Z",
        "level": "info",
        "logger": "net.server",
        "event": "association accepted",
        "worker": 2,
        "calling_ae_title": "STORESCU",
        "contexts": 12,
        "path": "/a",
    }


def test_the_console_form_is_readable() -> None:
    stream = opened(Log(format="console"))
    log.get("net").warning("peer refused", reason="no such title", code=7)
    assert stream.getvalue() == '11:06:40.123 warning net: peer refused reason="no such title" code=7\n'


def test_auto_is_json_without_a_terminal() -> None:
    stream = opened(Log())
    log.get("x").info("a")
    assert stream.getvalue().startswith('{"time"')


def test_events_below_the_level_are_not_written() -> None:
    stream = opened(Log(format="json", level="warning"))
    logger = log.get("x")
    logger.debug("a")
    logger.info("b")
    assert stream.getvalue() == ""
    assert not logger.enabled("info")
    assert logger.enabled("error")
    logger.error("c")
    assert json.loads(stream.getvalue())["level"] == "error"


def test_patient_data_is_hidden_unless_asked_for() -> None:
    stream = opened()
    log.get("x").info("found", patient_name=log.patient("DOE^JANE"))
    assert "DOE" not in stream.getvalue()
    assert json.loads(stream.getvalue())["patient_name"] == log.HIDDEN
    stream = opened(Log(format="json", patient_data=True))
    log.get("x").info("found", patient_name=log.patient("DOE^JANE"))
    assert json.loads(stream.getvalue())["patient_name"] == "DOE^JANE"


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("text", ["A\n{}", "A\r", "\x1b[2J", "\x00", "\x7f", "\x9b2J", "\u2028", "\u202e", "\ud800"])
def test_no_value_can_break_the_line_or_command_the_terminal(form: str, text: str) -> None:
    stream = opened(Log(format=form))  # type: ignore[arg-type]
    log.get("x").info("rejected", comment=text, raw=text.encode("utf-8", "replace"), nested={"a": [text]})
    written = stream.getvalue()
    assert written.endswith("\n")
    body = written[:-1]
    assert body.isprintable(), ascii(body)
    if form == "json":
        assert json.loads(body)["event"] == "rejected"


def test_keys_of_fields_never_replace_our_own() -> None:
    stream = opened()
    log.get("x").info("a", level="error", time=1, logger="y")
    line = json.loads(stream.getvalue())
    assert (line["level"], line["logger"]) == ("info", "x")
    assert (line["level_"], line["time_"]) == ("error", 1)


def test_long_values_are_cut() -> None:
    stream = opened()
    log.get("x").info("a", comment="y" * 100_000, data=b"z" * 100_000)
    assert len(stream.getvalue()) < 3 * log.VALUE_CHARACTERS_MAX
    assert "(100000 characters)" in stream.getvalue()


def test_exceptions_and_odd_values_are_written_as_text() -> None:
    stream = opened()
    log.get("x").error("failed", error=ValueError("no\nway"), big=1 << 80, none=None)
    line = json.loads(stream.getvalue())
    assert "ValueError: no" in line["error"]


def test_bound_fields_are_in_every_event() -> None:
    stream = opened()
    bound = log.get("x").bind(association=7)
    bound.info("a")
    bound.bind(peer="P").info("b", association=8)
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["association"] == 7
    assert (second["association"], second["peer"]) == (8, "P")


def test_messages_of_libraries_are_logged_in_our_form() -> None:
    stream = opened()
    logging.getLogger("asyncio").info("not this")
    try:
        raise RuntimeError("x")
    except RuntimeError:
        logging.getLogger("asyncio").exception("callback failed: %s", "why")
    line = json.loads(stream.getvalue())
    assert (line["logger"], line["level"], line["event"]) == ("asyncio", "error", "callback failed: why")
    assert "RuntimeError: x" in line["error"]


def test_log_lines_caused_by_one_peer_are_limited_and_omitted_ones_are_counted() -> None:
    moment = [100.0]
    stream = io.StringIO()
    log.configure(Log(format="json", lines_per_peer_per_s_max=3), stream=stream, now=lambda: moment[0])
    logger = log.get("net")
    for number in range(10):
        logger.about("10.0.0.1").warning("rejected", number=number)
        logger.about("10.0.0.1").bind(x=1).error("refused", number=number)
    logger.about("10.0.0.2").info("accepted")
    logger.warning("our own")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["rejected", "refused", "rejected", "accepted", "our own"]
    moment[0] = 101.0
    log.flush()
    log.flush()
    logger.about("10.0.0.1").warning("rejected")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()][5:]
    assert [line["event"] for line in lines] == ["lines about a peer were suppressed", "rejected"]
    assert (lines[0]["peer"], lines[0]["count"]) == ("10.0.0.1", 17)


def test_many_peers_share_one_limit_in_the_end() -> None:
    stream = io.StringIO()
    log.configure(Log(format="json", lines_per_peer_per_s_max=2), stream=stream, now=lambda: 7.0)
    for number in range(log.PEERS_MAX + 500):
        log.get("net").about(f"peer {number}").warning("rejected")
    assert len(stream.getvalue().splitlines()) == log.PEERS_MAX + 2


def test_a_closed_log_does_not_stop_anything() -> None:
    stream = opened()
    stream.close()
    log.get("x").info("a")


LEVELS = {"debug", "info", "warning", "error"}


def quoting_calls(source: str) -> list[int]:
    """The lines of log calls with an error's own text, which may be what another system or a patient's file said."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {node.name for node in nodes if isinstance(node, ast.ExceptHandler) and node.name}
    found = []
    for call in nodes:
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or call.func.attr not in LEVELS:
            continue
        if "log" in ast.unparse(call.func.value).lower():
            words = [*call.args, *(keyword.value for keyword in call.keywords)]
            found += [call.lineno for word in words if any(quotes(node, names) for node in ast.walk(word))]
    return found


def quotes(node: ast.AST, names: set[str]) -> bool:
    match node:
        case ast.Call(func=ast.Name("str" | "repr"), args=[ast.Name(name)]) | ast.FormattedValue(ast.Name(name)):
            return name in names or name in ("error", "failure", "refusal")
    return False


def test_no_log_has_the_text_of_an_error_but_what_for_log_says_of_it() -> None:
    planted = """
def work() -> None:
    try:
        read()
    except ValueError as mistake:
        logger.warning("not read", error=str(mistake))
        logger.about(host).error(f"not read: {mistake}")
        logger.error("not read", error=for_log(mistake), segment=str(name))
"""
    assert quoting_calls(planted) == [6, 7]
    engine = Path(log.__file__).parent
    sources = {str(path.relative_to(engine)): path.read_text() for path in engine.rglob("*.py")}
    logging_ones = {path: source for path, source in sources.items() if "logger." in source or "_log." in source}
    found = {path: quoting_calls(source) for path, source in logging_ones.items()}
    assert {path: lines for path, lines in found.items() if lines} == {}
