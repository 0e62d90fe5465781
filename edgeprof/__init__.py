"""edgeprof: measures the operators that small language models are built from, on the hardware they will run on."""


def __getattr__(name: str) -> str:
    """``__version__``, looked up only when asked for: reading a distribution's metadata would slow every start."""
    if name == "__version__":
        from edgeprof.core.version import VERSION

        return VERSION
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
