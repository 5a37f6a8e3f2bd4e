"""Our implementation class UID and version name in user information (PS3.7 D.3.3.2), for users of the upper layer."""

from engine.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

__all__ = ["IMPLEMENTATION_CLASS_UID", "IMPLEMENTATION_VERSION_NAME"]
