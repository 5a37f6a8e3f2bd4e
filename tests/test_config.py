"""engine.config: precedence, the words of its errors, and what is derived from it."""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path

import msgspec
import pytest

from engine import config as configuration
from engine import titles
from engine.config import (
    Attribute,
    Coercion,
    Config,
    Http,
    Limits,
    Peer,
    Storage,
    environment_variable,
    load,
    parse_peer,
    reference,
    second_copies,
)
from engine.config.composition import KEY_OF_LISTS, LISTS, TABLES, to_path
from engine.errors import ConfigError

PEER = '[[peer]]\naet = "STORE1"\nhost = "127.0.0.1"\nport = 104\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "filmroom.toml"
    path.write_text(text)
    return path


def message(folder: Path, text: str, env: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(written(folder, text), env or {}, {})
    return str(caught.value)


def test_everything_has_a_default() -> None:
    config = load(None, {}, {})
    assert (config.aet, config.dicom_port, config.durability, config.peers) == ("FILMROOM", 11112, "durable", ())
    assert config.workers >= 1


def test_flags_override_the_environment_the_file_and_the_default_in_this_order(tmp_path: Path) -> None:
    path = written(tmp_path, 'aet = "FILE"\ndicom_port = 1\nworkers = 3\n')
    env = {"FILMROOM_AET": "ENV", "FILMROOM_DICOM_PORT": "2"}
    config = load(path, env, {"aet": "FLAG", "dicom_port": None})
    assert (config.aet, config.dicom_port, config.workers, config.http.port) == ("FLAG", 2, 3, 8080)
    origins = configuration.origins(path, env, {"aet": "FLAG", "dicom_port": None})
    assert [origins[key] for key in ("aet", "dicom_port", "workers", "http.port")] == [
        "flag",
        "environment",
        "file",
        "default",
    ]


def test_every_key_has_an_environment_variable_of_its_own() -> None:
    keys = [key for key, _ in Config().describe()]
    variables = [environment_variable(key) for key in keys]
    assert len(set(variables)) == len(variables)
    assert environment_variable("limits.idle_timeout_s") == "FILMROOM_LIMITS_IDLE_TIMEOUT_S"


@pytest.mark.parametrize("key", [key for key, _ in Config().describe()])
def test_every_default_can_be_set_by_its_environment_variable(key: str) -> None:
    config = Config()
    value = dict(config.describe())[key]
    text = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    assert dict(load(None, {environment_variable(key): text}, {}).describe())[key] == value


def test_environment_of_tables_and_booleans_is_read() -> None:
    env = {"FILMROOM_LIMITS_IDLE_TIMEOUT_S": "7.5", "FILMROOM_COMPACTION_ENABLED": "false", "OTHER": "x"}
    config = load(None, env, {})
    assert config.limits.idle_timeout_s == 7.5
    assert not config.compaction.enabled


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('durabilty = "durable"', "unknown key 'durabilty'; did you mean 'durability'?"),
        ('durability = "durble"', "'durble' is not one of durable, write-behind; did you mean 'durable'?"),
        ("port = 3", "unknown key 'port'; it belongs to [tls] or [http]; did you mean 'dicom_port'?"),
        ("segment_bytes = 3", "unknown key 'segment_bytes'; it belongs to [storage]"),
        ("[limits]\nidle_timeout = 3", "[limits]: unknown key 'idle_timeout'; did you mean 'idle_timeout_s'?"),
        ('[limits]\nidle_timeout_s = "3"', "limits.idle_timeout_s: expected `float`, got `str` ('3')"),
        ("dicom_port = 70000", "dicom_port: expected `int` <= 65535, not 70000"),
        ("limits = 3", "limits is a table, written [limits]"),
        ("aet = 'FAR TOO LONG A TITLE'", "is not an AE title: 1 to 16 characters"),
        ("x = [", "is not TOML"),
        ('[peer]\naet = "A"', "each written [[peer]]"),
        ('[[peer]]\naet = "A"\nport = 104', "[[peer]] 'A': host is missing: host and port go together"),
        ('[[peer]]\naet = "A"\nmay = ["destination"]', "[[peer]] 'A': without host and port, or a url,"),
        ('[[peer]]\naet = "A"\nhots = "h"', "[[peer]] 'A': unknown key 'hots'; did you mean 'host'?"),
        ('[[peer]]\nhost = "h"\nport = 1', "[[peer]] number 1: object missing required field `aet`"),
        (
            '[[peer]]\naet = "A"\nmay = ["stor"]',
            "'stor' is not one of store, query, retrieve, worklist, workitem, destination",
        ),
        ('[[role]]\nname = "R"\nmay = ["stor"]', "[[role]] 'R': may[0]: 'stor' is not one of store, query, retrieve,"),
        ('[[role]]\nname = "R"\nstudy = "all"', "[[role]] 'R': unknown key 'study'; did you mean 'studies'?"),
        ('[[peer]]\naet = "A"\ntransfer_syntaxes = ["jpeg"]', "'jpeg' is not a UID"),
        ('[query]\noptions = ["relationl"]', "query.options[0]: 'relationl' is not one of relational, date-time"),
        (PEER + 'query_options = ["fuzy"]', "[[peer]] 'STORE1': query_options[0]: 'fuzy' is not one of"),
        ("[query]\nslow = 3", "[query]: unknown key 'slow'; did you mean 'slow_s'?"),
        (PEER + PEER, "there are two [[peer]] with aet 'STORE1'"),
        ("[limits]\npdu_length_accept_max = 65536", "pdu_length_accept_max is less than limits.pdu_length_max"),
        ("[storage]\nsegment_bytes = 1048576", "less than limits.stream_threshold_bytes"),
    ],
)
def test_an_error_names_its_key_and_position_in_the_file(tmp_path: Path, text: str, expected: str) -> None:
    error = message(tmp_path, text)
    assert expected in error
    assert "filmroom.toml" in error or "less than" in expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('durable = "peer"', 'durable = "peer" needs second_copy.replica'),
        ('durable = "object"', 'durable = "object" needs object_store.url'),
        (PEER + 'durable = "peer"', "the [[peer]] 'STORE1': durable = \"peer\" needs second_copy.replica"),
        ('durable = "peer"\ndurability = "write-behind"', 'needs durability = "durable"'),
    ],
)
def test_what_a_second_copy_needs_must_be_there(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in message(tmp_path, text)


def test_a_list_in_the_environment_is_separated_by_commas_or_spaces() -> None:
    for text in ("relational,fuzzy", "relational fuzzy", "relational, fuzzy"):
        assert load(None, {"FILMROOM_QUERY_OPTIONS": text}, {}).query.options == ("relational", "fuzzy")
    assert load(None, {"FILMROOM_QUERY_OPTIONS": ""}, {}).query.options == ()
    with pytest.raises(ConfigError, match=r"^FILMROOM_QUERY_OPTIONS: .*is not one of relational"):
        load(None, {"FILMROOM_QUERY_OPTIONS": "relational,fuzy"}, {})


def test_errors_in_flags_and_environment_name_them() -> None:
    with pytest.raises(ConfigError, match=r"^--dicom-port: "):
        load(None, {}, {"dicom_port": 70000})
    with pytest.raises(ConfigError, match=r"^FILMROOM_DICOM_PORT: expected `int`"):
        load(None, {"FILMROOM_DICOM_PORT": "dicom"}, {})
    with pytest.raises(ConfigError, match="FILMROOM_DURABILTY; did you mean FILMROOM_DURABILITY"):
        load(None, {"FILMROOM_DURABILTY": "durable"}, {})
    load(None, {"FILMROOM_CONFIG": "x", "FILMROOM_SOMETHING_ELSE": "y"}, {})


def test_a_missing_file_is_an_error_only_when_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert configuration.find_file(None, {}) is None
    assert configuration.find_file(None, {"FILMROOM_CONFIG": "a.toml"}) == Path("a.toml")
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load(Path("a.toml"), {}, {})
    written(tmp_path, "")
    assert configuration.find_file(None, {}) == Path("filmroom.toml")


def test_relative_paths_in_a_file_start_at_its_folder(tmp_path: Path) -> None:
    path = written(tmp_path, 'data = "images"\n[log]\nwire_trace = "/var/trace"\n')
    config = load(path, {}, {})
    assert config.data == tmp_path / "images"
    assert config.log.wire_trace == Path("/var/trace")
    assert load(path, {}, {"data": "here"}).data == Path("here")


def test_a_peer_without_an_address_is_not_a_destination(tmp_path: Path) -> None:
    text = PEER + '[[peer]]\naet = "STORE2"\n[[peer]]\naet = "WEB"\nurl = "http://pacs/dicom-web"\n'
    config = load(written(tmp_path, text), {}, {})
    assert [peer.may[-1] for peer in config.peers] == ["destination", "workitem", "destination"]


def test_the_first_of_two_peers_whose_titles_mean_the_same_is_found() -> None:
    """Written otherwise, but one form of both is the same bytes."""
    latin, utf_8 = Peer(aet="RÃ¶"), Peer(aet="Rö")
    assert Config(peers=(latin, utf_8)).peer("RÃ¶") is latin
    assert Config(peers=(utf_8, latin)).peer("RÃ¶") is utf_8


@pytest.mark.parametrize(
    "text",
    ['[[peer]]\naet = "WARD"\ndestinations = ["SIXTEEN_AND_MORE_"]\n', '[[coercion]]\naets = ["SIXTEEN_AND_MORE_"]\n'],
)
def test_an_invalid_title_in_a_list_is_a_readable_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"\[0\]: 'SIXTEEN_AND_MORE_' is not an AE title: 1 to 16 characters"):
        load(written(tmp_path, text), {}, {})


