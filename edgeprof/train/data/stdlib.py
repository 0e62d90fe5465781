"""A small real corpus that is on every machine: the documentation that comes with Python's standard library."""

import ast
import functools
import importlib
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from edgeprof.core.errors import UsageError

_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "distutils", "ensurepip", "tkinter", "turtle", "turtledemo", "venv"}
"""What some distributions leave out, or versions removed."""

_TABLES = {"encodings", "pydoc_data"}
"""Long tables that take time to parse and document nothing."""


@functools.cache
def stdlib_documents() -> tuple[str, ...]:
    """The language reference's topics, then one document a module with all docstrings in it, each in order of names.

    About 2 MB of English and code; the same for the same version of Python.

    Raises:
        UsageError: this Python came without its documentation or its sources.
    """
    documents = (*_topics(), *_modules(Path(sysconfig.get_path("stdlib"))))
    if not documents:
        raise UsageError("stdlib: this Python has no documentation beside it; name files of your own")
    return documents


def _topics() -> Iterator[str]:
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # some distributions ship it apart
        return
    yield from (topics[name] for name in sorted(topics))


def _modules(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        parts = path.relative_to(root).with_suffix("").parts
        if (
            parts[0] not in sys.stdlib_module_names
            or (_LEFT_OUT | _TABLES) & set(parts)
            or parts[0].startswith("_sysconfig")
        ):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an old escape in someone else's source
            tree = ast.parse(path.read_bytes())
        name = ".".join(part for part in parts if part != "__init__")
        if docstrings := list(_docstrings(tree, name)):
            yield "\n\n\n".join(docstrings) + "\n"


def _docstrings(node: ast.AST, name: str) -> Iterator[str]:
    """The docstrings of a module, its classes and its functions in order, each headed by its name."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and (
        text := ast.get_docstring(node)
    ):
        yield f"{name}\n\n{text}"
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _docstrings(child, f"{name}.{child.name}")
        elif isinstance(child, (ast.stmt, ast.excepthandler)):  # a definition may depend on a condition
            yield from _docstrings(child, name)
