"""The promises about the code's shape: who may import whom, one door to each compiled module, module heads, words.

The layers are drawn in engine/README.md. A module may import its own layer and those that its row names.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from engine.archive.view import View

ROOT = Path(__file__).resolve().parent.parent
ENGINE = ROOT / "engine"

LEAVES = {"errors", "config", "metrics", "log", "guards", "sizes", "interpreter", "boot", "stops"} | {
    "setting",
    "titles",
    "rate_limiter",
    "delivery",
    "sole_worker",
    "environments",
    "kept_log",
    "time_prefix",
    "tls",
    "lease",
}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "metrics": set(),
    "log": set(),
    "kept_log": set(),
    "time_prefix": set(),
    "environments": set(),
    "guards": {"log"},
    "sizes": set(),
    "setting": set(),
    "titles": set(),
    "log_settings": {"setting"},
    "audit_settings": {"setting"},
    "interpreter": set(),
    "boot": set(),
    "stops": set(),
    "rate_limiter": set(),
    "delivery": set(),
    "sole_worker": {"errors", "log"},
    "lease": set(),
    "totals": set(),
    "certificates": {"errors"},
    "tls": {"errors", "certificates"},
    "prometheus": {"totals"},
    "config": {"errors", "setting", "titles", "log_settings"},
    "access": {"config", "setting", "titles"},
    "accounts": LEAVES | {"access"},
    "identity": LEAVES | {"access", "accounts"},
    "dicom": LEAVES,
    "storage": LEAVES,
    "keys": LEAVES | {"storage"},
    "objects": LEAVES | {"storage", "keys"},
    "cluster": LEAVES | {"storage"},
    "ul": LEAVES | {"dicom"},
    "hl7": LEAVES,
    "fhir": LEAVES | {"dicom"},
    "journal": LEAVES | {"storage"},
    "mapping": LEAVES | {"hl7", "orders", "dicom"},
    "messaging": LEAVES | {"access", "dicom", "hl7", "journal", "mapping", "orders", "storage"},
    "audit": LEAVES | {"access", "storage"},
    "index": LEAVES | {"access", "storage", "dicom"},
    "archive": LEAVES
    | {"access", "accounts", "audit", "cluster", "index", "journal", "keys", "objects", "orders", "storage", "dicom"},
    "orders": LEAVES | {"access", "storage", "dicom"},
    "dimse": LEAVES | {"ul", "dicom"},
    "net": LEAVES | {"dimse", "ul"},
    "runtime": LEAVES | {"audit", "access", "accounts", "identity", "archive", "orders"},
    "outbox": LEAVES | {"archive", "runtime"},
    "services": LEAVES
    | {"audit", "access", "accounts", "identity", "runtime", "archive", "dimse", "net", "ul", "dicom", "index"}
    | {"orders"},
    "viewer": {"errors"},
    "web": LEAVES
    | {"audit", "viewer", "access", "accounts", "identity", "runtime", "archive", "dicom", "prometheus", "totals"}
    | {"fhir", "messaging", "orders", "outbox"},
    "exchange": LEAVES
    | {"audit", "access", "fhir", "runtime", "archive", "dicom", "index", "net", "dimse", "outbox", "services", "web"}
    | {"hl7", "journal", "messaging", "orders", "ul"},
    "reports": LEAVES
    | {"access", "accounts", "archive", "audit", "certificates", "dicom", "dimse", "doctor", "identity", "index"}
    | {"exchange", "services", "ul", "viewer", "web"},
    "control": LEAVES,
    "server": LEAVES | {"audit", "access", "control", "runtime", "archive", "orders"},
    "doctor": LEAVES
    | {"audit", "accounts", "identity", "control", "access", "archive", "net", "web", "certificates"}
    | {"objects", "orders"},
    "app": LEAVES
    | {"accounts", "archive", "audit", "server", "control", "runtime", "services", "web", "net", "exchange", "doctor"}
    | {"journal", "messaging", "orders", "storage"},
    "cli": LEAVES
    | {"totals", "prometheus", "access", "app", "doctor", "control", "archive", "index", "dicom", "net", "services"}
    | {"accounts", "audit", "exchange", "objects", "viewer", "certificates", "reports", "orders"}
    | {"cluster", "fhir", "hl7", "journal", "mapping", "messaging"},
    "__main__": {"interpreter", "cli"},
    "_ext": set(),
}
"""Layer → the layers below it that it may import. A missing name is a promise."""

DOORS = {
    "elements": "dicom/elements.py",
    "reencoder": "dicom/reencoding.py",
    "scan": "dicom/elements.py",
    "json_model": "dicom/json_model.py",
    "crc32c": "storage/record.py",
    "encrypted_heads": "storage/encryption.py",
    "multipart": "web/multipart.py",
    "disk": "storage/files.py",
    "heads": "index/apply/bulk.py",
    "receive": "dimse/assembly.py",
    "transmit": "dimse/assembly.py",
    "send_buffer": "web/outlet.py",
}
"""Compiled module → the only module of ours that imports it."""

OPEN_INDEX = {
    "engine.index.catalog",
    # Values that go in and come out.
    "engine.index.format.entry",
    "engine.index.format.statements",
    "engine.index.format.trash_record",
    "engine.index.format.types",
    # Queries as people and identifiers write them.
    "engine.index.query.explanation",
    "engine.index.query.key_values",
    "engine.index.query.keywords",
    "engine.index.query.plan",
    "engine.index.query.private_attributes",
    # Works by way of the catalogue; the keeper calls it.
    "engine.index.upkeep.rebuild",
}
"""What other rooms may import of the index: nothing in it shows a transaction or a table."""

FRONT_ENDS = {"services", "web", "exchange", "runtime", "server", "doctor", "cli"}

ARCHIVE_FACE = {
    "engine.archive.view",
    "engine.archive.archive",
    # The way in, and the ways out.
    "engine.archive.ingest.live",
    "engine.archive.ingest.request",
    "engine.archive.ingest.stream",
    "engine.archive.exports",
    "engine.archive.subscriptions",
    "engine.archive.subscription_events",
    "engine.archive.questions",
    "engine.archive.retrieve",
    "engine.archive.study_facts",
    "engine.archive.selection",
    "engine.archive.metadata",
    "engine.archive.rendering",
    "engine.archive.transcoding",
    # What happens, as events; requests for storage commitment.
    "engine.archive.feed",
    "engine.archive.commitment",
    # What people who look after it see and do, for the command line and for HTTP.
    "engine.archive.admin",
    # What is sent to and pulled from other archives in the background.
    "engine.archive.jobs",
    # Patients, orders and messages of the hospital.
    "engine.archive.hospital",
    "engine.archive.messages",
    "engine.archive.order_links",
    "engine.archive.reconciliation",
    "engine.archive.supplies",
    # What servers did in the last days.
    "engine.archive.stats_history",
    # Files of others: a DICOM medium is sent by `send` as it is imported by `import`.
    "engine.archive.interchange",
}
"""What every front end may import of the archive: modules, or rooms."""

ARCHIVE_COMMANDS = ARCHIVE_FACE | {
    # Use cases that a command or a background job runs, each on an open Archive or a folder.
    "engine.archive.announced",
    "engine.archive.copies",
    "engine.archive.lifecycle",
    "engine.archive.nodes",
    "engine.archive.tiering",
    "engine.archive.verify",
    "engine.archive.writer_watch",
    # How a folder and its configuration are read before there is an Archive.
    "engine.archive.extras",
    "engine.archive.layout",
    "engine.archive.pace",
}
"""And what the command line, the server's processes and the doctor may."""

