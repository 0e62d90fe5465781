"""A PostgreSQL server of the tests' own, from Debian's package or whatever is on the path."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEBIAN = "/usr/lib/postgresql"


def programs() -> Path | None:
    """The folder of the newest server's programs, if there is a server."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    folders = Path(DEBIAN).glob("*/bin/initdb")
    return max((path.parent for path in folders), key=lambda path: float(path.parent.name), default=None)


@contextmanager
def server(bin_folder: Path) -> Iterator[str]:
    """Runs a server on this machine alone for the time of the block; yields the URL of an empty database.

    It refuses to run as root, and so root runs it as the package's own user.
    """
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    # Where another user may look: not below pytest's folder, nor below a TMPDIR that is its user's alone.
    home = Path(tempfile.mkdtemp(prefix="edgeprof-postgres-", dir="/tmp" if as_user else None))
    data = home / "data"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(program: str, *args: str) -> None:
        done = subprocess.run(
            [*as_user, str(bin_folder / program), *args], cwd="/", capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr

    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={home} -c fsync=off"
    try:
        if as_user:
            shutil.chown(home, "postgres", "postgres")
        call(
            "initdb",
            "--pgdata",
            str(data),
            "--username",
            "edgeprof",
            "--auth",
            "trust",
            "--no-sync",
            "--no-locale",
            "-E",
            "UTF8",
        )
        call("pg_ctl", "--pgdata", str(data), "--log", str(home / "log"), "--wait", "--options", options, "start")
        try:
            yield f"postgresql://edgeprof@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "--pgdata", str(data), "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)
