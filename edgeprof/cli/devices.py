"""``edgeprof devices``: this machine, and the devices that results are stored of."""

from typing import Any

from edgeprof.cli.options import JsonOption, ResultsOption


def devices(results: ResultsOption = None, as_json: JsonOption = False) -> None:
    """Show this machine and the devices with results."""
    from edgeprof.cli.output import print_json
    from edgeprof.devices.base import fingerprint
    from edgeprof.devices.local import LOCAL
    from edgeprof.store import Store, results_root

    environment = LOCAL.environment()
    root = results_root(results)
    document = {
        "local": LOCAL.profile(),
        "environment": {k: v for k, v in environment.items() if k != "runtime_version"},
        "fingerprint": fingerprint(environment),
        "results": str(root),
        "stored": Store(root).devices(),
    }
    if as_json:
        print_json(document)
    else:
        _print(document)


def _print(document: dict[str, Any]) -> None:
    from edgeprof.cli.output import make_table, print_table
    from edgeprof.core.units import format_bytes

    profile, environment = document["local"], document["environment"]
    clusters = [
        f"{len(c.cpus)} CPUs" + (f" at {c.max_khz / 1e6:.2f} GHz" if c.max_khz else "") for c in profile.clusters
    ]
    facts = {
        "id": profile.id,
        "CPU": f"{profile.soc} ({profile.machine})",
        "clusters": ", ".join(clusters),
        "extensions": " ".join(profile.isa),
        "caches": ", ".join(f"{c.name} {format_bytes(c.size_bytes)} for {c.shared_by}" for c in profile.caches),
        "memory": format_bytes(profile.ram_bytes),
        "virtualised": {True: "yes", False: "no", None: None}[profile.virtualised],
        "kernel": environment["kernel"],
        "governor": environment["governor"],
        "huge pages": environment["transparent_hugepages"],
        "fingerprint": document["fingerprint"],
    }
    table = make_table("local: this machine", "fact value")
    for name, value in facts.items():
        table.add_row(name, value or "cannot be read")
    print_table(table)
    stored = make_table(f"results in {document['results']}", "device")
    for device in document["stored"] or ["none yet: run edgeprof bench"]:
        stored.add_row(device + (" (this machine)" if device == profile.id else ""))
    print_table(stored)
