"""GGUF files, read back with the gguf package's own reader: names, shapes, values, metadata, vocabulary, refusals."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from edgeprof.core.errors import UsageError
from edgeprof.models.config import ArchConfig, config_of_pattern
from edgeprof.models.gguf import DTYPES, count_tensors, effective_weights, write_gguf
from edgeprof.models.gguf_tokenizer import byte_character
from edgeprof.models.model import model_of
from edgeprof.operators.arrays import Weights, random_weights
from edgeprof.operators.base import Dims

SIZES: Dims = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "window": 8, "kernel_size": 3, "d_ff": 96}


def make_config(pattern: str, *, ffn: str = "swiglu", dims: Dims | None = None, **fields: Any) -> ArchConfig:
    fields = {"d_model": 64, "vocab": 300, "max_context": 512, "name": pattern} | fields
    return config_of_pattern(pattern, SIZES | (dims or {}), ffn=ffn, **fields)


GEMMA: dict[str, Any] = {"ffn": "geglu", "sandwich_norm": True, "embedding_scale": 8.0, "dims": {"head_dim": 32}}


class Written:
    """A file as gguf reads it."""

    def __init__(self, config: ArchConfig, path: Path, **options: Any) -> None:
        self.weights: Weights = random_weights(model_of(config), 1)
        self.notes = write_gguf(config, self.weights, path, **options)
        reader = gguf.GGUFReader(path)
        self.meta = {name: field.contents() for name, field in reader.fields.items()}
        self.types = {t.name: t.tensor_type.name for t in reader.tensors}
        self.values = {t.name: dequantize(t.data, t.tensor_type) for t in reader.tensors}
        self.arch = self.meta["general.architecture"]

    def __getitem__(self, key: str) -> Any:
        return self.meta[f"{self.arch}.{key}"]


def test_lfm2_has_its_tensors_and_metadata(tmp_path: Path) -> None:
    config = make_config("CGC", bos_token=1, eos_token=2, pad_token=0)
    file = Written(config, tmp_path / "my.gguf", dtype="F32")
    w = file.weights
    expected = {
        "token_embd": w["embedding.table"],
        "token_embd_norm": w["head.norm"],
        "blk.0.attn_norm": w["layers.0.mixer_norm.norm"],
        "blk.0.shortconv.in_proj": np.concatenate([w[f"layers.0.mixer.w_{n}"] for n in "bch"]),
        "blk.0.shortconv.conv": w["layers.0.mixer.kernel"].T,
        "blk.0.shortconv.out_proj": w["layers.0.mixer.w_out"],
        "blk.1.attn_q": w["layers.1.mixer.w_q"],
        "blk.1.attn_k": w["layers.1.mixer.w_k"],
        "blk.1.attn_v": w["layers.1.mixer.w_v"],
        "blk.1.attn_output": w["layers.1.mixer.w_o"],
        "blk.1.attn_q_norm": w["layers.1.mixer.q_norm"],
        "blk.1.attn_k_norm": w["layers.1.mixer.k_norm"],
        "blk.2.ffn_norm": w["layers.2.ffn_norm.norm"],
        "blk.2.ffn_gate": w["layers.2.ffn.w_gate"],
        "blk.2.ffn_up": w["layers.2.ffn.w_up"],
        "blk.2.ffn_down": w["layers.2.ffn.w_down"],
    }
    for name, value in expected.items():
        np.testing.assert_array_equal(file.values[f"{name}.weight"], value, name)
    assert sum(v.size for v in file.values.values()) == model_of(config).params()
    assert len(file.values) == count_tensors(config)
    assert set(file.types.values()) == {"F32"}
    assert (file.arch, file.meta["general.name"], file.meta["general.file_type"]) == ("lfm2", "CGC", 0)
    assert file["attention.head_count_kv"] == [0, 2, 0]
    assert (file["attention.head_count"], file["attention.key_length"], file["attention.value_length"]) == (4, 16, 16)
    assert (file["block_count"], file["embedding_length"], file["feed_forward_length"]) == (3, 64, 96)
    assert (file["context_length"], file["vocab_size"], file["shortconv.l_cache"]) == (512, 300, 3)
    assert (file["rope.freq_base"], file["rope.dimension_count"]) == (1e6, 16)
    assert file["attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    ids = [file.meta[f"tokenizer.ggml.{t}_token_id"] for t in ("bos", "eos", "padding")]
    assert ids == [1, 2, 0]


@pytest.mark.parametrize(
    ("pattern", "options", "arch", "final", "own"),
    [
        ("GG", {"dims": {"head_dim": 32}}, "qwen3", "output_norm", {"attn_q_norm", "attn_k_norm"}),
        ("GG", {"dims": {"qk_norm": False}, "tied": False}, "llama", "output_norm", set()),
        ("SG", GEMMA, "gemma3", "output_norm", {"attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm"}),
        ("GC", {"tied": False}, "lfm2", "token_embd_norm", {"attn_q_norm", "attn_k_norm"}),
    ],
)
def test_each_architecture_is_chosen_by_what_the_layers_are(
    pattern: str, options: dict[str, Any], arch: str, final: str, own: set[str], tmp_path: Path
) -> None:
    config = make_config(pattern, **options)
    file = Written(config, tmp_path / "my.gguf")
    assert file.arch == arch
    common = {"attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"}
    block = {name.split(".")[2] for name in file.values if name.startswith("blk.0.")}
    assert block == common | own
    ends = {name for name in file.values if not name.startswith("blk.")}
    assert ends == {"token_embd.weight", f"{final}.weight"} | (set() if config.tied else {"output.weight"})
    assert sum(v.size for v in file.values.values()) == model_of(config).params()


def test_gemma3_says_which_layers_slide(tmp_path: Path) -> None:
    config = make_config("SSG", **(GEMMA | {"dims": {"head_dim": 32, "rope_theta": 5e5}}))
    file = Written(config, tmp_path / "my.gguf")
    assert file["attention.sliding_window_pattern"] == [True, True, False]
    assert (file["attention.sliding_window"], file["rope.freq_base"], file["rope.freq_base_swa"]) == (8, 5e5, 5e5)


def rotated(x_TE: np.ndarray, *, neighbours: bool) -> np.ndarray:
    """RoPE as complex numbers, made of neighbours or of a head's halves; pairs in the order of their frequencies."""
    size = x_TE.shape[-1]
    real, imaginary = (x_TE[:, 0::2], x_TE[:, 1::2]) if neighbours else (x_TE[:, : size // 2], x_TE[:, size // 2 :])
    angles = np.outer(np.arange(len(x_TE)), 1e4 ** (-np.arange(0, size, 2) / size))
    return (real + 1j * imaginary) * np.exp(1j * angles)


def test_llama_rotates_neighbours(tmp_path: Path) -> None:
    file = Written(make_config("G", dims={"qk_norm": False}), tmp_path / "my.gguf", dtype="F32")
    x_TD = np.random.default_rng(0).standard_normal((5, 64))
    for name, heads in (("q", 4), ("k", 2)):
        ours, theirs = file.weights[f"layers.0.mixer.w_{name}"], file.values[f"blk.0.attn_{name}.weight"]
        assert not np.array_equal(ours, theirs)
        for head in range(heads):
            rows = slice(16 * head, 16 * head + 16)
            halves, pairs = (
                rotated(x_TD @ ours[rows].T, neighbours=False),
                rotated(x_TD @ theirs[rows].T, neighbours=True),
            )
            np.testing.assert_allclose(pairs, halves, rtol=1e-6)
    np.testing.assert_array_equal(file.values["blk.0.attn_v.weight"], file.weights["layers.0.mixer.w_v"])


HALF = 2.0**-11
"""Rounding to F16, relative."""

STEPS = {"F32": 0.0, "F16": HALF, "Q8_0": 0.5 / 127 + HALF, "Q4_0": 1 / 8 + HALF}
"""Largest error over the largest value of a block of 32: half a step, or a whole one where Q4_0 clips; scales are F16."""


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_come_back_within_the_formats_error(dtype: str, tmp_path: Path) -> None:
    config = make_config("CG")
    file = Written(config, tmp_path / "my.gguf", dtype=dtype)
    effective = effective_weights(config, file.weights, dtype=dtype)
    assert set(effective) == set(file.weights)
    matrices = {
        "embedding.table": "token_embd",
        "layers.1.ffn.w_down": "blk.1.ffn_down",
        "layers.0.mixer.w_out": "blk.0.shortconv.out_proj",
    }
    for ours, theirs in matrices.items():
        given, stored = file.weights[ours], file.values[f"{theirs}.weight"]
        np.testing.assert_array_equal(effective[ours], stored)
        blocks, error = given.reshape(-1, 32), np.abs(stored - given).reshape(-1, 32)
        assert (error <= STEPS[dtype] * np.abs(blocks).max(-1, keepdims=True)).all()
        assert error.any() == (dtype != "F32")
    np.testing.assert_array_equal(effective["layers.0.mixer.w_h"], file.values["blk.0.shortconv.in_proj.weight"][128:])
    np.testing.assert_array_equal(effective["layers.0.mixer.kernel"], file.weights["layers.0.mixer.kernel"])


def test_vectors_stay_in_f32_and_a_q4_0_projection_is_in_q8_0(tmp_path: Path) -> None:
    for config, table in ((make_config("CG"), "Q8_0"), (make_config("CG", tied=False), "Q4_0")):
        file = Written(config, tmp_path / "my.gguf", dtype="Q4_0")
        (tmp_path / "my.gguf").unlink()
        assert file.types["token_embd.weight"] == table
        assert file.types.get("output.weight", "Q8_0") == "Q8_0"
        assert file.types["blk.1.attn_q.weight"] == "Q4_0"
        assert {t for n, t in file.types.items() if "norm" in n or n.endswith("conv.weight")} == {"F32"}
        assert file.meta["general.file_type"] == 2
        assert "the projection onto the vocabulary is in Q8_0" in file.notes


def test_rows_that_no_block_divides_stay_in_f16(tmp_path: Path) -> None:
    file = Written(make_config("GG", dims={"d_ff": 40}), tmp_path / "my.gguf", dtype="Q8_0")
    assert {n for n, t in file.types.items() if t == "F16"} == {"blk.0.ffn_down.weight", "blk.1.ffn_down.weight"}
    assert any(note.startswith("2 of 15 matrices stay in F16") for note in file.notes)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["F16", "Q8_0", "Q4_0"])
def test_a_value_beyond_the_formats_range_is_refused(dtype: str, tmp_path: Path) -> None:
    config = make_config("GG")
    weights = random_weights(model_of(config), 0)
    weights["layers.1.mixer.w_v"][0, 0] = 1e9
    with pytest.raises(
        UsageError, match=rf"weights: blk.1.attn_v.weight: 1e\+09 is beyond {dtype}'s range; use --dtype F32"
    ):
        write_gguf(config, weights, tmp_path / "my.gguf", dtype=dtype)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (make_config("CSG"), r"layers\[2\].mixer.op: all attention layers must be gqa, or swa with one window,"),
        (make_config("CCC"), "layers: no layer attends"),
        (make_config("GS"), r"layers\[1\].mixer.op: swa has no form in llama.cpp's qwen3"),
        (make_config("CG", ffn="geglu"), r"layers\[0\].ffn.op: geglu has no form in llama.cpp's lfm2"),
        (make_config("CG", dims={"qk_norm": False}), r"layers\[1\].mixer.qk_norm: must be true"),
        (make_config("CG", dims={"kernel_size": 1}), "layers.mixer.kernel_size: 1 is too short"),
        (
            make_config("CG", dims={"head_dim": 32}),
            r"layers\[1\].mixer.n_heads: n_heads times head_dim must be d_model",
        ),
        (make_config("CG", embedding_scale=2.0), "embedding_scale: is 2, and must be 1"),
        (make_config("CG", sandwich_norm=True), "sandwich_norm: must be false"),
        (make_config("GG", embedding_scale=8.0), "sandwich_norm: must be true in llama.cpp's gemma3"),
        (make_config("G" * 62, **GEMMA), "layers: 62 blocks mean another attention scale"),
        (make_config("G" * 513, name="deep"), "layers: 513 blocks are more than the 512 that fit"),
    ],
)
def test_what_llama_cpp_cannot_express_is_refused_by_its_field(config: ArchConfig, field: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^config: {field}"):
        write_gguf(config, {}, tmp_path / "my.gguf")
    assert not (tmp_path / "my.gguf").exists()


@pytest.mark.parametrize(
    ("pattern", "dims", "field"),
    [
        ("CGC", {"kernel_size": 5}, r"layers\[2\].mixer.kernel_size: is 5 after 3"),
        ("CGG", {"n_heads": 2, "head_dim": 32}, r"layers\[2\].mixer.n_heads: is 2 after 4"),
        ("CGG", {"rope_theta": 1e4}, r"layers\[2\].mixer.rope_theta: is 10000.0 after 1000000.0"),
        ("CSS", {"window": 9}, r"layers\[2\].mixer.window: all attention layers must be"),
        ("GGG", {"n_kv_heads": 4}, r"layers\[2\].mixer.n_kv_heads: is 4 after 2"),
        ("GGG", {"d_ff": 32}, r"layers\[2\].ffn.d_ff: is 32 after 96"),
    ],
)
def test_layers_that_must_be_alike_are_refused_where_they_differ(pattern: str, dims: Dims, field: str) -> None:
    first, other = make_config(pattern), make_config(pattern, dims=dims)
    mixed = ArchConfig(d_model=64, vocab=300, layers=(*first.layers[:2], other.layers[2]))
    with pytest.raises(UsageError, match=f"^config: {field}"):
        count_tensors(mixed)


def test_lfm2_takes_kv_heads_layer_by_layer(tmp_path: Path) -> None:
    first, other = make_config("CGG"), make_config("CGG", dims={"n_kv_heads": 4})
    mixed = ArchConfig(d_model=64, vocab=300, layers=(*first.layers[:2], other.layers[2]))
    assert Written(mixed, tmp_path / "my.gguf")["attention.head_count_kv"] == [0, 2, 4]


def test_the_placeholder_vocabulary_is_the_bytes(tmp_path: Path) -> None:
    file = Written(make_config("GG", eos_token=299), tmp_path / "my.gguf")
    tokens, types = (file.meta[f"tokenizer.ggml.{n}"] for n in ("tokens", "token_type"))
    assert len(set(tokens)) == len(types) == 300
    assert (tokens[ord("A")], tokens[ord(" ")], tokens[ord("\n")], tokens[255]) == ("A", "Ġ", "Ċ", "ÿ")
    assert (types[:256], set(types[256:299]), types[299]) == ([1] * 256, {5}, 3)
    assert any("no tokenizer.json: the vocabulary is a placeholder" in note for note in file.notes)


def test_bytes_have_gpt2s_characters() -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    assert {byte_character(b) for b in range(256)} == set(ByteLevel.alphabet())
    for character in "é\n\x00\xad~":
        shown = ByteLevel(add_prefix_space=False).pre_tokenize_str(character)[0][0]
        assert "".join(byte_character(b) for b in character.encode()) == shown


def tokenizer_document(**changes: Any) -> dict[str, Any]:
    vocab = {byte_character(b): b + 3 for b in range(256)} | {"ab": 259, "abc": 260}
    return {
        "added_tokens": [
            {"id": 0, "content": "<pad>", "special": True},
            {"id": 1, "content": "<s>", "special": True},
            {"id": 262, "content": "<tool>", "special": False},
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {}}]},
        "model": {"type": "BPE", "vocab": vocab, "merges": [["a", "b"], "ab c"]},
    } | changes


