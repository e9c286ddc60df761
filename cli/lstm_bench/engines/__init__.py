"""The engines that can be timed: one file each; a new one is a new file here with an `Engine` class in it."""

from __future__ import annotations

import importlib
import pkgutil

from .adapter import Adapter

SUBJECT = "fastlstm"
ALWAYS = "numpy"


def names() -> list[str]:
    """The engines there are, by file name."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "adapter")


def load(name: str) -> type[Adapter]:
    """The adapter class of an engine; raises ModuleNotFoundError where what it wraps is not installed."""
    if name not in names():
        raise ValueError(f"there is no engine {name!r}; it should be one of {', '.join(names())}")
    adapter: type[Adapter] = importlib.import_module(f"{__name__}.{name}").Engine
    return adapter
