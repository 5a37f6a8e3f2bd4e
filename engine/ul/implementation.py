"""Who we say we are in user information (PS3.7 D.3.3.2): the one place where upper-layer users take it from."""

from engine.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

__all__ = ["IMPLEMENTATION_CLASS_UID", "IMPLEMENTATION_VERSION_NAME"]
