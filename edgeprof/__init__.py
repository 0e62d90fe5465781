"""edgeprof: measures the operators that small language models are built from, on the hardware they will run on."""

from edgeprof.core.version import VERSION as __version__

__all__ = ["__version__"]
