"""Schema: the attributes that one archive keeps of its instances, their levels and their VRs.

It combines the tables of `attributes`, which are the same for every archive, with the archive's extra attributes
(`extra`). An archive makes its schema once, when it is opened, and passes it to everything that extracts, states,
searches or answers. A schema never changes, so two archives with different extra attributes can be open in one process.
A function without a schema uses STANDARD, the built-in attributes only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from engine.dicom import attributes, elements, tags
from engine.dicom.extra import BUILT_IN, NONE, ExtraSet

_CACHED_VRS_MAX: Final = 4096


class Schema:
    """The attributes that one archive keeps."""

    __slots__ = ("extra_set", "extractor", "level_of", "mark", "searched", "vr_of")

    def __init__(self, extra_set: ExtraSet = NONE) -> None:
        extras = extra_set.extras
        self.extra_set: Final = extra_set
        self.mark: Final = extra_set.mark
        """The mark of records whose attributes were extracted under this schema."""
        self.level_of: Final[Mapping[int, int]] = MappingProxyType(
            BUILT_IN | {extra.tag: extra.level for extra in extras}
        )
        """Tag → the level that keeps it, 0 patient to 3 instance."""
        self.searched: Final = frozenset(attributes.SEARCHED) | {extra.tag for extra in extras if extra.is_searched}
        """Tags of the attributes that have search keys."""
        self.vr_of: Final[Callable[[int], str]] = _vr_of(
            {extra.tag: extra.vr for extra in extras if tags.dictionary_vr(extra.tag) == "UN"}
        )
        """`tags.vr_of`, with the VRs of extra attributes that PS3.6 does not list."""
        self.extractor: Final = elements.extractor_of(
            [(extra.tag, extra.level, extra.vr, extra.creator.encode()) for extra in extras]
        )
        """Extracts these attributes from data sets: pass it to `elements.extract`."""


def _vr_of(unlisted: Mapping[int, str]) -> Callable[[int], str]:
    if not unlisted:
        return _listed_vr_of
    return lru_cache(_CACHED_VRS_MAX)(lambda tag: unlisted.get(tag) or tags.vr_of(tag))


_listed_vr_of: Final = lru_cache(_CACHED_VRS_MAX)(tags.vr_of)

STANDARD: Final = Schema()
"""The schema of an archive without extra attributes."""
