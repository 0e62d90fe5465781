"""What ``predict`` and ``verify`` are about: a model in a runtime and a format, on a device, and what is known of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprof.cli.model_options import complete_config
from edgeprof.core.errors import UsageError
from edgeprof.core.ranges import parse_sizes

if TYPE_CHECKING:
    from edgeprof.devices.base import Device
    from edgeprof.models.config import ArchConfig
    from edgeprof.predict.predict import Knowledge
    from edgeprof.predict.types import ModelCall, Target
    from edgeprof.store import Store


ConfigArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="CONFIG...", help="Presets, or .toml or .json files.", autocompletion=complete_config),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A device with results: its id, the conditions that its records must share, and the device itself where it is at hand."""

    device_id: str
    fingerprint: str
    device: "Device | None"


def find_place(name: str, store: "Store") -> Place:
    """The device at hand called ``name`` as it is now, or the stored one of that id as it was when it last measured.

    Raises:
        UsageError: it is neither.
    """
    from edgeprof.bench.stored import device_ids
    from edgeprof.devices.base import DEVICES, fingerprint

    if name in DEVICES:
        device = DEVICES.get(name)
        return Place(device_id=device.profile().id, fingerprint=fingerprint(device.environment()), device=device)
    if not device_ids(store, name):
        raise UsageError(f"device: no results of {name!r} in {store.root}; edgeprof devices lists what is stored")
    return Place(device_id=name, fingerprint=store.records(name)[-1].fingerprint, device=None)


def knowledge_of(place: Place, store: "Store", *, corrected: bool = True) -> "Knowledge":
    """Everything stored of the device that predictions rest on.

    Raises:
        UsageError: a line of the store or of the history is corrupt.
    """
    from edgeprof.predict.evidence import Conditions
    from edgeprof.predict.history import read_history
    from edgeprof.predict.neighbours import read_neighbours
    from edgeprof.predict.predict import Knowledge

    return Knowledge(
        device_id=place.device_id,
        records=store.records(place.device_id),
        history=read_history(store.root / place.device_id),
        conditions=Conditions(fingerprint=place.fingerprint),
        corrected=corrected,
        neighbours=read_neighbours(store.root / place.device_id),
    )


def make_target(config: "ArchConfig", runtime: str, dtype: str, n_threads: int) -> "Target":
    """The config in a runtime; ``dtype`` is WEIGHT or WEIGHT/KV, and without KV the runtime's usual cache.

    Raises:
        UsageError: a name is unknown.
    """
    from edgeprof.bench.plan import default_kv_dtype
    from edgeprof.bench.suite import split_dtype
    from edgeprof.predict.types import Target
    from edgeprof.runtimes.base import RUNTIMES

    RUNTIMES.check(runtime)
    weight, kv = split_dtype(dtype)
    usual = next((k for w, k in RUNTIMES.get(runtime).dtypes if w == weight), default_kv_dtype(weight))
    return Target(config=config, runtime=runtime, dtype=weight, kv_dtype=kv or usual, n_threads=n_threads)


def why_not(target: "Target", calls: "Sequence[ModelCall]") -> str | None:
    """Why the target cannot run, or None if it can: its runtime is not installed, or refuses the model or one of its cells."""
    from edgeprof.predict.plan import cells, model_case
    from edgeprof.runtimes.base import RUNTIMES, runtime_version

    runtime = RUNTIMES.get(target.runtime)
    if runtime_version(runtime) == "absent":
        return f"{target.runtime} is not installed: pip install {runtime.distribution}"
    for call in calls:
        for case in (*(cell.case for cell in cells(target, call)), model_case(target, call)):
            if reason := runtime.unsupported(case):
                return reason
    return None


def one_size(text: str, *, field: str, what: str) -> int:
    """The one size that an option gives, as in 4096 or 4k.

    Raises:
        UsageError: it is none, or several.
    """
    sizes = parse_sizes([text], field=field, what=what)
    if len(sizes) > 1:
        raise UsageError(f"{field}: {text} means {len(sizes)} values; give one")
    return sizes[0]


def dtype_label(target: "Target") -> str:
    """The target's formats as ``make_target`` takes them."""
    from edgeprof.bench.plan import default_kv_dtype

    usual = target.kv_dtype == default_kv_dtype(target.dtype)
    return target.dtype if usual else f"{target.dtype}/{target.kv_dtype}"


def target_label(target: "Target") -> str:
    """The model, its runtime, formats and threads in a few words."""
    threads = f"{target.n_threads} thread{'s' if target.n_threads > 1 else ''}"
    return f"{target.config.name} in {target.runtime} {dtype_label(target)}, {threads}"