INDEX_VALUES = {
    "engine.index.format.entry",
    "engine.index.format.types",
    "engine.index.query.explanation",
    "engine.index.query.key_values",
    "engine.index.query.keywords",
    "engine.index.query.plan",
    "engine.index.query.private_attributes",
}
"""What front ends may import of the index: values, and queries as people and identifiers write them."""

BANNED = {
    r"\bFIXME\b": "file an issue",
    r"\bTODO\b": "file an issue",
    r"\btime\.sleep\(": "wait for the thing itself",
    r"\bexcept\s*:": "name what is caught",
    r"\bbreakpoint\(": "left over",
}


LOOKED_AT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Attribute, ast.Call, ast.Raise)


@cache
def modules() -> tuple[Path, ...]:
    return tuple(sorted(ENGINE.rglob("*.py")))


@cache
def all_sources() -> tuple[Path, ...]:
    others = (("tests", "*.py"), ("perf", "*.py"), ("tools", "*.py"), ("ext", "*.py*"), ("ext", "*.pxd"))
    return modules() + tuple(path for folder, pattern in others for path in sorted((ROOT / folder).rglob(pattern)))


@cache
def text(path: Path) -> str:
    return path.read_text()


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """The nodes that the tests below look at: each file is parsed and walked once."""
    return tuple(node for node in ast.walk(ast.parse(text(path), str(path))) if isinstance(node, LOOKED_AT))


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(name: str) -> str:
    """engine.storage.record → storage; engine itself → "" (its version is for all)."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.fixture(scope="module", autouse=True)
def forgotten_at_the_end() -> Iterator[None]:
    """Each collection of garbage in the tests that follow in this process would walk the trees of all files."""
    yield
    nodes.cache_clear()
    text.cache_clear()


@cache
def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir() or path.with_suffix(".pyi").exists()


@cache
def imported(path: Path) -> tuple[tuple[int, str], ...]:
    """Every module of ours that a module imports, with its line; also inside functions."""
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[tuple[int, str]]:
    package = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "engine")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])]
                )
            if base.split(".")[0] != "engine":
                continue
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if is_module(inner) else base


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_every_layer_is_known() -> None:
    found = {layer_of(dotted(path)) for path in modules()} - {""}
    assert found <= set(MAY_IMPORT), "a new layer needs its row in MAY_IMPORT and its place in engine/README.md"


def test_the_layers_have_no_circle() -> None:
    def below(layer: str, seen: tuple[str, ...]) -> None:
        assert layer not in seen, " imports ".join([*seen, layer])
        for other in MAY_IMPORT[layer]:
            below(other, (*seen, layer))

    for layer in MAY_IMPORT:
        below(layer, ())


def test_layers_point_down() -> None:
    wrong = []
    for path in modules():
        layer = layer_of(dotted(path))
        for line, name in imported(path):
            target = layer_of(name)
            if target in ("", layer, "_ext") or layer == "":
                continue
            if name.endswith("settings"):
                continue  # a room owns its settings (`test_settings_need_nothing_of_their_room`)
            if target not in MAY_IMPORT[layer]:
                wrong.append(f"{where(path, line)}: {layer} may not import {name}")
    assert not wrong, "\n".join(wrong)


def test_settings_need_nothing_of_their_room() -> None:
    """The configuration is below all rooms and made of their settings."""
    wrong = [
        f"{where(path, line)}: settings may not import {name}"
        for path in modules()
        if path.stem.endswith("settings")
        for line, name in imported(path)
        if not name.endswith("settings") and layer_of(name) not in ("setting", "titles")
    ]
    assert not wrong, "\n".join(wrong)


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules each of which reaches every other one of its set (Tarjan's strongly connected components)."""
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        numbers[module] = lowest[module] = len(numbers)
        path.append(module)
        for other in arrows[module]:
            if other not in numbers:
                visit(other)
            if other in path:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == numbers[module]:
            start = path.index(module)
            if len(path) > start + 1:
                found.append(set(path[start:]))
            del path[start:]

    for module in arrows:
        if module not in numbers:
            visit(module)
    return found