def test_the_destinations_of_a_peer_are_read(tmp_path: Path) -> None:
    text = PEER + 'destinations = ["WS1", "RÖNTGEN"]\n[[peer]]\naet = "NONE"\ndestinations = []\n'
    config = load(written(tmp_path, text), {}, {})
    assert [config.settings_of(aet).destinations for aet in ("STORE1", "NONE", "X")] == [("WS1", "RÖNTGEN"), (), None]


def test_titles_without_a_peer_share_their_settings() -> None:
    config = Config(peers=(Peer(aet="CT1"),))
    assert config.settings_of("X") is config.settings_of("Y")
    assert config.settings_of("X").peer is None
    assert config.settings_of("CT1").peer is config.peers[0]


def test_a_look_up_does_not_change_equality_of_a_configuration() -> None:
    one, other = Config(peers=(Peer(aet="CT1"),)), Config(peers=(Peer(aet="CT1"),))
    assert one.peer("CT1") == other.peers[0]
    assert one == other
    assert one.to_json() == other.to_json()
    moved = msgspec.structs.replace(one, peers=(Peer(aet="CT2"),))
    assert (moved.peer("CT1"), moved.peer("CT2")) == (None, moved.peers[0])


def test_the_first_coercion_rule_that_names_a_receiver_applies_and_one_without_names_applies_to_the_rest() -> None:
    ours = [Coercion(aets=("WS",)), Coercion(aets=("WS", "RÖNTGEN")), Coercion(), Coercion(aets=("LATE",)), Coercion()]
    config = Config(coercion=tuple(ours))
    assert config.coercion_of("WS") is ours[0]
    assert config.coercion_of("RÃ\x96NTGEN") is ours[1]
    assert config.coercion_of("LATE") is config.coercion_of("ANY") is ours[2]
    assert Config(coercion=(ours[0],)).coercion_of("ANY") is None


