"""A space: its parameters, the architectures they stand for, and the rules."""

import random

import pytest

from edgeprof.core.errors import UsageError
from edgeprof.core.toml import parse_toml
from edgeprof.models.accounting import parameters
from edgeprof.models.config import config_of_pattern, load_config
from edgeprof.operators.base import Dims
from edgeprof.search.linear import lightest
from edgeprof.search.space import SHIPPED_FOLDER, Space, load_space, space_names

TINY: Dims = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "window": 16, "kernel_size": 3}


def extremes(space: Space) -> list[int]:
    """Parameters of the smallest and the largest model that keep the rules."""
    weights, _ = space.block_sum(lambda block: block.params())
    negative = {name: {c: -w for c, w in choices.items()} for name, choices in weights.items()}
    found = [lightest(space.parameters, w, space.limits) for w in (weights, negative)]
    return [parameters(space.config(layout)) for layout in found if layout is not None]


def test_the_shipped_spaces_are_these() -> None:
    assert space_names() == ["lfm2", "phone-100m", "tiny"]


@pytest.mark.parametrize(
    ("name", "size", "smallest", "largest"),
    [
        ("tiny", 2 * 3**6, 254_976, 349_984),
        ("lfm2", 7**15, 333_223_808, 359_798_912),
        ("phone-100m", 3 * 15**13, 76_699_264, 112_386_688),
    ],
)
def test_a_shipped_space_is_as_large_as_its_file_says(name: str, size: int, smallest: int, largest: int) -> None:
    space = load_space(name)
    assert space.size == size
    assert extremes(space) == [smallest, largest]
    text = (SHIPPED_FOLDER / f"{name}.toml").read_text()
    assert f"{smallest:,}" in text
    assert f"{largest:,}" in text
    assert space.name == name
    assert parse_toml(text)["description"] == space.description


def test_lfm2_350m_is_in_the_space_lfm2() -> None:
    space, preset = load_space("lfm2"), load_config("lfm2-350m")
    layout = space.layout_of(preset)
    assert [i for i in range(1, 16) if layout[f"slot_{i:02d}"] == "gqa8"] == [2, 5, 8, 10, 12, 14]
    assert set(layout.values()) == {"conv3", "gqa8"}
    assert space.config(layout, name="lfm2-350m") == preset
    assert space.broken_rules(layout) == []


def test_a_slot_with_one_choice_is_no_parameter() -> None:
    space = load_space("lfm2")
    assert list(space.parameters) == [f"slot_{i:02d}" for i in range(1, 16)]
    assert space.config(dict.fromkeys(space.parameters, "gqa4")).pattern == "C" + "G" * 15


def test_a_shared_feed_forward_is_one_parameter() -> None:
    space = load_space("tiny")
    assert space.parameters["ffn"] == ("ff128", "ff192")
    layout = dict.fromkeys(space.parameters, "conv3") | {"ffn": "ff192"}
    assert {layer.ffn.dims()["d_ff"] for layer in space.config(layout).layers} == {192}


def test_a_layer_chooses_mixer_and_feed_forward_as_one() -> None:
    space = load_space("phone-100m")
    assert space.parameters["slot_00"] == ("conv3+ff1536", "conv3+ff2048", "conv3+ff2560")
    assert space.parameters["slot_01"][3] == "conv7+ff1536"
    assert "ffn" not in space.parameters
    layout = dict.fromkeys(space.parameters, "conv3+ff2048") | {"slot_13": "gqa2+ff2560"}
    config = space.config(layout)
    assert [layer.ffn.dims()["d_ff"] for layer in config.layers] == [2048] * 13 + [2560]
    assert config.pattern == "C" * 13 + "G"


