"""The ``edgeprof`` program: a table of commands, each imported only when it is run, and how every command ends."""

import importlib
import inspect
import itertools
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from edgeprof.core.errors import EdgeprofError, ExitCode, UsageError
from edgeprof.core.registry import did_you_mean

COMMANDS: dict[str, tuple[str, str]] = {
    "bench": ("edgeprof.cli.bench:bench", "Measure operators on a device and print the table."),
    "predict": ("edgeprof.cli.predict:predict", "Predict a model's TTFT, TPOT and memory from cells."),
    "verify": ("edgeprof.cli.verify:verify", "Measure whole models beside what is predicted."),
    "search": ("edgeprof.cli.search:search", "Find the best layout of a space that keeps its budgets."),
    "search worker": ("edgeprof.cli.search_worker:worker", "Do trials of a search, here or elsewhere."),
    "search report": ("edgeprof.cli.search_report:report", "Show what a search found: front, stack, importances."),
    "train": ("edgeprof.cli.train:train", "Train a configuration from text to a model."),
    "train status": ("edgeprof.cli.train_status:train_status", "Show how far a training run is, and its loss curve."),
    "plan": ("edgeprof.cli.plan:plan", "Plan a training: tokens, time and memory from a measured step."),
    "eval model": ("edgeprof.cli.eval_model:evaluate", "Held-out loss, bits a byte, recall and samples of a model."),
    "eval doom-loop": ("edgeprof.cli.eval_doom_loop:doom_loop", "Share of generated texts that end in repetition."),
    "distill prepare": ("edgeprof.cli.distill_prepare:prepare", "Store a teacher's likeliest tokens of a data set."),
    "data prepare": ("edgeprof.cli.data:prepare", "Turn text into token shards for training."),
    "data stats": ("edgeprof.cli.data:stats", "Show what a data set holds; check its checksums."),
    "check": ("edgeprof.cli.check:check", "Fail where latency, memory or file size got worse, and only there."),
    "check accept": (
        "edgeprof.cli.check_accept:accept",
        "Accept a regression on purpose, with a reason and an expiry.",
    ),
    "baseline save": ("edgeprof.cli.baseline:save", "Measure a suite and add the session to a baseline file."),
    "baseline list": ("edgeprof.cli.baseline:list_", "List the baseline files."),
    "baseline show": ("edgeprof.cli.baseline:show", "Show what a baseline file holds."),
    "baseline prune": ("edgeprof.cli.baseline:prune", "Remove old sessions from a baseline file."),
    "results": ("edgeprof.cli.results:results", "List, filter and export what has been measured."),
    "compare": ("edgeprof.cli.compare:compare", "Compare two devices, runtimes or result sets."),
    "plot": ("edgeprof.cli.plot:plot", "Draw latency, state and roofline from the results."),
    "export": ("edgeprof.cli.export_model:export", "Write a model for HF, ONNX Runtime, ExecuTorch or llama.cpp."),
    "new": ("edgeprof.cli.new:new", "Write a configuration from a pattern of layers or an HF one."),
    "presets": ("edgeprof.cli.presets:presets", "List the shipped configurations."),
    "inspect": ("edgeprof.cli.inspect:inspect", "Show parameters, state and bytes a token of a model."),
    "ops": ("edgeprof.cli.ops:ops", "Show the operators: dimensions, FLOPs, bytes, state."),
    "runtimes": ("edgeprof.cli.runtimes:runtimes", "Show the runtimes: versions, dtypes, why not."),
    "devices": ("edgeprof.cli.devices:devices", "Show this machine and the devices with results."),
    "doctor": ("edgeprof.cli.doctor:doctor", "Check what works here, and say what fixes the rest."),
}
"""Name, of one word or two -> (where its function lives, its line in the help)."""

PROGRAM = "edgeprof"
INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""
BROKEN_PIPE = 141
"""128 + SIGPIPE, likewise: whoever read the output has gone."""

WHAT_IS_KEPT = "whatever was measured is stored; the same command continues from there"