def test_settings_of_a_peer_override_general_ones(tmp_path: Path) -> None:
    more = 'durability = "write-behind"\nduplicates = "replace"\nasynchronous_window = 0\n'
    config = load(written(tmp_path, PEER + more), {}, {})
    assert (config.settings_of("STORE1").durability, config.settings_of("X").durability) == ("write-behind", "durable")
    assert (config.settings_of("STORE1").duplicates, config.settings_of("X").duplicates) == ("replace", "keep-first")
    assert (config.settings_of("STORE1").receive_window, config.settings_of("X").receive_window) == (1, 16)
    peer = config.peer("STORE1")
    assert peer is not None
    assert peer.send_window == 1
    assert Peer(aet="A", asynchronous_window=8).send_window == 8
    assert Peer(aet="A").send_window == 1


def test_queries_of_a_peer_have_its_own_options_and_limit(tmp_path: Path) -> None:
    text = '[query]\noptions = ["relational"]\n[limits]\nquery_results_max = 50\n'
    text += PEER + 'query_options = ["fuzzy"]\nquery_results_max = 0\n'
    text += '[[peer]]\naet = "STRICT"\nquery_options = []\n'
    config = load(written(tmp_path, text), {}, {})
    assert [config.settings_of(aet).query_options for aet in ("STORE1", "STRICT", "X")] == [
        ("fuzzy",),
        (),
        ("relational",),
    ]
    assert [config.settings_of(aet).query_results_max for aet in ("STORE1", "STRICT", "X")] == [0, 50, 50]
    merged, restart = load(None, {}, {}).reloaded(config)
    assert (merged.settings_of("X").query_options, restart) == (("relational",), [])


