"""The graphs over one decoder's weights, a file each, behind one interface."""

from .draft import Draft
from .interface import Variant
from .plain import Plain
from .portable import Portable
from .recurrent import Recurrent

__all__ = ["Draft", "Plain", "Portable", "Recurrent", "Variant"]
