"""/api/instances/{instance}/tags: the elements of one instance as a tree, for user interfaces.

    {"tag": "00100010", "keyword": "PatientName", "vr": "PN", "value": "Doe^Jane"}
    {"tag": "0040A730", "keyword": "ContentSequence", "vr": "SQ", "items": [[…], …]}
    {"tag": "7FE00010", "keyword": "PixelData", "vr": "OW", "bulk": "http://…"}     the URL of its bytes

Values are shortened to TEXT_MAX characters and marked `"shortened": true`; after NODES_MAX elements the tree ends with
`"truncated": true`. Corrections are applied, as in the metadata of DICOMweb, from which the tree is made.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import orjson

from engine.access import Action
from engine.dicom import tags as dictionary
from engine.errors import DataSetError
from engine.web.api.json_bodies import answer, check_parameters
from engine.web.errors import Gone, HttpError, NotFound
from engine.web.stored import pinned, root_of, uid_of

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request

TEXT_MAX: Final = 256
VALUES_SHOWN: Final = 64
NODES_MAX: Final = 20_000
"""Elements of one tree: some 2 MB."""


async def tree(request: Request) -> web.Response:
    """The elements of an instance. Raises NotFound, Gone."""
    check_parameters(request)
    uid = uid_of(request, "instance")
    archive, view = request.engine.archive, request.view(Action.RETRIEVE)
    instance = view.instance(uid)
    if instance is None:
        if view.was_deleted(uid):
            raise Gone(f"instance {uid} was deleted")
        raise NotFound(f"there is no instance {uid}")
    with pinned(request, [instance]):
        work = partial(archive.metadata.instance, instance, root_of(request))
        try:
            text = await request.engine.pools.reads.run(work)
        except DataSetError as error:
            raise HttpError(500, f"the stored bytes are not a valid data set: {error}") from error
        elements = await request.engine.pools.reads.run(partial(_TreeBuilder().build, text))
    return answer(
        {
            "study_instance_uid": instance.study_instance_uid,
            "series_instance_uid": instance.series_instance_uid,
            "sop_instance_uid": uid,
            "transfer_syntax_uid": instance.transfer_syntax_uid,
            **elements,
        }
    )


class _TreeBuilder:
    """Builds the tree from one object of the DICOM JSON Model."""

    def __init__(self) -> None:
        self._nodes_left = NODES_MAX

    def build(self, text: bytes) -> dict[str, Any]:
        """The elements, and whether some are left out."""
        elements = self._elements(orjson.loads(text))
        return {"elements": elements, "truncated": self._nodes_left <= 0}

    def _elements(self, data_set: dict[str, Any]) -> list[dict[str, Any]]:
        nodes: list[dict[str, Any]] = []
        for tag in sorted(data_set):
            if self._nodes_left <= 0:
                break
            self._nodes_left -= 1
            nodes.append(self._element(tag, data_set[tag]))
        return nodes

    def _element(self, tag: str, element: dict[str, Any]) -> dict[str, Any]:
        vr, values = element.get("vr", "UN"), element.get("Value", [])
        keyword = dictionary.keyword_of(int(tag, 16))
        node: dict[str, Any] = {"tag": tag, "keyword": keyword if keyword.isidentifier() else "", "vr": vr}
        if vr == "SQ":
            return {**node, "items": [self._elements(item or {}) for item in values]}
        if "BulkDataURI" in element:
            return {**node, "bulk": element["BulkDataURI"]}
        if "InlineBinary" in element:
            text, is_short = element["InlineBinary"], False
        else:
            text = "\\".join(map(_text, values[:VALUES_SHOWN]))
            is_short = len(values) > VALUES_SHOWN
        node["value"] = text[:TEXT_MAX]
        if is_short or len(text) > TEXT_MAX:
            node["shortened"] = True
        return node


def _text(value: Any) -> str:
    """One value in DICOM's text form."""
    if value is None:
        return ""
    if isinstance(value, dict):
        groups = [value.get(group) or "" for group in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(groups).rstrip("=")
    return str(value)