def test_a_reload_applies_peers_and_limits_and_names_the_rest(tmp_path: Path) -> None:
    before = load(None, {}, {})
    fresh = load(written(tmp_path, f'aet = "NEW"\n{PEER}[limits]\nassociations_max = 5\n'), {}, {})
    merged, restart = before.reloaded(fresh)
    assert merged.limits.associations_max == 5
    assert merged.peer("STORE1") is not None
    assert merged.aet == "FILMROOM"
    assert restart == ["aet"]


def test_workers_get_the_same_configuration(tmp_path: Path) -> None:
    config = load(written(tmp_path, f'data = "d"\n{PEER}[log]\nwire_trace = "t"\n'), {}, {})
    assert Config.from_json(config.to_json()) == config


def test_every_default_can_be_handed_to_workers() -> None:
    """A default that its own constraint does not allow lets no server start that has such a table."""
    for table in (*TABLES.values(), *(table for _, table in LISTS.values())):
        hints = typing.get_type_hints(table, include_extras=True)
        for each in msgspec.structs.fields(table):
            default = each.default if each.default is not msgspec.NODEFAULT else None
            if each.default_factory is not msgspec.NODEFAULT:
                default = each.default_factory()
            if default is not None:
                text = msgspec.json.encode(default, enc_hook=str)
                found = msgspec.json.decode(text, type=hints[each.name], dec_hook=to_path)
                assert found == default, f"{table.__name__}.{each.name}"


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load(None, {}, {}).aet = "X"  # type: ignore[misc]


def test_peers_are_named_on_a_command_line_by_title_or_address(tmp_path: Path) -> None:
    config = load(written(tmp_path, PEER + '[[peer]]\naet = "SENDER"\n'), {}, {})
    assert configuration.parse_peer(config, "STORE1").port == 104
    ad_hoc = configuration.parse_peer(config, "ANY@[::1]:11113")
    assert (ad_hoc.aet, ad_hoc.host, ad_hoc.port) == ("ANY", "::1", 11113)
    for text, told in (
        ("STORE", "did you mean 'STORE1'"),
        ("SENDER", "has neither host and port nor a url"),
        ("A@h:99999", "AET@HOST:PORT"),
    ):
        with pytest.raises(ConfigError, match=told):
            configuration.parse_peer(config, text)


def test_every_key_is_documented_with_its_reason() -> None:
    for section in (Config, *TABLES.values(), *(table for _, table in LISTS.values())):
        source = inspect.getsource(section)
        for field in msgspec.structs.fields(section):
            if section is Config and field.name in (*TABLES, *(name for name, _ in LISTS.values())):
                continue
            after = source.split(f"\n    {field.name}: ", 1)[1]
            assert after.split("\n    ")[1].startswith('"""'), f"{section.__name__}.{field.name} has no docstring"


def test_a_reload_does_not_change_fixed_settings_and_reports_them() -> None:
    before = Config()
    fresh = Config(
        aet="OTHER",
        http=Http(port=9, enabled=False, allow=("10.0.0.0/8",)),
        limits=Limits(associations_max=7),
        storage=Storage(versions_max=3),
    )
    after, restart_needed = before.reloaded(fresh)
    assert (after.aet, after.http.port, after.http.enabled, after.storage) == ("FILMROOM", 8080, True, Storage())
    assert (after.http.allow, after.limits.associations_max) == (("10.0.0.0/8",), 7)
    assert set(restart_needed) == {"aet", "http.port", "http.enabled", "storage.versions_max"}
    entries = {entry.key: entry for entry in reference.entries()}
    assert {key for key in restart_needed if not entries[key].about.endswith("A change needs a restart.")} == set()
    assert "restart" not in entries["http.allow"].about and "FIXED" not in entries["http.port"].type


def test_an_invalid_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="http.*1.2.3.4/99"):
        load(written(tmp_path, '[http]\nallow = ["1.2.3.4/99"]\n'), {}, {})


ATTRIBUTE = '[[attribute]]\ntag = "StudyStatusID"\nlevel = "study"\n'


