"""The graphs over one decoder's weights, a file each, behind one interface."""

from .draft import Draft
from .interface import Variant
from .layered import Layered
from .plain import Plain
from .portable import Portable
from .recurrent import Recurrent

__all__ = ["Draft", "Layered", "Plain", "Portable", "Recurrent", "Variant"]
