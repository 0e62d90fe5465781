"""``edgeprof verify``: whole models measured beside their cells, and what the predictions were off by."""

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprof.cli.options import (
    DTypeOption,
    EffortOption,
    JsonOption,
    ResultsOption,
    RuntimeOption,
    Texts,
    ThreadsOption,
    VerboseOption,
)
from edgeprof.cli.targets import ConfigArguments
from edgeprof.cli.verify_session import Laboratory
from edgeprof.core.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from edgeprof.cli.targets import Place
    from edgeprof.core.types import MeasureProtocol
    from edgeprof.predict.neighbours import PairResult
    from edgeprof.predict.types import ModelCall, Target, VerifyRow
    from edgeprof.predict.verify import Failure
    from edgeprof.store import Store

logger = logging.getLogger(__name__)


def verify(
    configs: ConfigArguments = None,
    runtime: RuntimeOption = None,
    dtype: DTypeOption = None,
    context: Annotated[Texts, typer.Option("--context", metavar="RANGE", help="Contexts to decode a token at.")] = None,
    prompt: Annotated[
        Texts, typer.Option("--prompt", metavar="RANGE", help="Tokens of prompts; 0 leaves prefill out.")
    ] = None,
    threads: ThreadsOption = None,
    effort: EffortOption = "quick",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure anew what was verified before, beside what is stored.")
    ] = False,
    history: Annotated[
        bool, typer.Option("--history", help="Measure nothing; show what was verified on this device so far.")
    ] = False,
    blame: Annotated[
        bool | None,
        typer.Option(
            "--blame/--no-blame",
            help="Trace the model's parts and say which term is to blame; unless told, where a prediction is off.",
            show_default=False,
        ),
    ] = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Build whole models, measure them beside their cells, and compare with the prediction.

    Each model shares its processes with rings of its cells (paired); where earlier cells are stored, a second row predicts
    from those. Rows go into the device's error history, which predict takes its intervals from. Where a prediction is off, the
    parts inside the model are timed by the runtime's tracer in processes of their own: that tells which term is to blame, and
    which neighbours may not be additive. These are measured as a pair, and become a term of predictions if they are not.
    Unless told otherwise: onnxruntime, fp32, context 1024, a prompt of 256 tokens.
    """
    from edgeprof.bench.protocol import protocol_for
    from edgeprof.cli.output import print_json, start_logging
    from edgeprof.cli.render_verify import print_rows, rows_json
    from edgeprof.cli.targets import find_place
    from edgeprof.predict.history import read_history
    from edgeprof.store import Store, results_root

    if verbose:
        start_logging(verbose)
    store = Store(results_root(results))
    place = find_place("local", store)
    pairs: list[PairResult] = []
    if history:
        rows, failed = read_history(store.root / place.device_id), list["Failure"]()
    else:
        calls = make_calls(context or ["1024"], prompt or ["256"])
        targets, refused = make_targets(
            configs or [], runtime or ["onnxruntime"], dtype or ["fp32"], threads or ["1"], calls
        )
        rows, failed, pairs = _verify_all(
            targets, calls, Laboratory(place, store, protocol_for(effort)), fresh=fresh, blame=blame
        )
        failed += refused
    if as_json:
        print_json(rows_json(place.device_id, rows, failed, pairs))
    else:
        print_rows(place.device_id, rows, failed, pairs)
    raise typer.Exit(ExitCode.OK if history else exit_code(rows, failed))


def make_calls(contexts: Sequence[str], prompts: Sequence[str]) -> "list[ModelCall]":
    """The calls to verify: a token at each context, and each prompt at once.

    Raises:
        UsageError: a length cannot be read.
    """
    from edgeprof.core.ranges import parse_sizes
    from edgeprof.predict.verify import verify_calls

    lengths = () if list(prompts) == ["0"] else parse_sizes(prompts, field="--prompt", what="length")
    return verify_calls(parse_sizes(contexts, field="--context", what="length"), lengths)


def make_targets(
    configs: Sequence[str],
    runtimes: Sequence[str],
    dtypes: Sequence[str],
    threads: Sequence[str],
    calls: "Sequence[ModelCall]",
) -> "tuple[list[Target], list[Failure]]":
    """Every config in every runtime and format, and why some of these cannot run.

    Raises:
        UsageError: a name or a config is wrong, none is given, or none of them can run: why the first cannot.
    """
    from edgeprof.cli.targets import make_target, target_label, why_not
    from edgeprof.core.ranges import parse_sizes, split_list
    from edgeprof.models.config import load_config
    from edgeprof.predict.verify import Failure

    if not configs:
        raise UsageError("CONFIG: give a .toml or .json file or a preset, or --history")
    loaded = [load_config(source) for source in dict.fromkeys(configs)]
    formats = [
        (runtime, dtype, n)
        for runtime in dict.fromkeys(split_list(runtimes, field="--runtime"))
        for dtype in dict.fromkeys(split_list(dtypes, field="--dtype"))
        for n in parse_sizes(threads, field="--threads", what="number of threads")
    ]
    able, refused = [], []
    for target in (make_target(config, *wanted) for config in loaded for wanted in formats):
        reason = why_not(target, calls)
        if reason is None:
            able.append(target)
        else:
            refused += [Failure(target=target, call=call, reason=f"unsupported: {reason}") for call in calls]
    if not able:
        raise UsageError(f"{target_label(refused[0].target)}: {refused[0].reason}")
    return able, refused


def verify_model(
    target: "Target", calls: "Sequence[ModelCall]", place: "Place", store: "Store", protocol: "MeasureProtocol"
) -> "list[VerifyRow]":
    """The rows of one model, measured unless that was done before; other commands' way in. Nothing is traced.

    Where the host runs at another speed than its cells were measured at, the model is measured once more, and the session
    nearer to the usual speed counts.
    """
    from edgeprof.predict.verify import UNUSUAL_SPEED, host_speed

    lab = Laboratory(place, store, protocol)
    rows, _, _ = _verify_one(target, calls, lab, fresh=False, blame=False)
    speed = host_speed(rows)
    if not 1 / UNUSUAL_SPEED < speed < UNUSUAL_SPEED:
        logger.warning(
            "%s: its cells took %.2f times what they took before: the host's speed has changed; measuring once more",
            target.config.name,
            speed,
        )
        again, _, _ = _verify_one(target, calls, lab, fresh=True, blame=False)
        rows = min(rows, again, key=lambda found: abs(math.log(host_speed(found))))
    return rows


def verify_models(
    targets: "Sequence[Target]",
    calls: "Sequence[ModelCall]",
    place: "Place",
    store: "Store",
    protocol: "MeasureProtocol",
) -> "list[list[VerifyRow]]":
    """The rows of several models that one session measured in turns, round by round, so that they can be compared.

    That of an earlier time counts where it holds all of them. Nothing is traced.
    """
    from edgeprof.predict.history import append_history, new_rows, with_known_terms
    from edgeprof.predict.verify import measured_session, verify_rings, verify_rows

    lab = Laboratory(place, store, protocol)
    known = lab.knowledge()
    targets = [known.with_pairs(target) for target in targets]
    evidence = known.evidence()
    sessions = {measured_session(target, calls, evidence, protocol.rounds) for target in targets}
    session = sessions.pop() if len(sessions) == 1 else None
    if session is None:
        session = lab.measure(verify_rings(targets, calls)).session_id
        known = lab.knowledge()
    found = [with_known_terms(verify_rows([target], calls, known, session), known.history) for target in targets]
    append_history(lab.folder, new_rows([row for rows in found for row in rows], known.history))
    return found


def _verify_all(
    targets: "Sequence[Target]", calls: "Sequence[ModelCall]", lab: Laboratory, *, fresh: bool, blame: bool | None
) -> "tuple[list[VerifyRow], list[Failure], list[PairResult]]":
    """One target after the other; its rows are in the history before the next one begins."""
    rows: list[VerifyRow] = []
    failed: list[Failure] = []
    pairs: list[PairResult] = []
    for target in targets:
        found, not_done, looked_at = _verify_one(target, calls, lab, fresh=fresh, blame=blame)
        rows += found
        failed += not_done
        pairs += looked_at
    return rows, failed, pairs


def _verify_one(
    target: "Target", calls: "Sequence[ModelCall]", lab: Laboratory, *, fresh: bool, blame: bool | None
) -> "tuple[list[VerifyRow], list[Failure], list[PairResult]]":
    """Measures the target unless a session has done so before, whole and under the same conditions."""
    from edgeprof.predict.history import append_history, new_rows, with_known_terms
    from edgeprof.predict.verify import failures, measured_session, untold, verify_rings, verify_rows

    known = lab.knowledge()
    target = known.with_pairs(target)
    session = None if fresh else measured_session(target, calls, known.evidence(), lab.protocol.rounds)
    failed: list[Failure] = []
    if session is None:
        run = lab.measure(verify_rings([target], calls))
        session, failed = run.session_id, failures(target, calls, run.failed)
        known = lab.knowledge()
    rows = with_known_terms(verify_rows([target], calls, known, session), known.history)
    pairs: list[PairResult] = []
    unclear = [] if blame is False else untold(calls, rows, every=blame is True)
    if unclear:
        traced = lab.trace(target, unclear)
        rows = with_known_terms(verify_rows([target], calls, known, session, traced), known.history)
    append_history(lab.folder, new_rows(rows, known.history))
    if unclear:
        pairs = lab.look_at_neighbours(target, unclear, rows, traced)
    return rows, failed, pairs


def exit_code(rows: "Sequence[VerifyRow]", failed: "Sequence[Failure]") -> ExitCode:
    """1 when something went wrong, 3 when a model differs from itself by more than its interval can tell, else 0."""
    if any(not failure.reason.startswith("unsupported") for failure in failed):
        return ExitCode.REGRESSION
    return ExitCode.INCONCLUSIVE if any(row.inconclusive for row in rows) else ExitCode.OK