def test_an_architecture_is_called_as_told_or_as_its_space() -> None:
    space = load_space("tiny")
    layout = space.random(random.Random(1))
    assert (space.config(layout).name, space.config(layout, name="best").name) == ("tiny", "best")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slot_00": "conv4"}, "slot_00: 'conv4' is no choice; did you mean conv3?"),
        ({"slot_99": "conv3"}, "'slot_99' is no parameter; did you mean"),
        ({"ffn": None}, "ffn: is missing in the layout; choose ff128, ff192"),
    ],
)
def test_a_layout_of_another_space_is_refused(change: dict[str, str | None], message: str) -> None:
    space = load_space("tiny")
    layout = {n: c for n, c in (space.random(random.Random(1)) | change).items() if c is not None}
    with pytest.raises(UsageError, match="space tiny: ") as caught:
        space.config(layout)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "fields", "why"),
    [
        ("CCSGSG", {"vocab": 500}, "has vocab = 500, the space 512"),
        ("CCSGSG", {"tied": False}, "has tied = False, the space True"),
        ("CCSG", {}, "has 4 layers, the space 6"),
        ("CCSGSG", {"d_ff": 160}, "its layer 0 is no choice there"),
        (
            "CCSGSG",
            {"d_ffs": (128, 128, 128, 128, 192, 128)},
            "its layer 4 is no choice there, or not with the feed-forward of the others",
        ),
        ("CCSGSG", {"window": 17}, "its layer 2 is no choice there"),
    ],
)
def test_a_foreign_config_is_told_in_what_it_differs(pattern: str, fields: dict[str, object], why: str) -> None:
    own = {"vocab": 512, "tied": True} | {n: v for n, v in fields.items() if n in ("vocab", "tied", "d_ffs")}
    dims: Dims = TINY | {"d_ff": 128} | {n: v for n, v in fields.items() if n in ("d_ff", "window")}  # type: ignore[operator]
    config = config_of_pattern(pattern, dims, name="other", d_model=64, **own)
    with pytest.raises(UsageError, match="config 'other' is not in the space tiny: ") as caught:
        load_space("tiny").layout_of(config)
    assert why in str(caught.value)


def test_a_config_of_the_second_feed_forward_is_found() -> None:
    config = config_of_pattern("CCSGSG", TINY | {"d_ff": 192}, name="x", d_model=64, vocab=512)
    layout = load_space("tiny").layout_of(config)
    assert layout["ffn"] == "ff192"
    assert [layout[f"slot_{i:02d}"] for i in range(6)] == ["conv3", "conv3", "swa16", "gqa2", "swa16", "gqa2"]


def test_the_blocks_are_those_that_can_occur() -> None:
    assert len(load_space("tiny").blocks()) == 3 * 2
    lfm2 = load_space("lfm2")
    assert len(lfm2.blocks()) == len(set(lfm2.blocks())) == 7
    first = [lfm2.block(0, "conv3", "ff4608"), *(lfm2.block(1, mixer, "ff4608") for mixer in lfm2.mixers)]
    assert set(first) == set(lfm2.blocks())


def test_a_block_that_a_layer_cannot_have_is_refused() -> None:
    space = load_space("lfm2")
    for slot, mixer in ((0, "gqa8"), (1, "gqa16"), (16, "conv3")):
        with pytest.raises(UsageError, match=f"space lfm2: .*layer {slot}"):
            space.block(slot, mixer, "ff4608")


def test_a_fixed_feed_forward_leaves_the_mixers_open() -> None:
    space = load_space("tiny")
    fixed = space.fixed_ffn("ff192")
    layout = fixed.random(random.Random(3))
    assert "ffn" not in fixed.parameters
    assert fixed.size * 2 == space.size
    assert fixed.config(layout) == space.config({**layout, "ffn": "ff192"})
    assert set(fixed.blocks()) < set(space.blocks())


@pytest.mark.parametrize(("name", "ffn"), [("tiny", "ff129"), ("phone-100m", "ff1536")])
def test_only_a_shared_feed_forward_can_be_fixed(name: str, ffn: str) -> None:
    with pytest.raises(UsageError, match=f"space {name}: no feed-forward '{ffn}' to fix"):
        load_space(name).fixed_ffn(ffn)


def test_a_broken_rule_is_told_in_words() -> None:
    space = load_space("tiny")
    layout = dict.fromkeys(space.parameters, "conv3") | {"ffn": "ff128"}
    assert space.broken_rules(layout) == ["at least 1 attention"]
    assert space.broken_rules(layout | {"slot_03": "swa16"}) == []


def test_random_layouts_keep_the_rules_and_reach_every_choice() -> None:
    space, rng = load_space("tiny"), random.Random(0)
    layouts = [space.random(rng) for _ in range(60)]
    assert all(not space.broken_rules(layout) for layout in layouts)
    assert all({lay[name] for lay in layouts} == set(choices) for name, choices in space.parameters.items())


def test_the_description_says_all_that_decides_what_is_in_a_space() -> None:
    space = load_space("tiny")
    described = space.describe()
    assert described["d_model"] == 64
    assert described["mixers"]["swa16"] == {
        "op": "swa", "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "window": 16, "qk_norm": True, "rope_theta": 1e6,
    }  # fmt: skip
    assert described["ffns"] == {"ff128": {"op": "swiglu", "d_ff": 128}, "ff192": {"op": "swiglu", "d_ff": 192}}
    assert described["rules"] == [{"of": "attention", "mixers": ["gqa2", "swa16"], "at_least": 1}]
    assert (described["layers"], described["period"], described["size"]) == (6, 6, 1458)
