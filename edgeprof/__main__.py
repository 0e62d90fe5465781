"""``python -m edgeprof``."""

from edgeprof.cli.app import main

if __name__ == "__main__":
    main()
