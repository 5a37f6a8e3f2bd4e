"""What fields of messages mean: tables as data, and the interpreter that makes neutral values of a message."""

from engine.mapping.interpreter import Mapped, Options, apply, meaning_of
from engine.mapping.profile import Profile, base_names, load

__all__ = ["Mapped", "Options", "Profile", "apply", "base_names", "load", "meaning_of"]
