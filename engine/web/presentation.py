"""An image as a presentation state shows it, for the rendered resource of the state and for WADO-URI."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from engine.access import Action
from engine.archive.rendering.placement import upper_image
from engine.archive.rendering.presentation_state import (
    BLENDING,
    COLOUR,
    GRAYSCALE,
    PSEUDO_COLOUR,
    XA_XRF,
    Presentation,
    PresentationState,
    Reference,
    check_length,
)
from engine.archive.transcoding.head import Head
from engine.dicom import elements
from engine.dicom.sources import Inflated, Source, Whole
from engine.errors import DataSetError, NotAcceptable, TranscodeError
from engine.web.errors import NotFound

if TYPE_CHECKING:
    from engine.archive.retrieve import Instance, StoredInstance
    from engine.archive.view import View
    from engine.web.request import Request

PRESENTATION_STATES: Final = "1.2.840.10008.5.1.4.1.1.11."
"""The beginning of their SOP classes."""
APPLIED: Final = frozenset({GRAYSCALE, COLOUR, PSEUDO_COLOUR, BLENDING, XA_XRF})
BLENDED_MAX: Final = 512
"""The most images on either side of a blending state that are looked at for two that lie in one plane."""


@dataclass(frozen=True, slots=True)
class PresentedImage:
    """One image of a presentation state."""

    image: Instance
    frame: int | None
    """The first frame that the state is for, from 1; None: all."""
    presentation: Presentation
    upper: StoredInstance | None = None
    """The image that a blending state lays over it."""


async def presented_image(request: Request, state: Instance, image: Instance | None = None) -> PresentedImage:
    """What a stored state says of an image; None: of the first of its images that is stored here.

    Raises NotFound when there is no such image, NotAcceptable for a state that is not applied.
    """
    if state.sop_class_uid not in APPLIED:
        raise NotAcceptable(
            "of presentation states only grayscale, XA/XRF, colour, pseudo-colour and blending ones are applied, not"
            " those of volumes and of advanced blending: render the image itself"
        )
    view = request.view(Action.RETRIEVE)
    stored = view.retrieval.open(state)

    def read() -> PresentedImage:
        check_length(stored.length)
        source: Source = Whole(stored.whole())
        content = PresentationState.read(Inflated(source) if stored.syntax.deflated else source, stored.syntax)
        found = _shown(view, content.references(), image)
        if content.is_blending:
            return _blended(view, content, found, image)
        for reference, shown in found:
            presentation = content.of(reference.sop_instance_uid)
            return PresentedImage(shown, _frame(reference, presentation), presentation)
        raise _missing(image)

    try:
        return await request.engine.pools.reads.run(read)
    except (DataSetError, UnicodeError) as error:
        raise NotAcceptable(f"the presentation state cannot be read: {error}") from error


def _missing(image: Instance | None) -> NotFound:
    if image is not None:
        return NotFound("the presentation state is not for this image")
    return NotFound("none of the images that the presentation state is for is stored here")


def _shown(
    view: View, references: Iterable[Reference], image: Instance | None = None
) -> Iterator[tuple[Reference, Instance]]:
    """The images of a state that are here, or only this one."""
    for reference in references:
        if image is None or reference.sop_instance_uid == image.sop_instance_uid:
            shown = image or view.instance(reference.sop_instance_uid)
            if shown is not None:
                yield reference, shown


def _blended(
    view: View,
    content: PresentationState,
    lower_images: Iterable[tuple[Reference, Instance]],
    image: Instance | None,
) -> PresentedImage:
    """The first image below that another one lies over, and that one. Blocks.

    Raises NotFound, TranscodeError if no two of them lie in one plane.
    """
    uppers = list(islice(_heads(view, _shown(view, content.upper_references())), BLENDED_MAX))
    is_any = False
    for reference, lower, head in islice(_heads(view, lower_images), BLENDED_MAX):
        is_any = True
        pair = upper_image(head, [each for _, _, each in uppers])
        if pair is None:
            continue
        number, placement = pair
        upper_reference, upper, _ = uppers[number]
        presentation = content.of(reference.sop_instance_uid)
        blending = replace(
            content.blending(presentation, upper_reference.sop_instance_uid),
            placement=placement,
            frame=upper_reference.frames[0] if upper_reference.frames else 1,
        )
        frame = reference.frames[0] if reference.frames else None
        return PresentedImage(lower.instance, frame, replace(presentation, blending=blending), upper)
    if not is_any or not uppers:
        raise _missing(None if is_any else image)
    raise TranscodeError("no image that the presentation state lays over others lies in the plane of one of them")


def _heads(
    view: View, images: Iterable[tuple[Reference, Instance]]
) -> Iterator[tuple[Reference, StoredInstance, Head]]:
    for reference, instance in images:
        stored = view.retrieval.open(instance)
        source: Source = Inflated(stored) if stored.syntax.deflated else stored
        yield reference, stored, Head.read(source, elements.encoding_of(source.read(0, 8), stored.syntax))


def _frame(reference: Reference, presentation: Presentation) -> int | None:
    """The first frame that the state is for, if it has masks the first one that they are subtracted from."""
    frames = reference.frames
    subtraction = presentation.subtraction
    if not frames or subtraction is None:
        return frames[0] if frames else None
    return next((frame for frame in frames if subtraction.mask_for(frame, max(frames))), frames[0])
