"""From a space's file to the space: labels become operators, slots get their choices, rules their mixers."""

import re
from collections.abc import Mapping
from typing import Any

from edgeprof.core.errors import UsageError
from edgeprof.core.registry import did_you_mean
from edgeprof.models.block import BlockSpec
from edgeprof.models.config import CONFIG_SCHEMA_VERSION, MIXERS, ArchConfig, from_file, make_layer
from edgeprof.models.schema import Part, clipped, parse_document
from edgeprof.search.rules import Rule
from edgeprof.search.slots import PLUS, Slots
from edgeprof.search.space import Space, make_space
from edgeprof.search.space_schema import RuleFile, SpaceFile, parse_space_document

MAX_WEIGHTS = 10_000
"""Most choices of all slots together: ten times those of the deepest models with ten choices a layer."""

LABEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
"""A choice's label: short enough for tables and file names."""


def space_of_document(document: Mapping[str, Any], label: str, default_name: str) -> Space:
    """The space that a file's content describes; ``label`` names it in errors.

    Raises:
        UsageError: a field is wrong, or no layout keeps the rules.
    """
    file, model_fields = parse_space_document(document, label)
    _check_labels(file, label)
    model, table = _blocks(file, model_fields, label, default_name)
    ffn_per_layer = file.ffn_per_layer and len(file.ffns) > 1
    slots = _slots(file, ffn_per_layer, label)
    rules = tuple(_rule(file, rule, label, f"rules[{i}]") for i, rule in enumerate(file.rules))
    try:
        return make_space(
            name=model.name,
            description=file.description,
            model=model,
            table=table,
            ffn_per_layer=ffn_per_layer,
            slots=slots,
            rules=rules,
        )
    except UsageError as error:
        raise UsageError(f"{label}: {error}") from None


def _check_labels(file: SpaceFile, label: str) -> None:
    """Labels are short, and a rule's ``of`` can mean only one thing.

    Raises:
        UsageError: one is not, or is an operator's name, or comes twice.
    """
    for table in ("mixers", "ffns", "groups"):
        for name in getattr(file, table):
            if not LABEL.fullmatch(name):
                raise UsageError(
                    f"{label}: {table}: {clipped(name)} is no label; use 1 to 32 of a-z, 0-9, '.', '_' and '-'"
                )
            if name in MIXERS and table != "ffns":
                raise UsageError(f"{label}: {table}.{name}: is an operator's name; give it another label")
    for name in file.groups:
        if name in file.mixers:
            raise UsageError(f"{label}: groups.{name}: is a mixer's label too; give the group another name")


def _blocks(
    file: SpaceFile, model_fields: Mapping[str, Any], label: str, default_name: str
) -> tuple[ArchConfig, dict[tuple[str, str], BlockSpec]]:
    """What all models share, and the block of each mixer with each feed-forward.

    Every choice goes through a configuration of one layer, so that it is checked as in a configuration.

    Raises:
        UsageError: a field of the model or a dimension is wrong, or two labels mean the same.
    """
    first_mixer, first_ffn = next(iter(file.mixers)), next(iter(file.ffns))
    configs: dict[tuple[str, str], ArchConfig] = {}
    for labels in [(m, first_ffn) for m in file.mixers] + [(first_mixer, f) for f in file.ffns]:
        configs[labels] = _one_layer(file, labels, model_fields, label, default_name)
    mixers = {m: configs[m, first_ffn].layers[0].mixer for m in file.mixers}
    ffns = {f: configs[first_mixer, f].layers[0].ffn for f in file.ffns}
    for table, parts in (("mixers", mixers), ("ffns", ffns)):
        seen: dict[object, str] = {}
        for name, part in parts.items():
            if part in seen:
                raise UsageError(f"{label}: {table}.{name}: is the same as {table}.{seen[part]}; remove one")
            seen[part] = name
    one = configs[first_mixer, first_ffn]
    blocks = {(m, f): make_layer(one.norm_eps, one.sandwich_norm, mixers[m], ffns[f]) for m in mixers for f in ffns}
    fields = {name: getattr(one, name) for name in one.__dataclass_fields__ if name != "layers"}
    return ArchConfig(**fields, layers=()), blocks


