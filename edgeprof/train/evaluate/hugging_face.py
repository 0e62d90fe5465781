"""Hugging Face's transformers, told to print errors only: stderr belongs to progress and to this program's own log."""

import importlib
import logging
from typing import Any

TALKATIVE = ("torchao", "torch.utils._pytree")
"""Loggers that warn, while transformers imports what it may use, of what nobody asked for."""


def transformers() -> Any:
    """The library, imported when it is first needed: that takes seconds."""
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    library: Any = importlib.import_module("transformers")
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library
