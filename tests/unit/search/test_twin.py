"""The shrunken twin: every slot in its place, what layouts of a space differ in kept, and small."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprof.models.block import BlockSpec
from edgeprof.models.config import ArchConfig, config_of_pattern, load_config, make_layer
from edgeprof.operators.base import Dims, OperatorSpec
from edgeprof.operators.registry import make_spec
from edgeprof.search.twin import TwinReference, TwinSize, reference_of, shrink

WIDTH = 1024
REFERENCE = TwinReference(context=4096, d_ff_ratio=4.0)
SIZE = TwinSize(d_model=32, vocab=16, tokens=64)


def block(
    op: str = "gqa", *, d_ff: int = 4096, ffn: str = "swiglu", sandwich: bool = False, **dims: object
) -> BlockSpec:
    heads: Dims = {} if op == "short_conv" else {"n_heads": 16, "n_kv_heads": 8, "head_dim": 64}
    heads |= {"window": 512} if op == "swa" else {}
    mixer = make_spec(op, {"d_model": WIDTH, **heads, **dims})  # type: ignore[dict-item]
    return make_layer(1e-5, sandwich, mixer, make_spec(ffn, {"d_model": WIDTH, "d_ff": d_ff}))


def twin(
    *layers: BlockSpec, size: TwinSize = SIZE, reference: TwinReference = REFERENCE, **fields: object
) -> ArchConfig:
    config = ArchConfig(d_model=WIDTH, vocab=65_536, layers=layers, **fields)  # type: ignore[arg-type]
    return shrink(config, size, reference)


def mixer(op: str, **dims: object) -> OperatorSpec:
    return twin(block(op, **dims)).layers[0].mixer


def test_every_slot_is_kept_in_order() -> None:
    dims = {"n_heads": 16, "n_kv_heads": 8, "head_dim": 64, "window": 512, "d_ff": 4096}
    config = config_of_pattern("CCGSCGGSC", dims, name="model", d_model=WIDTH, vocab=65_536)
    assert shrink(config, SIZE, REFERENCE).pattern == "CCGSCGGSC"


def test_width_vocabulary_and_sequence_are_the_twins() -> None:
    small = twin(block())
    assert (small.d_model, small.vocab, small.max_context) == (32, 16, 64)
    assert small.layers[0].d_model == 32


def test_presets_have_twins() -> None:
    for name in ("lfm2-350m", "gemma-3-270m", "qwen3-0.6b", "tiny-hybrid"):
        config = load_config(name)
        assert shrink(config, SIZE, reference_of(config.layers)).pattern == config.pattern


def test_kernels_norms_and_feed_forwards_kinds_are_kept() -> None:
    layers = block("short_conv", kernel_size=7), block(qk_norm=False, ffn="geglu"), block("swa", rope_theta=1e4)
    small = twin(*layers, norm_eps=1e-6)
    conv, full, windowed = (layer.mixer.dims() for layer in small.layers)
    assert conv["kernel_size"] == 7
    assert full["qk_norm"] is False
    assert (windowed["qk_norm"], windowed["rope_theta"]) == (True, 1e4)
    assert [layer.ffn.name for layer in small.layers] == ["swiglu", "geglu", "swiglu"]
    assert small.norm_eps == 1e-6


def test_a_sandwich_stays_one() -> None:
    assert twin(block(sandwich=True), sandwich_norm=True).layers[0].sandwich


def test_the_usual_window_is_an_eighth_of_the_sequence() -> None:
    assert mixer("swa").dims()["window"] == 8


@given(st.lists(st.integers(1, 2**20), min_size=2, max_size=2), st.sampled_from([32, 64, 128]))
def test_a_wider_window_is_never_the_narrower_one_and_none_is_full_attention(windows: list[int], tokens: int) -> None:
    size = TwinSize(d_model=32, vocab=16, tokens=tokens)
    found = [twin(block("swa", window=w), size=size).layers[0].mixer.dims()["window"] for w in sorted(windows)]
    assert 2 <= found[0] <= found[1] <= tokens // 2


def test_windows_of_a_space_stay_different() -> None:
    blocks = [block("swa", window=window) for window in (128, 512, 2048)]
    reference = reference_of(blocks)
    found = [twin(b, reference=reference).layers[0].mixer.dims()["window"] for b in blocks]
    assert found == [2, 8, 32]


def test_heads_that_share_keys_and_values_stay_apart_from_those_that_do_not() -> None:
    heads = {n: mixer("gqa", n_kv_heads=n).dims() for n in (16, 8, 4, 2, 1)}
    found = {n: (d["n_heads"], d["n_kv_heads"], d["head_dim"]) for n, d in heads.items()}
    assert found == {16: (2, 2, 16)} | dict.fromkeys((8, 4, 2, 1), (2, 1, 16))


@pytest.mark.parametrize("width", [32, 48])
def test_heads_of_a_twin_fill_its_width(width: int) -> None:
    for n_kv_heads in (16, 8, 4):
        size = TwinSize(d_model=width, vocab=16, tokens=64)
        dims = twin(block(n_kv_heads=n_kv_heads), size=size).layers[0].mixer.dims()
        assert int(dims["n_heads"]) * int(dims["head_dim"]) == width


def test_feed_forwards_keep_their_ratios_around_twice_the_width() -> None:
    small = twin(block(d_ff=2048), block(d_ff=4096), block(d_ff=6144))
    assert [layer.ffn.dims()["d_ff"] for layer in small.layers] == [32, 64, 96]


def test_the_reference_of_a_space_is_the_middle_of_its_sizes() -> None:
    blocks = [block("swa", window=128), block("swa", window=2048, d_ff=2048), block("gqa", d_ff=8192)]
    assert reference_of(blocks) == TwinReference(context=8 * 512, d_ff_ratio=4.0)


def test_a_space_without_windows_has_the_usual_context() -> None:
    assert reference_of([block("gqa")]).context == TwinReference().context
