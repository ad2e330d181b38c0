"""Frozen dataclasses that are made in little more than half the time.

A network of a few hundred layers is described by thousands of small frozen objects, and making
them is the largest part of reading and analysing it.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from inspect import ismemberdescriptor
from typing import Any, TypeVar

__all__ = ["filled_directly"]

_Made = TypeVar("_Made")


def filled_directly(cls: type[_Made]) -> type[_Made]:
    """Lets ``__init__`` of a frozen, slotted, keyword-only dataclass fill its slots directly.

    The one that ``dataclasses`` writes goes through ``object.__setattr__``, which looks every
    attribute up by its name; a slot's own descriptor need not. Nothing else changes: arguments,
    defaults, annotations, and that the object is frozen.

    Raises:
        TypeError: If the class has a ``__post_init__``, or a field without a slot or with a
            default that is made anew.

    >>> from dataclasses import dataclass
    >>> @filled_directly
    ... @dataclass(frozen=True, slots=True, kw_only=True)
    ... class Pixel:
    ...     row: int
    ...     column: int = 0
    >>> Pixel(row=3)
    Pixel(row=3, column=0)
    """
    items = fields(cls)  # type: ignore[arg-type]
    names = [item.name for item in items]
    plain = all(
        item.init
        and item.kw_only
        and item.default_factory is MISSING
        and ismemberdescriptor(getattr(cls, item.name, None))
        for item in items
    )
    if not plain or hasattr(cls, "__post_init__"):
        raise TypeError(f"{cls.__name__} does more than fill its slots")
    written = vars(cls)["__init__"]
    setters = {f"_set_{name}": getattr(cls, name).__set__ for name in names}
    lines = "".join(f"\n  _set_{name}(self, {name})" for name in names)
    made: dict[str, Any] = {}
    exec(  # as dataclasses does; the names are those of the fields
        f"def outer({', '.join(setters)}):\n"
        f" def __init__(self, *, {', '.join(names)}):{lines}\n"
        " return __init__",
        made,
    )
    filling = made["outer"](**setters)
    filling.__kwdefaults__ = written.__kwdefaults__
    filling.__annotations__ = written.__annotations__
    filling.__qualname__, filling.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    type.__setattr__(cls, "__init__", filling)
    return cls