def test_circles_are_found() -> None:
    arrows = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"e"}, "f": {"g"}, "g": {"f", "a"}}
    assert sorted(map(sorted, circles(arrows))) == [["a", "b", "c"], ["f", "g"]]


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports for types count: what needs another's types cannot be read without it."""
    names = {dotted(path) for path in modules()}
    arrows = {dotted(path): {name for _, name in imported(path)} & names for path in modules()}
    assert not circles(arrows), "\n".join(" ".join(sorted(circle)) for circle in circles(arrows))


ASKED_THROUGH_A_VIEW = {
    name
    for name, member in vars(View).items()
    if inspect.isfunction(member)
    and not name.startswith("_")
    and name not in ("read", "pieces", "dataset", "bookmark_at")
}
"""The questions that have an answer for each scope; the others are about an instance that one of these has returned."""

ASKS_FOR_ITSELF = {
    "services/pull_plan.py": "what is stored already, for a pull of the operator or of a job",
    "web/audited.py": "the study that somebody tried to read, for the audit log",
    "services/coercion.py": "values of an instance that was selected in scope",
}


def test_front_ends_ask_the_archive_only_through_the_view_of_their_client() -> None:
    wrong = []
    for path in modules():
        name = str(path.relative_to(ENGINE))
        if not name.startswith(("services/", "web/")) or name in ASKS_FOR_ITSELF:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ASKED_THROUGH_A_VIEW:
                receiver = ast.unparse(node.value)
                if receiver.rpartition(".")[2] in ("archive", "_archive"):
                    wrong.append(f"{where(path, node.lineno)}: {receiver}.{node.attr} asks for everything")
    assert not wrong, "\n".join(wrong)


