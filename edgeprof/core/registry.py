"""Lazy registries: a name maps to "module:attribute", imported only when it is asked for."""

import difflib
import importlib
from collections.abc import Iterator
from typing import Any, Generic, TypeVar, cast

from edgeprof.core.errors import UsageError

T = TypeVar("T")


def did_you_mean(name: str, known: list[str]) -> str:
    """A sentence that offers the closest known names, or all of them."""
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(sorted(known))}"


class Registry(Generic[T]):
    """Names and where their objects live; collisions and unknown names are errors."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._targets: dict[str, str] = {}

    def add(self, name: str, target: str) -> None:
        """Registers ``target`` ("module:attribute") as ``name``.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._targets:
            raise ValueError(f"{self.kind} {name!r} is registered twice: {self._targets[name]} and {target}")
        self._targets[name] = target

    def check(self, name: str) -> str:
        """Returns the name if it is registered.

        Raises:
            UsageError: it is not; the message offers the closest names.
        """
        if name not in self._targets:
            raise UsageError(f"unknown {self.kind} {name!r}: {did_you_mean(name, list(self._targets))}")
        return name

    def get(self, name: str) -> T:
        """Imports and returns the object registered as ``name``.

        Raises:
            UsageError: the name is unknown.
        """
        module, attribute = self._targets[self.check(name)].split(":")
        found: Any = getattr(importlib.import_module(module), attribute)
        return cast(T, found)

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __contains__(self, name: object) -> bool:
        return name in self._targets