def test_extra_attributes_are_tables_of_the_file_and_may_be_missing(
    tmp_path: Path,
) -> None:
    assert load(None, {}, {}).attributes is None
    assert load(written(tmp_path, ""), {}, {}).attributes == ()
    config = load(written(tmp_path, ATTRIBUTE + "indexed = true\n"), {}, {})
    assert config.attributes == (Attribute(tag="StudyStatusID", level="study", indexed=True),)
    assert ("attribute.StudyStatusID.indexed", True) in config.describe()
    assert Config.from_json(config.to_json()) == config
    _, needing = config.reloaded(load(written(tmp_path, ATTRIBUTE), {}, {}))
    assert needing == ["attribute.StudyStatusID.indexed"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[attribute]\ntag = "StudyStatusID"\n', "each written [[attribute]]"),
        ('[[attribute]]\nlevel = "study"\n', "[[attribute]] number 1: tag is missing"),
        ('[[attribute]]\ntag = "StudyStatusID"\n', "[[attribute]] 'StudyStatusID': level is missing"),
        (ATTRIBUTE.replace('"study"', '"stdy"'), "level: 'stdy' is not one of patient, study, series, instance"),
        (ATTRIBUTE + "index = true\n", "unknown key 'index'; did you mean 'indexed'?"),
        (ATTRIBUTE + "indexed = 1\n", "[[attribute]] 'StudyStatusID': indexed: "),
    ],
)
def test_errors_in_a_table_of_an_attribute_are_reported(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in message(tmp_path, text)


@pytest.mark.parametrize(
    ("written", "forms"),
    [
        ("CT1", ("CT1",)),
        ("RÖNTGEN", ("RÖNTGEN", "RÃ\x96NTGEN")),
        ("РЕНТГЕН", ("Ð\xa0Ð\x95Ð\x9dÐ¢Ð\x93Ð\x95Ð\x9d",)),
        ("ÄÖÜÄÖÜÄÖÜÄ", ("ÄÖÜÄÖÜÄÖÜÄ",)),  # 20 bytes in UTF-8
        ("РЕНТГЕНРЕНТГЕН", ()),
        ("A" * 17, ()),
    ],
)
def test_a_title_beyond_ascii_has_the_forms_that_fit_the_wire(written: str, forms: tuple[str, ...]) -> None:
    assert titles.wire_forms(written) == forms
    for form in forms:
        assert len(form.encode("latin-1")) <= 16
        assert titles.names((written,), form)
        assert titles.readable(form) == written
    assert not titles.names((written,), "OTHER")
    assert not titles.names((written,), "ÖTHER")


def test_a_peer_beyond_ascii_is_found_by_its_name_and_by_received_bytes() -> None:
    config = Config(peers=(Peer(aet="RÖNTGEN", may=("store",)),))
    for came in ("RÖNTGEN", "RÃ\x96NTGEN"):
        assert config.peer(came) is config.peers[0]
    assert config.peer("ROENTGEN") is None
    assert config.peer("RÃNTGEN") is None


@pytest.mark.parametrize("text", ["RÖNTGEN@ray.example:104", "РЕНТГЕН@10.0.0.1:11112"])
def test_a_peer_on_a_command_line_may_be_beyond_ascii(text: str) -> None:
    assert parse_peer(Config(), text).aet == text.partition("@")[0]


@pytest.mark.parametrize("aet", ["РЕНТГЕНРЕНТГЕН", "A\\\\B", " A", "A\x85", "\x7f"])
def test_an_invalid_title_is_refused(aet: str) -> None:
    with pytest.raises(ConfigError, match="AE title"):
        parse_peer(Config(), f"{aet}@host:104")


def test_every_error_is_reported_in_one_run(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        'dicom_port = -5\nnonsense = 1\n[limits]\nidle_timeout_s = "long"\nassociations_max = 0\n'
        '[storage]\nverify_reads = false\n[[peer]]\naet = "A\\\\B"\n[[peer]]\nhost = "h"\nport = 1\n'
        '[[peer]]\naet = "C"\nhost = "h"\n[[retention]]\nname = "x"\n',
    )
    with pytest.raises(ConfigError) as caught:
        load(path, {"FILMROOM_WORKERS": "many"}, {"aet": ""})
    error = str(caught.value)
    assert error.startswith("11 mistakes:\n"), error
    for part in (
        "dicom_port: expected `int` >= 0, not -5",
        "unknown key 'nonsense'",
        "limits.idle_timeout_s",
        "limits.associations_max",
        "verify_reads was removed: every instance is verified against its checksum",
        "is not an AE title",
        "[[peer]] number 2",
        "[[peer]] 'C': port is missing",
        "older_than_days",
        "FILMROOM_WORKERS",
        "--aet",
    ):
        assert part in error, f"{part}: {error}"


def test_the_example_is_a_valid_configuration_with_every_default(tmp_path: Path) -> None:
    text = reference.example()
    plain = load(written(tmp_path, ""), {}, {"data": "d"})
    assert load(written(tmp_path, text), {}, {"data": "d"}) == plain
    assert {entry.key for entry in reference.entries()} >= {key for key, _ in Config().describe()}
    assert not [entry.key for entry in reference.entries() if not entry.about]
    # Uncommented, each key of the top and of the tables is its default.
    single = text.partition("#[[peer]]")[0]
    said = re.sub(r"^#(\w+ = (?!   #))", r"\1", single, flags=re.MULTILINE)
    assert load(written(tmp_path, said), {}, {"data": "d"}) == plain


def test_the_file_is_searched_here_in_the_data_directory_and_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "srv" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    data = tmp_path / "srv" / "data"
    for folder in (tmp_path / "srv", data, tmp_path / "here"):
        written(folder, "")
        found = configuration.find_file(None, {}, data)
        assert found is not None and found.resolve() == folder / "filmroom.toml"
    assert configuration.find_file(None, {"FILMROOM_DATA": str(data)}) == Path("filmroom.toml")
    assert configuration.find_file("other.toml", {}, data) == Path("other.toml")
    assert len(configuration.places(None, {}, data)) == 4


def test_the_type_of_every_setting_is_in_words() -> None:
    types = {entry.key: entry.type for entry in reference.entries()}
    assert types["http.enabled"] == "true or false"
    assert types["station.limit"] == "a whole number from 0 to 1000000, or not set"
    assert types["object_store.group_bytes"] == "a whole number from 65536 (64 KiB) to 268435456 (256 MiB)"
    assert types["limits.artim_timeout_s"] == "a number above 0, up to 86400"
    assert types["worklist.arrival"] == 'one of "keep", "complete"'
    assert types["accept_unknown_peers"] == 'true or false, or "loopback"'
    assert types["hl7_source.charset"] == "the name of a character set"
    assert types["peer.networks"] == "a list; each item is an address or a network"
    of_python = ("Annotated", "Meta(", "Literal", "tuple", "None", " | ", "_Codec", "bool", "float", "matches")
    assert [(key, type_) for key, type_ in types.items() if any(mark in type_ for mark in of_python)] == []


def test_unknown_keys_of_every_list_are_reported_with_their_place(tmp_path: Path) -> None:
    names = [name for name in LISTS if name != "attribute"]  # it has required keys: above
    text = message(tmp_path, "".join(f'[[{name}]]\nnonsense = "x"\n' for name in names))
    missing = [name for name in names if f"[[{name}]] number 1: unknown key 'nonsense'" not in text]
    assert missing == []


def test_a_reload_does_not_make_answers_wait_for_a_copy_that_only_a_restart_begins(tmp_path: Path) -> None:
    before = load(None, {}, {})
    replica = '[second_copy]\nreplica = "tls://b:2763"\n'
    for text in (f'durable = "peer"\n{replica}', f'{PEER}durable = "peer"\n{replica}'):
        fresh = load(written(tmp_path, text), {}, {})
        with pytest.raises(ConfigError, match="needs second_copy.replica, which takes a restart"):
            second_copies.reloaded(before, fresh)
        merged, restart_needed = second_copies.reloaded(fresh, load(written(tmp_path, replica), {}, {}))
        assert (merged.settings_of("STORE1").durable, restart_needed) == ("local", [])
        assert second_copies.reloaded(merged, fresh)[0] == fresh
    merged, restart_needed = second_copies.reloaded(fresh, before)
    assert (merged.second_copy.replica, restart_needed) == ("tls://b:2763", ["second_copy.replica"])


def test_every_list_is_described_by_a_key_that_its_tables_have() -> None:
    assert KEY_OF_LISTS.keys() == LISTS.keys(), "a reload would not see what is not described"
    assert [table for table, key in KEY_OF_LISTS.items() if key and key not in LISTS[table][1].__struct_fields__] == []
