"""The scripts of OHIF as rspack builds them, made quicker to start: compiled ahead, and the entry in parts.

    (() => {                                            the entry
    var __webpack_modules__ = ({
    12345(module, exports, __webpack_require__) {       a module: a method named by its number
    …
    },
    67890(…) {…},
    });                                                 the loader, which runs the first module
    …

    (globalThis["rspackChunk"] = …).push([[1180], {     a chunk: more modules, which the loader takes from this array
    12135(…) {…},                                       whether it is there before it or after it
    }]);

A browser passes over the body of a method when it compiles a script, and parses it again, on the thread that draws,
when it is called. A function in brackets it compiles with the script, on another thread. So each module becomes
`12345:(function(…) {…}),`. The minifier keeps the brackets.

A script is compiled by one thread. So the modules of the entry, 7.5 MB, are cut into parts of about the same length,
which are chunks, and compiled beside one another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from engine.errors import ViewerError

_HEAD: Final = b"(() => {\nvar __webpack_modules__ = ({\n"
_BEGIN: Final = re.compile(rb"^(\d+)(\([\w, $]*\) \{)$", re.MULTILINE)
_END: Final = re.compile(rb"\n\},\n(?=\d+\([\w, $]*\) \{\n|\n?\}\s*[\])])")
"""The end of a module: what follows is another one, or the end of all."""


def compiled_ahead(script: bytes) -> bytes:
    """The script with its modules as functions in brackets; one that has no modules as it is. Raises ViewerError."""
    modules = list(_modules(script))
    if not modules:
        return script
    pieces = [script[: modules[0][0]]]
    for begin, end in modules:
        head = _BEGIN.match(script, begin)
        assert head is not None
        pieces += (head[1], b":(function", head[2], script[head.end() : end - len(b",\n")], b"),\n")
    return b"".join((*pieces, script[modules[-1][1] :]))


def parts(entry: bytes, count: int) -> tuple[bytes, list[bytes]]:
    """The entry without most of its modules, and chunks with these, which run before it.

    They are at most `count` scripts in all, of about the same length. Raises ViewerError.
    """
    modules = list(_modules(entry))
    if not entry.startswith(_HEAD) or not modules or modules[0][0] != len(_HEAD):
        raise ViewerError("the first script of the package does not begin with its modules")
    length = -(-(modules[-1][1] - modules[0][0]) // count)
    chunks: list[bytes] = []
    begin = modules[0][0]
    for start, end in modules:
        # One module has a third of all; what comes before it is a part of its own.
        if end - begin > length and start > begin and len(chunks) < count - 1:
            name = b"part-%d" % (len(chunks) + 1)
            chunks.append(
                b'(globalThis["rspackChunk"] = globalThis["rspackChunk"] || []).push([["%b"], {\n%b}]);\n'
                % (name, entry[begin:start])
            )
            begin = start
    return _HEAD + entry[begin:], chunks


def _modules(script: bytes) -> Iterator[tuple[int, int]]:
    """Begin and end of each module, with the comma. Raises ViewerError."""
    position = 0
    while (head := _BEGIN.search(script, position)) is not None:
        end = _END.search(script, head.end())
        if end is None:
            raise ViewerError(f"a script of the package has a module without an end: {head[1].decode()}")
        yield head.start(), end.end()
        position = end.end()
