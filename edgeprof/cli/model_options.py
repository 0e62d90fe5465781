"""The options that commands on architectures share, and how such a command hands a configuration over."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgeprof.models.config import ArchConfig

SUFFIXES = (".toml", ".json")


def complete_config(incomplete: str) -> list[str]:
    """Presets and configuration files that begin so. Where there are none, the shell offers its own files and folders."""
    from edgeprof.models.config import preset_names

    folder, slash, begun = incomplete.rpartition("/")
    presets = [] if slash else [name for name in preset_names() if name.startswith(begun)]
    try:
        paths = list(Path(folder + slash or ".").iterdir())
    except OSError:  # nothing that could be completed
        paths = []
    files = sorted(path.name for path in paths if path.name.startswith(begun) and path.suffix in SUFFIXES)
    return presets + [folder + slash + name for name in files]


ConfigArgument = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        help="A preset's name, or a .toml or .json file.",
        show_default=False,
        autocompletion=complete_config,
    ),
]
ConfigOutOption = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write a .toml or .json file instead of stdout.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")]
ConfigJsonOption = Annotated[bool, typer.Option("--json", help="Print the configuration as JSON, which is one too.")]


def hand_over(config: "ArchConfig", out: Path | None, *, force: bool, as_json: bool) -> None:
    """Writes the configuration to ``out``, or prints it as TOML; with ``as_json`` it is printed as JSON in any case.

    Raises:
        UsageError: the file may not or cannot be written.
    """
    from edgeprof.cli.files import check_target, write_whole
    from edgeprof.cli.output import print_json
    from edgeprof.models.config import config_text, to_document, to_toml

    if out is not None:
        text = config_text(config, out)
        check_target(out, field="--out", force=force)
        write_whole(out, text.encode(), field="--out")
    if as_json:
        print_json(to_document(config))
    elif out is None:
        typer.echo(to_toml(config), nl=False)


def tell_size(config: "ArchConfig", label: str) -> None:
    """Says on stderr how many parameters the configuration has, and warns of a large embedding."""
    from edgeprof.models.accounting import embedding_share, parameters

    typer.echo(
        f"{printable(label)}: {parameters(config):,} parameters, embedding {embedding_share(config):.2%}", err=True
    )
    if warning := large_vocabulary(config):
        typer.echo(warning, err=True)


def printable(text: str) -> str:
    """A text of others on a terminal: without control characters, which could move its cursor."""
    return "".join(c if c.isprintable() else "?" for c in text)


def large_vocabulary(config: "ArchConfig") -> str | None:
    """A sentence where the embedding (with a head that is not tied) takes more than a third of the parameters."""
    from edgeprof.models.accounting import LARGE_SHARE, vocabulary_share

    share = vocabulary_share(config)
    if share <= LARGE_SHARE:
        return None
    parts = "the embedding takes" if config.tied else "embedding and head, which are not tied, take"
    return (
        f"warning: {parts} {share:.2%} of the parameters, more than a third; a smaller vocabulary leaves more to layers"
    )
