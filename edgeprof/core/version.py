"""The package's version and where its code came from."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("edgeprof")
except PackageNotFoundError:  # a source tree that was never installed
    VERSION = "0+unknown"
