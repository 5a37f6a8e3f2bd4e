"""The rows of the route table for WADO-RS."""

from __future__ import annotations

from typing import Final

from engine.access import ARCHIVE, Action
from engine.web import bulk_data, wado, wado_frames, wado_metadata, zip_archive
from engine.web.forms import DICOM, IMAGE_TYPES, OCTET_STREAM
from engine.web.route import DICOMWEB, Handler, Parameter, Route

_STUDY: Final = f"{DICOMWEB}/studies/{{study}}"
_SERIES: Final = f"{_STUDY}/series/{{series}}"
_INSTANCE: Final = f"{_SERIES}/instances/{{instance}}"
_PARTS: Final = 'multipart/related; type="{}"'
_ACCEPT: Final = Parameter("accept", "Media types that the answer may have, instead of the header Accept")
_STATUSES: Final = (200, 206, 304)

_FILES_OR_ZIP: Final = (
    _PARTS.format(DICOM),
    _PARTS.format(OCTET_STREAM),
    zip_archive.ZIP,
)
_FILES: Final = (_PARTS.format(DICOM), _PARTS.format(OCTET_STREAM))
_FRAMES: Final = (
    _PARTS.format(OCTET_STREAM),
    *map(_PARTS.format, IMAGE_TYPES),
    OCTET_STREAM,
    *IMAGE_TYPES,
)
_METADATA: Final = tuple(map(str, wado_metadata.OFFERS))
_BULK_DATA: Final = (_PARTS.format(OCTET_STREAM), OCTET_STREAM)


def _row(path: str, handler: Handler, summary: str, produces: tuple[str, ...], *, gives_files: bool = False) -> Route:
    return Route(
        "GET",
        path,
        handler,
        summary,
        Action.RETRIEVE,
        parameters=(_ACCEPT,),
        produces=produces,
        statuses=_STATUSES,
        errors=(404, 406, 410, 416),
        tag="WADO-RS",
        schema="DataSets",
        gives_files=gives_files,
        target=ARCHIVE,
    )


WADO_ROUTES: Final[tuple[Route, ...]] = (
    _row(_STUDY, wado.instances, "All instances of a study", _FILES_OR_ZIP, gives_files=True),
    _row(_SERIES, wado.instances, "All instances of a series", _FILES_OR_ZIP, gives_files=True),
    _row(
        f"{_STUDY}/zip",
        zip_archive.zipped,
        "A study as a zip archive with a DICOMDIR",
        (zip_archive.ZIP,),
        gives_files=True,
    ),
    _row(
        f"{_SERIES}/zip",
        zip_archive.zipped,
        "A series as a zip archive with a DICOMDIR",
        (zip_archive.ZIP,),
        gives_files=True,
    ),
    _row(_INSTANCE, wado.instance, "One instance", (*_FILES, DICOM), gives_files=True),
    *(
        _row(f"{path}/metadata", wado_metadata.metadata, f"Metadata of a {name}", _METADATA)
        for path, name in ((_STUDY, "study"), (_SERIES, "series"))
    ),
    _row(
        f"{_INSTANCE}/metadata",
        wado_metadata.instance_metadata,
        "Metadata of an instance",
        _METADATA,
    ),
    _row(f"{_INSTANCE}/frames/{{frames}}", wado_frames.frames, "Frames by number, with commas between", _FRAMES),
    *(
        _row(f"{path}/pixeldata", bulk_data.pixel_data, f"Pixel data of {name}", _FRAMES)
        for path, name in ((_STUDY, "a study"), (_SERIES, "a series"), (_INSTANCE, "an instance"))
    ),
    *(
        _row(f"{_INSTANCE}/bulkdata/{path}", bulk_data.bulk_data, "Value of an element", _BULK_DATA)
        for path in ("{tag}", "{tag}/{item}/{tag2}", "{tag}/{item}/{tag2}/{item2}/{tag3}")
    ),
)