def with_tokenizer(folder: Path, **changes: Any) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_document(**changes)))
    return folder


def test_a_tokenizer_becomes_the_vocabulary(tmp_path: Path) -> None:
    file = Written(make_config("GG"), tmp_path / "my.gguf", tokenizer=with_tokenizer(tmp_path))
    tokens, types = (file.meta[f"tokenizer.ggml.{n}"] for n in ("tokens", "token_type"))
    assert (tokens[0], tokens[1], tokens[3 + ord("A")], tokens[260], tokens[262]) == (
        "<pad>",
        "<s>",
        "A",
        "abc",
        "<tool>",
    )
    assert (types[0], types[3], types[262], types[261], len(tokens)) == (3, 1, 4, 5, 300)
    assert file.meta["tokenizer.ggml.merges"] == ["a b", "ab c"]
    assert (file.meta["tokenizer.ggml.pre"], file.meta["tokenizer.ggml.add_bos_token"]) == ("gpt-2", True)
    assert "vocabulary from tokenizer.json, 261 tokens" in file.notes


QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    ("regex", "pre"),
    [(QWEN2, "qwen2"), (QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|"), "llama-bpe"), (r"\d|\D+", "default")],
)
def test_the_split_of_text_is_known_by_its_expression(regex: str, pre: str, tmp_path: Path) -> None:
    steps = [{"type": "Split", "pattern": {"Regex": regex}}, {"type": "ByteLevel", "use_regex": False}]
    folder = with_tokenizer(tmp_path, pre_tokenizer={"type": "Sequence", "pretokenizers": steps})
    file = Written(make_config("GG"), tmp_path / "my.gguf", tokenizer=folder)
    assert file.meta["tokenizer.ggml.pre"] == pre
    assert any("none that llama.cpp knows" in note for note in file.notes) == (pre == "default")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"type": "Unigram"}}, "model: not a byte-level BPE"),
        ({"model": {"type": "BPE", "byte_fallback": True}}, "model: not a byte-level BPE"),
        ({"model": {"type": "BPE", "vocab": {"a": 300}, "merges": []}}, "token 300: config.vocab is 300"),
        ({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}, "-1 is no token id"),
        ({"model": {"type": "BPE", "vocab": [], "merges": []}}, "model.vocab: not a table"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["ab"]}}, "model.merges: 'ab' is no pair"),
        ({"added_tokens": [{"id": 5}]}, "added_tokens: not a list of tokens"),
        ({"added_tokens": [{"id": 299, "content": "ab"}]}, "two ids have the same token"),
    ],
)
def test_a_tokenizer_that_cannot_be_written_is_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        write_gguf(make_config("GG"), {}, tmp_path / "my.gguf", tokenizer=with_tokenizer(tmp_path, **changes))


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_broken_tokenizer_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"tokenizer.json: "):
        write_gguf(make_config("GG"), {}, tmp_path / "my.gguf", tokenizer=tmp_path)