LOADS_ARE_CALLED_BY = {f"engine.cli.commands.{name}" for name in ("bench", "doctor", "simulate", "size")}
LOADS_MAY_IMPORT = {
    "bench": {"", "doctor", "sizes"},
    "hospital": {"", "dicom", "dimse", "errors", "hl7", "messaging", "net", "ul"},
}
"""What these packages of `perf` may import of the engine. Its other programs measure single modules and import them."""


def test_the_loads_are_above_the_engine_and_only_commands_call_them() -> None:
    callers = {
        dotted(path)
        for path in modules()
        for node in nodes(path)
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "perf")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "perf" for alias in node.names))
    }
    assert callers and callers <= LOADS_ARE_CALLED_BY, sorted(callers - LOADS_ARE_CALLED_BY)
    wrong = [
        f"{where(path, line)}: perf.{package} may not import {name}"
        for package, allowed in LOADS_MAY_IMPORT.items()
        for path in sorted((ROOT / "perf" / package).rglob("*.py"))
        for line, name in imported(path)
        if layer_of(name) not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_one_door_to_each_compiled_module() -> None:
    wrong = []
    for path in modules():
        for line, name in imported(path):
            if name.startswith("engine._ext."):
                door = DOORS.get(name.split(".")[2])
                if door != path.relative_to(ENGINE).as_posix():
                    wrong.append(f"{where(path, line)}: only engine/{door} may import {name}")
    assert not wrong, "\n".join(wrong)


def test_nobody_reaches_into_the_index() -> None:
    """Other rooms see its catalogue and its values; a table or a transaction is seen by nobody else."""
    wrong = [
        f"{where(path, line)}: {name} is the index's own"
        for path in modules()
        if layer_of(dotted(path)) != "index"
        for line, name in imported(path)
        if layer_of(name) == "index" and name not in OPEN_INDEX
    ]
    assert not wrong, "\n".join(wrong)


def _opens(face: set[str], name: str) -> bool:
    """Whether a list of modules and rooms names a module."""
    return name in face or any(name.startswith(f"{room}.") for room in face)


def test_front_ends_see_the_facade_of_the_archive() -> None:
    """Nothing of the log, of the index its values only, of the archive what the lists above name."""
    wrong = []
    for path in modules():
        layer = layer_of(dotted(path))
        if layer not in FRONT_ENDS:
            continue
        archive = ARCHIVE_COMMANDS if layer in ("server", "doctor", "cli") else ARCHIVE_FACE
        faces = {"archive": archive, "index": INDEX_VALUES, "storage": set[str]()}
        wrong += [
            f"{where(path, line)}: {layer} may not import {name}"
            for line, name in imported(path)
            if layer_of(name) in faces and not _opens(faces[layer_of(name)], name)
        ]
    assert not wrong, "\n".join(wrong)


def test_only_rooms_of_the_archive_take_it_apart() -> None:
    wrong = [
        f"{where(path, node.lineno)}: the parts of an archive are for its own rooms"
        for path in modules()
        if layer_of(dotted(path)) != "archive"
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and node.attr == "parts" and "archive" in ast.unparse(node.value).lower()
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_index_the_accounts_and_the_orders_know_lmdb() -> None:
    """And of each only what opens it."""
    users = {
        path.relative_to(ENGINE).as_posix()
        for path in modules()
        for node in nodes(path)
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "lmdb" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lmdb")
    }
    doors = ("environments.py", "index/database/", "accounts/database.py", "orders/database.py")
    assert users and all(user.startswith(doors) for user in users), sorted(users)


def test_every_compiled_module_has_a_door_and_a_typed_face() -> None:
    stems = {path.stem for path in (ROOT / "ext").glob("*.pyx")}
    assert stems <= set(DOORS), "a new compiled module needs its row in DOORS"
    missing = [stem for stem in sorted(stems) if not (ENGINE / "_ext" / f"{stem}.pyi").exists()]
    assert not missing, f"no stub in engine/_ext for {missing}"
    stray = [path.name for path in (ENGINE / "_ext").glob("*.pyi") if path.stem not in stems]
    assert not stray, f"stubs of no compiled module: {stray}"


def test_packages_are_packages() -> None:
    folders = {path.parent for path in modules()} - {ENGINE}
    bare = [folder.relative_to(ROOT).as_posix() for folder in sorted(folders) if not (folder / "__init__.py").exists()]
    assert not bare, f"no __init__.py in {bare}: the wheel would leave them out"


def test_every_module_opens_with_its_role() -> None:
    role = re.compile(r'\s*(#[^\n]*\n\s*)*r?(""".|#)')
    bare = [path.relative_to(ROOT).as_posix() for path in all_sources() if not role.match(text(path))]
    assert not bare, f"no docstring: {bare}"


@pytest.mark.parametrize("pattern", BANNED)
def test_banned_words_are_absent(pattern: str) -> None:
    found = []
    for path in all_sources():
        if path == Path(__file__):
            continue
        if not re.search(pattern, text(path)):
            continue
        for number, line in enumerate(text(path).splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{where(path, number)}: {line.strip()} ({BANNED[pattern]})")
    assert not found, "\n".join(found)


def test_nothing_prints() -> None:
    """Results go through engine.cli.output, events through engine.log; perf and tools are programs of their own."""
    found = [
        where(path, node.lineno)
        for path in all_sources()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in ("engine", "tests") and "print(" in text(path)
        for node in nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not found, "\n".join(found)


def pages() -> list[Path]:
    rooms = ("engine", "perf", "tests", "tools")
    return [ROOT / "README.md", *(path for room in rooms for path in sorted((ROOT / room).rglob("*.md")))]


def test_no_page_has_a_dead_link() -> None:
    for page in pages():
        for link in re.findall(r"\]\(([^)#\s]+)", text(page)):
            assert "://" in link or (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"


def test_no_merge_is_left_half_done() -> None:
    marks = ("<" * 7 + " ", ">" * 7 + " ")
    for path in (*pages(), *all_sources()):
        half = [number for number, line in enumerate(text(path).splitlines(), 1) if line.startswith(marks)]
        assert not half, where(path, half[0])


def test_generated_files_name_a_generator_that_exists() -> None:
    for path in modules():
        head = text(path)[:1000]
        match = re.search(r"(?i)generated (?:by|with) `?([\w./-]+\.py)", head)
        if match:
            assert (ROOT / match[1]).exists(), f"{path.relative_to(ROOT)} names {match[1]}, which does not exist"


def test_postponed_annotations_everywhere() -> None:
    bare = [
        path.relative_to(ROOT).as_posix()
        for path in all_sources()
        if path.suffix == ".py"
        and "from __future__ import annotations" not in text(path)
        and any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in nodes(path))
    ]
    assert not bare, f"no `from __future__ import annotations`: {bare}"


def test_no_module_is_dead() -> None:
    """A module that nothing imports is either an entry point or left over."""
    entries = {"engine.__main__", "engine.archive.transcoding.codec_process", "engine.cli.backend"}
    entries |= {"engine.server.caretaker", "engine.app.worker", "engine.audit.verify_process"}
    entries |= {"engine.app.messages"}
    entries |= {"engine.archive.rendering.render_process"}
    reached = {name for path in modules() for _, name in imported(path)}
    reached |= {name.rpartition(".")[0] for name in reached}
    dead = [
        name
        for name in map(dotted, modules())
        if name not in reached | entries and not name.startswith("engine.cli.commands") and name.count(".") > 1
    ]
    assert not dead, f"nothing imports {dead}"


def test_engine_raises_no_nameless_errors() -> None:
    """Callers catch EngineError; what else is raised is Python's own protocol (KeyError, TypeError, …)."""
    nameless = {"RuntimeError", "Exception", "OSError", "AssertionError"}
    wrong = [
        f"{where(path, node.lineno)}: raises {node.exc.func.id}"
        for path in modules()
        for node in nodes(path)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id in nameless
    ]
    assert not wrong, "\n".join(wrong)


def test_every_file_that_begins_early_exists() -> None:
    names = (ROOT / "tests" / "longest.txt").read_text().split()
    assert names and [name for name in names if not (ROOT / "tests" / name).is_file()] == []
    assert len(set(names)) == len(names)
