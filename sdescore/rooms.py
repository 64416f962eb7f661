"""Rooms: packages whose public names are those that their files list.

A file that is put into a room is part of it at once: nothing else names it. Tables of the
documentation, checkpoints and the tests' strategies ask :func:`members` what there is.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

T = TypeVar("T")


def fill(room: str) -> list[str]:
    """Load a package's files and give it every name in their ``__all__``; these names, sorted.

    The package's own name wins where a file has the name of the function in it.
    """
    package = sys.modules[room]
    files = [f"{room}.{file.name}" for file in iter_modules(package.__path__)]
    loaded = [import_module(file) for file in files if not file.rpartition(".")[2].startswith("_")]
    found = {name: getattr(file, name) for file in loaded for name in getattr(file, "__all__", ())}
    vars(package).update(found)
    return sorted(found)


def members(room: str, base: type[T]) -> list[type[T]]:
    """The public classes of a room below ``base``, itself left out, that can be instantiated."""
    package = import_module(room)
    public = [getattr(package, name) for name in package.__all__]
    below = [kind for kind in public if inspect.isclass(kind) and issubclass(kind, base)]
    return [kind for kind in below if kind is not base and not inspect.isabstract(kind)]
