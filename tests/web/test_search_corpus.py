"""Rows of a search against the metadata of the same instances, real files: what both tell is the same."""

from __future__ import annotations

import json
from pathlib import Path

from engine.archive.archive import Archive
from engine.archive.questions import Level, level_of
from engine.dicom import json_model, part10, transfer_syntax
from engine.errors import EngineError
from engine.web import search_request
from engine.web.search import Search
from engine.web.search_rows import Rows
from tests.corpus import corpus_files, needs_corpus

FOLDERS = ("charset", "odd", "sr", "mr", "us")


@needs_corpus(*FOLDERS)
def test_search_and_metadata_describe_instances_alike(tmp_path: Path) -> None:
    models: dict[str, list[dict[str, object]]] = {}
    compared = 0
    with Archive.open(tmp_path / "data", role="keeper", create=True) as archive:
        for path in corpus_files(*FOLDERS):
            raw = path.read_bytes()
            try:
                archive.store(raw)
                meta = part10.read_file_meta(raw)
            except EngineError:
                continue
            syntax = transfer_syntax.of(meta.transfer_syntax_uid)
            model = json.loads(json_model.encode(raw[meta.data_set_offset :], syntax, "/bulk"))
            # No part of a data set: a search says as what the instance is stored (PS3.4 C.6.1.1.5.2).
            model["00083002"] = {"vr": "UI", "Value": [meta.transfer_syntax_uid]}
            models.setdefault(model["00080018"]["Value"][0], []).append(model)
        asked = search_request.parse("includefield=all", Level.IMAGE, {}, archive.schema)
        search = Search(archive, asked, Rows(asked, archive.schema, "http://pacs"), 0)
        rows = []
        while not search.is_over:
            rows += [json.loads(row) for row in search.slice()]
        assert len(rows) == len(models)
        for row in rows:
            assert list(row) == sorted(row)
            alike = models[row["00080018"]["Value"][0]]
            for key, attribute in row.items():
                if level_of(int(key, 16), archive.schema) is Level.IMAGE and attribute != {"vr": attribute["vr"]}:
                    assert any(model.get(key) == attribute for model in alike), (key, attribute)
                    compared += 1
    assert compared > 6 * len(rows)