def _one_layer(
    file: SpaceFile, labels: tuple[str, str], model_fields: Mapping[str, Any], label: str, default_name: str
) -> ArchConfig:
    """The configuration whose only layer is made of these two.

    Raises:
        UsageError: as configurations say it, at the path that the field has in a space.
    """
    mixer, ffn = labels
    layer: dict[str, Part] = {"mixer": file.mixers[mixer], "ffn": file.ffns[ffn]}
    document = {"schema_version": CONFIG_SCHEMA_VERSION, **model_fields, "layers": [layer]}
    try:
        return from_file(parse_document(document, label), label, default_name=default_name)
    except UsageError as error:
        text = str(error).removeprefix(f"{label}: ")
        text = text.replace("layers[0].mixer", f"mixers.{mixer}", 1).replace("layers[0].ffn", f"ffns.{ffn}", 1)
        raise UsageError(f"{label}: {text}") from None


def _slots(file: SpaceFile, ffn_per_layer: bool, label: str) -> Slots:
    """The choices of each slot: all, or those that ``[slots]`` allows.

    Raises:
        UsageError: a slot is not there, or a label is unknown or comes twice.
    """
    period = file.period or file.layers
    if period > file.layers:
        raise UsageError(f"{label}: period: {period} is more than layers = {file.layers}; use at most that")
    choices_of = {m: [f"{m}{PLUS}{f}" for f in file.ffns] if ffn_per_layer else [m] for m in file.mixers}
    every = tuple(choice for choices in choices_of.values() for choice in choices)
    choices_of |= {choice: [choice] for choice in every}
    slots = [every] * period
    if len(every) * period > MAX_WEIGHTS:
        raise UsageError(f"{label}: layers: have {len(every) * period} choices; use fewer, or repeat them with period")
    for slot, allowed in file.slots.items():
        if slot not in map(str, range(period)):
            raise UsageError(f'{label}: slots: {clipped(slot)} is no slot; use "0" to "{period - 1}"')
        for i, name in enumerate(allowed):
            if name not in choices_of:
                meant = did_you_mean(name[:80], list(choices_of))
                raise UsageError(f"{label}: slots.{slot}[{i}]: {clipped(name)} is no mixer; {meant}")
        chosen = [choice for name in allowed for choice in choices_of[name]]
        if len(set(chosen)) < len(chosen):
            raise UsageError(f"{label}: slots.{slot}: a choice comes twice; remove one")
        slots[int(slot)] = tuple(chosen)
    return Slots(choices=tuple(slots), n_layers=file.layers)


def _rule(file: SpaceFile, rule: RuleFile, label: str, field: str) -> Rule:
    """A rule with the mixers that it is about.

    Raises:
        UsageError: it bounds nothing, contradicts itself, or is about no mixer.
    """
    least, most = rule.at_least, rule.at_most
    if least is None and most is None and rule.in_a_row is None:
        raise UsageError(f"{label}: {field}: bounds nothing; give at_least, at_most or in_a_row")
    if least is not None and most is not None and least > most:
        raise UsageError(f"{label}: {field}.at_least: {least} is more than at_most = {most}; no layout has both")
    in_group = rule.of in file.groups
    mixers: set[str] = set()
    for i, name in enumerate(file.groups[rule.of] if in_group else [rule.of]):
        found = {m for m, part in file.mixers.items() if name in (m, part["op"])}
        if not found:
            where = f"groups.{rule.of}[{i}]" if in_group else f"{field}.of"
            known = [*file.mixers, *{part["op"] for part in file.mixers.values()}, *([] if in_group else file.groups)]
            raise UsageError(
                f"{label}: {where}: {clipped(name)} is no mixer or operator here; {did_you_mean(name[:80], known)}"
            )
        mixers |= found
    return Rule(of=rule.of, mixers=frozenset(mixers), at_least=least, at_most=most, in_a_row=rule.in_a_row)
