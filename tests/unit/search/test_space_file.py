"""Space files: what they can say, and what a wrong one is answered with."""

import random
from pathlib import Path

import pytest

from edgeprof.core.errors import UsageError
from edgeprof.search.space import Space, load_space, parse_space, space_path

GOOD = """schema_version = 1
description = "mine"
d_model = 32
vocab = 40
layers = 4

[mixers]
conv3 = { op = "short_conv", kernel_size = 3 }
gqa2 = { op = "gqa", n_heads = 4, n_kv_heads = 2, head_dim = 8 }

[ffns]
ff64 = { op = "swiglu", d_ff = 64 }
"""
PER_LAYER = GOOD.replace("[ffns]", "[ffns]\nff32 = { op = 'swiglu', d_ff = 32 }").replace(
    "layers = 4", "layers = 4\nffn_per_layer = true"
)
RULE = GOOD + '\n[[rules]]\nof = "gqa"\n'


def load(folder: Path, text: str) -> Space:
    path = folder / "my.toml"
    path.write_text(text)
    return load_space(str(path))


def error(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(folder, text)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    return message


def test_a_file_is_named_by_itself_unless_it_has_a_name(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).name == "my"
    assert load(tmp_path, GOOD.replace("vocab", 'name = "yours"\nvocab')).name == "yours"


def test_the_model_of_a_space_is_as_in_a_configuration(tmp_path: Path) -> None:
    text = GOOD.replace("vocab = 40", "vocab = 40\ntied = false\nnorm_eps = 1e-6\nsandwich_norm = true\neos_token = 7")
    space = load(tmp_path, text)
    config = space.config(space.random(random.Random(0)))
    assert (config.tied, config.norm_eps, config.sandwich_norm, config.eos_token) == (False, 1e-6, True, 7)
    assert all(layer.sandwich for layer in config.layers)
    assert space.block(0, "gqa2", "ff64").mixer.dims()["eps"] == 1e-6


def test_a_period_repeats_its_choices(tmp_path: Path) -> None:
    space = load(tmp_path, GOOD.replace("layers = 4", "layers = 5\nperiod = 2"))
    assert list(space.parameters) == ["slot_00", "slot_01"]
    config = space.config({"slot_00": "conv3", "slot_01": "gqa2"})
    assert config.pattern == "CGCGC"
    assert space.layout_of(config) == {"slot_00": "conv3", "slot_01": "gqa2"}
    broken = load(tmp_path, GOOD.replace("layers = 4", "layers = 5")).config(
        {"slot_00": "conv3", "slot_01": "gqa2", "slot_02": "conv3", "slot_03": "conv3", "slot_04": "conv3"}
    )
    with pytest.raises(UsageError, match="does not repeat its first 2 layers"):
        space.layout_of(broken)


def test_a_slot_allows_mixers_or_whole_choices(tmp_path: Path) -> None:
    space = load(tmp_path, PER_LAYER + '[slots]\n"1" = ["conv3", "gqa2+ff64"]\n"2" = ["gqa2+ff32"]\n')
    assert space.parameters["slot_01"] == ("conv3+ff32", "conv3+ff64", "gqa2+ff64")
    assert "slot_02" not in space.parameters
    assert space.size == 4 * 3 * 4


def test_a_single_feed_forward_is_no_part_of_a_choice(tmp_path: Path) -> None:
    space = load(tmp_path, GOOD.replace("layers = 4", "layers = 4\nffn_per_layer = true"))
    assert space.parameters["slot_00"] == ("conv3", "gqa2")


@pytest.mark.parametrize(
    ("rule", "pattern", "kept"),
    [
        ("at_least = 2", "CGCG", True),
        ("at_least = 2", "CCCG", False),
        ("at_most = 1", "CCCG", True),
        ("at_most = 1", "GCCG", False),
        ("at_most = 0", "CCCC", True),
        ("in_a_row = 2", "GGCG", True),
        ("in_a_row = 2", "CGGG", False),
        ("in_a_row = 3", "GGGG", False),
    ],
)
def test_a_rule_bounds_how_many_and_how_many_in_a_row(rule: str, pattern: str, kept: bool, tmp_path: Path) -> None:
    space = load(tmp_path, RULE + rule)
    layout = {f"slot_{i:02d}": {"C": "conv3", "G": "gqa2"}[letter] for i, letter in enumerate(pattern)}
    assert (space.broken_rules(layout) == []) is kept


def test_a_rule_is_about_a_label_an_operator_or_a_group(tmp_path: Path) -> None:
    more = GOOD.replace("[ffns]", 'gqa1 = { op = "gqa", n_heads = 4, n_kv_heads = 1, head_dim = 8 }\n[ffns]')
    for of, mixers in (("gqa1", {"gqa1"}), ("gqa", {"gqa1", "gqa2"}), ("mine", {"gqa1", "conv3"})):
        groups = '[groups]\nmine = ["gqa1", "short_conv"]\n'
        space = load(tmp_path, f'{more}{groups}[[rules]]\nof = "{of}"\nat_most = 3\n')
        assert space.rules[0].mixers == mixers


def test_a_rule_that_hardly_any_layout_keeps_is_kept_by_random_layouts(tmp_path: Path) -> None:
    space = load(tmp_path, RULE.replace("layers = 4", "layers = 40") + "at_most = 1")
    layouts = [space.random(random.Random(seed)) for seed in range(12)]
    assert all(not space.broken_rules(layout) for layout in layouts)
    assert len({tuple(layout.values()) for layout in layouts}) > 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("vocab", "vocabs"), "my.toml: vocabs: no such field; did you mean vocab?"),
        (GOOD.replace("d_model = 32", ""), "my.toml: d_model: is missing; add it"),
        (GOOD.replace("layers = 4", ""), "my.toml: layers: is missing; add it"),
        (GOOD.replace("layers = 4", "layers = 0"), "my.toml: layers: 0 is too small; use 1 or more"),
        (GOOD.replace("layers = 4", "layers = 1_000_000_000"), "layers: 1000000000 is too large; use at most 1024"),
        (GOOD.replace("layers = 4", "layers = true"), "my.toml: layers: True is not a whole number"),
        (GOOD.replace("layers = 4", "layers = 4\nperiod = 5"), "period: 5 is more than layers = 4; use at most that"),
        (GOOD.replace("description", "descriptions"), "my.toml: description: is missing; add it"),
        (GOOD.replace("schema_version = 1", ""), "my.toml: schema_version: write schema_version = 1"),
        (GOOD.replace("version = 1", "version = 2"), "my.toml: schema_version: 2 is newer than 1; upgrade edgeprof"),
        (GOOD.replace('"short_conv"', '"conv"'), "my.toml: mixers.conv3.op: 'conv' is none; did you mean short_conv?"),
        (GOOD.replace('op = "gqa", ', ""), "my.toml: mixers.gqa2.op: is missing; name short_conv or swa or gqa"),
        (GOOD.replace("n_heads = 4", "n_heads = 3"), "mixers.gqa2.n_kv_heads: 2 does not divide n_heads = 3"),
        (GOOD.replace("kernel_size = 3", "kernel_size = 0"), "mixers.conv3.kernel_size: 0 is not a size"),
        (GOOD.replace("kernel_size = 3", "window = 3"), "mixers.conv3.window: no such dimension"),
        (GOOD.replace("d_ff = 64", "d_model = 64"), "ffns.ff64.d_model: is the whole model's; write d_model at the top"),
        (GOOD.replace("conv3 =", "conv3 = { op = 'gqa' }\nconv3 ="), "conv3: comes twice (line 9); remove one"),
        (GOOD.replace("gqa2 =", "k3 = { op = 'short_conv', kernel_size = 3 }\ngqa2 ="), "mixers.k3: is the same as mixers.conv3"),
        (GOOD.replace("gqa2 =", "gqa =").replace("ff64", "f"), "mixers.gqa: is an operator's name; give it another label"),
        (GOOD.replace("gqa2 =", '"gqa+2" ='), "mixers: 'gqa+2' is no label; use 1 to 32 of a-z"),
        (GOOD.replace("[ffns]", "[ffn]"), "my.toml: ffns: is missing; add it"),
        (GOOD.replace("[mixers]", "[mixers]\nx = 3"), "my.toml: mixers.x: 3 is not a table"),
        (GOOD + '[slots]\n"4" = ["conv3"]', "my.toml: slots: '4' is no slot; use \"0\" to \"3\""),
        (GOOD + '[slots]\n"00" = ["conv3"]', "my.toml: slots: '00' is no slot"),
        (GOOD + '[slots]\n"0" = ["conv4"]', "my.toml: slots.0[0]: 'conv4' is no mixer; did you mean conv3?"),
        (GOOD + '[slots]\n"0" = []', "my.toml: slots.0: is empty; give at least one"),
        (GOOD + '[slots]\n"0" = ["conv3", "conv3"]', "my.toml: slots.0: a choice comes twice; remove one"),
        (PER_LAYER + '[slots]\n"0" = ["conv3", "conv3+ff32"]', "my.toml: slots.0: a choice comes twice; remove one"),
        (GOOD + '[groups]\nconv3 = ["gqa"]', "my.toml: groups.conv3: is a mixer's label too"),
        (GOOD + '[groups]\na = ["swa"]\n[[rules]]\nof = "a"\nat_most = 1', "groups.a[0]: 'swa' is no mixer or operator here"),
        (RULE, "my.toml: rules[0]: bounds nothing; give at_least, at_most or in_a_row"),
        (RULE + "at_last = 1", "my.toml: rules[0].at_last: no such field; did you mean at_least or at_most?"),
        (RULE.replace('of = "gqa"', 'of = "swa"') + "at_most = 1", "my.toml: rules[0].of: 'swa' is no mixer or operator here"),
        (RULE + "at_least = 3\nat_most = 2", "rules[0].at_least: 3 is more than at_most = 2"),
        (RULE + "at_least = 5", "my.toml: rules: no layout has at least 5 gqa; relax the rule"),
        (RULE + "at_least = 4\n[slots]\n'1' = ['conv3']", "my.toml: rules: no layout has at least 4 gqa"),
        (RULE + "at_least = 4\nin_a_row = 2", "my.toml: rules: no layout keeps all of them at once; relax one"),
        (
            RULE + "at_least = 3\n[[rules]]\nof = 'short_conv'\nat_least = 2",
            "my.toml: rules: no layout keeps all of them at once; relax one",
        ),
        (GOOD.replace("layers = 4", "layers = 1024").replace("[ffns]", "".join(
            f"c{i} = {{ op = 'short_conv', kernel_size = {i} }}\n" for i in range(4, 14)) + "[ffns]"),
            "layers: have 12288 choices; use fewer, or repeat them with period"),
        ("layers = [", "my.toml: "),
    ],
)  # fmt: skip
def test_a_wrong_file_is_answered_with_the_field_and_the_fix(text: str, message: str, tmp_path: Path) -> None:
    assert message in error(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lfm", "space 'lfm': no .toml file, and no shipped space; did you mean lfm2?"),
        ("nowhere/x.toml", "nowhere/x.toml: no such file; give a space's name or its .toml file"),
        ("x.json", "space 'x.json': no .toml file, and no shipped space; known: lfm2, phone-100m, tiny"),
    ],
)
def test_a_space_that_is_not_there_is_answered_with_the_fix(name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_space(name)
    assert str(caught.value) == message


def test_a_space_is_read_from_its_text_as_from_its_file(tmp_path: Path) -> None:
    assert parse_space(GOOD, "my") == load(tmp_path, GOOD)
    assert parse_space(space_path("lfm2").read_text(), "lfm2") == load_space("lfm2")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a = [", "kept: is no TOML: "), (GOOD.replace("layers = 4", "layers = 0"), "kept: layers: 0 is too small")],
)
def test_a_wrong_text_is_answered_as_a_file_is(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_space(text, "kept")
    assert str(caught.value).startswith(message)
