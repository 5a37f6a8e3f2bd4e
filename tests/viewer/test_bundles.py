"""viewer.bundles: modules that are compiled ahead, and an entry in parts, do what they did. Node.js runs them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from engine.errors import ViewerError
from engine.viewer import bundles

MODULES = [
    (7, b'"use strict";\nmodule.exports = require(8) + 1;\n'),
    (8, b"module.exports = this === module.exports ? 40 : 0;\n"),
    (9, b"module.exports = {\n  a: {\n    b: 1\n},\n};\n"),
    (10, b"module.exports = require(7) + require(9).a.b;\n"),
]
TAIL = b"""
});
function require(id) {
  const module = { exports: {} };
  modules[id].call(module.exports, module, module.exports, require);
  return module.exports;
}
const modules = __webpack_modules__;
for (const [, more] of globalThis["rspackChunk"] ?? []) Object.assign(modules, more);
console.log(require(10));
})();
"""
HEAD = b"(() => {\nvar __webpack_modules__ = ({\n"


def text_of(modules: list[tuple[int, bytes]]) -> bytes:
    return b"".join(b"%d(module, exports, require) {\n%b\n},\n" % module for module in modules)


ENTRY = HEAD + text_of(MODULES) + TAIL


def output_of(folder: Path, *scripts: bytes) -> str:
    """What the scripts print, one after the other in one page."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node.js")
    (folder / "page.cjs").write_bytes(b"\n".join(scripts))
    return subprocess.run([node, folder / "page.cjs"], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("count", (1, 2, 4, 9))
def test_an_entry_in_parts_does_the_same(tmp_path: Path, count: int) -> None:
    entry, chunks = bundles.parts(ENTRY, count)
    assert len(chunks) == min(count, len(MODULES)) - 1
    scripts = [bundles.compiled_ahead(script) for script in (*chunks, entry)]
    assert output_of(tmp_path, *scripts) == output_of(tmp_path, ENTRY) == "42\n"


def test_a_module_becomes_a_function_in_brackets() -> None:
    chunk = b"self.push([[1], {\n12(a) {\nf();\n},\n13(a, b) {\ng({\na: 1\n},\n2)\n},\n\n}]);\n"
    ahead = b"self.push([[1], {\n12:(function(a) {\nf();\n}),\n13:(function(a, b) {\ng({\na: 1\n},\n2)\n}),\n\n}]);\n"
    assert bundles.compiled_ahead(chunk) == ahead
    assert bundles.compiled_ahead(b"a worker without modules") == b"a worker without modules"


def test_a_large_module_is_a_part_of_its_own() -> None:
    modules = [(1, b"a();"), (2, b"b();" * 1000), (3, b"c();")]
    entry, chunks = bundles.parts(HEAD + text_of(modules) + TAIL, 3)
    assert [b"a()" in chunks[0], b"b()" in chunks[1], b"c()" in entry] == [True, True, True]
    assert b"b()" not in chunks[0] + entry


def test_scripts_of_another_form_are_refused() -> None:
    with pytest.raises(ViewerError, match="does not begin with its modules"):
        bundles.parts(b"!function(){}()", 2)
    with pytest.raises(ViewerError, match="without an end: 7"):
        bundles.compiled_ahead(b"({\n7(module) {\nf();\n}")
