"""An image as a presentation state shows it, for the rendered resource of the state and for WADO-URI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine.access import Action
from engine.archive.rendering.presentation_state import (
    COLOUR,
    GRAYSCALE,
    XA_XRF,
    Presentation,
    PresentationState,
    Reference,
    check_length,
)
from engine.dicom.sources import Inflated, Source, Whole
from engine.errors import DataSetError, NotAcceptable
from engine.web.errors import NotFound

if TYPE_CHECKING:
    from engine.archive.retrieve import Instance
    from engine.web.request import Request

PRESENTATION_STATES: Final = "1.2.840.10008.5.1.4.1.1.11."
"""The beginning of their SOP classes."""


@dataclass(frozen=True, slots=True)
class PresentedImage:
    """One image of a presentation state."""

    image: Instance
    frame: int | None
    """The first frame that the state is for, from 1; None: all."""
    presentation: Presentation


async def presented_image(request: Request, state: Instance, image: Instance | None = None) -> PresentedImage:
    """What a stored state says of an image; None: of the first of its images that is stored here.

    Raises NotFound when there is no such image, NotAcceptable for a state that is not applied.
    """
    if state.sop_class_uid not in (GRAYSCALE, COLOUR, XA_XRF):
        raise NotAcceptable(
            "of presentation states only grayscale, XA/XRF and colour ones are applied: render the image itself"
        )
    view = request.view(Action.RETRIEVE)
    stored = view.retrieval.open(state)

    def read() -> PresentedImage:
        check_length(stored.length)
        source: Source = Whole(stored.whole())
        content = PresentationState.read(Inflated(source) if stored.syntax.deflated else source, stored.syntax)
        for reference in content.references():
            uid = reference.sop_instance_uid
            if image is not None and uid != image.sop_instance_uid:
                continue
            shown = image or view.instance(uid)
            if shown is not None:
                presentation = content.of(uid)
                return PresentedImage(shown, _frame(reference, presentation), presentation)
        if image is not None:
            raise NotFound("the presentation state is not for this image")
        raise NotFound("none of the images that the presentation state is for is stored here")

    try:
        return await request.engine.pools.reads.run(read)
    except (DataSetError, UnicodeError) as error:
        raise NotAcceptable(f"the presentation state cannot be read: {error}") from error


def _frame(reference: Reference, presentation: Presentation) -> int | None:
    """The first frame that the state is for, if it has masks the first one that they are subtracted from."""
    frames = reference.frames
    subtraction = presentation.subtraction
    if not frames or subtraction is None:
        return frames[0] if frames else None
    return next((frame for frame in frames if subtraction.mask_for(frame, max(frames))), frames[0])