class LazyGroup(TyperGroup):
    """The commands of the table. Listing and completing their names imports none of them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands, in the table's order."""
        return list(COMMANDS)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Joins the two words of a command such as ``search worker`` into its name."""
        for i, (word, following) in enumerate(itertools.pairwise(args)):
            if not word.startswith("-"):
                args = [*args[:i], f"{word} {following}", *args[i + 2 :]] if f"{word} {following}" in COMMANDS else args
                break
        return super().parse_args(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:
        """Imports a command's module and makes the command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        return as_command(cmd_name, getattr(importlib.import_module(module), attribute))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Finds the command that ``args`` begin with.

        Raises:
            UsageError: there is none of that name.
        """
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            of_two = [name for name in COMMANDS if name.startswith(f"{args[0]} ")]
            if of_two:
                raise UsageError(f"{args[0]}: name what to do: {' or '.join(of_two)}")
            raise UsageError(f"unknown command {args[0]!r}: {did_you_mean(args[0], list(COMMANDS))}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the table into the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Completes commands from the table, and options as usual."""
        from typer.core import CompletionItem  # type: ignore[attr-defined]  # Typer gives it no public home

        words = {name.split()[0]: summary for name, (_, summary) in reversed(COMMANDS.items())}
        names = [CompletionItem(n, help=h) for n, h in reversed(words.items()) if n.startswith(incomplete)]
        return names + super(TyperGroup, self).shell_complete(ctx, incomplete)


def as_command(name: str, function: Any) -> TyperCommand:
    """A Typer command of its own made from a function; its help groups options in panels."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    # rich keeps a docstring's line breaks; a terminal of another width wants its own
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    app.command(name, help="\n\n".join(" ".join(p.split()) for p in paragraphs))(function)
    command = typer.main.get_command(app)
    assert isinstance(command, TyperCommand)
    return command


def _print_version(wanted: bool) -> None:
    if wanted:
        from edgeprof.core.version import VERSION

        typer.echo(f"{PROGRAM} {VERSION}")
        raise typer.Exit


app = typer.Typer(
    name=PROGRAM,
    cls=LazyGroup,
    rich_markup_mode=None,  # plain help: rich takes longer to import than everything else here together
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log to stderr what is done.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Measure the operators that small language models are built from, on the hardware they will run on.

    Run "edgeprof bench" for a first table of this machine.
    """
    from edgeprof.cli.output import start_logging

    start_logging(verbose)


def run(args: Sequence[str]) -> int:
    """Runs the command line ``args`` and returns the exit code.

    What a user can act on ends as one line on stderr; anything else is a bug and keeps its traceback.
    """
    command = typer.main.get_command(app)
    try:
        code = _invoke(command, list(args) or ["--help"])
        sys.stdout.flush()
    except EdgeprofError as e:
        return _fail(str(e), e.exit_code)
    except TyperException as e:
        return _fail(e.format_message(), ExitCode.USAGE)
    except (KeyboardInterrupt, typer.Abort) as e:
        return _fail(f"interrupted; {e if str(e) else WHAT_IS_KEPT}", INTERRUPTED, kind="")
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        # the interpreter flushes stdout once more when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return code


def _invoke(command: Any, args: list[str]) -> int:
    try:
        with command.make_context(PROGRAM, args) as ctx:
            command.invoke(ctx)
    except typer.Exit as e:
        return e.exit_code
    return ExitCode.OK


def _fail(message: str, code: int, kind: str = "error: ") -> int:
    print(f"{PROGRAM}: {kind}{' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    return code


def _reader_has_gone() -> bool:
    """Whether the pipe that stdout writes to has lost its reader; a pipe to a worker that breaks is another matter."""
    import select

    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))


def main() -> None:
    """The program's entry point."""
    if f"_{PROGRAM.upper()}_COMPLETE" in os.environ:  # the shell asks for completions
        app(prog_name=PROGRAM)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # tables have characters that a terminal may lack
    sys.exit(run(sys.argv[1:]))
