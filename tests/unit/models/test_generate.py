"""Generation: greedy and sampled, whole or chunked prefill, and where it stops."""

from itertools import islice

import pytest
import torch
from torch import Tensor

from edgeprof.core.errors import UsageError
from edgeprof.models.config import load_config
from edgeprof.models.generate import Sampling, generate, warp
from edgeprof.models.model import model_of
from edgeprof.models.module import Model
from edgeprof.operators.arrays import random_weights

SPEC = model_of(load_config("tiny-hybrid"))
PROMPT = [3, 141, 59, 26, 5, 35, 89]


@pytest.fixture(scope="module")
def model() -> Model:
    model = Model(SPEC)
    model.load_state_dict({n: torch.from_numpy(w) for n, w in random_weights(SPEC, 1).items()}, assign=True)
    return model


def greedy(model: Model, count: int, **options: object) -> list[int]:
    return list(generate(model, PROMPT, max_new_tokens=count, **options))


def test_each_greedy_token_is_the_likeliest_after_all_before_it(model: Model) -> None:
    new = greedy(model, 8)
    for index, token in enumerate(new):
        context = torch.tensor([PROMPT + new[:index]])
        with torch.no_grad():
            logits = model(context, model.init_state(1, context.shape[1]), 0)
        assert token == logits[0, -1].argmax()


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_a_chunked_prefill_changes_nothing(model: Model, chunk: int) -> None:
    assert greedy(model, 8, prefill_chunk=chunk) == greedy(model, 8)


def test_the_end_token_is_yielded_and_ends(model: Model) -> None:
    free = greedy(model, 8)
    end = free[3]
    assert greedy(model, 8, eos=end) == free[: free.index(end) + 1]


def test_tokens_come_one_by_one(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not asked for is not computed: neither after the consumer stops nor behind the last token."""
    calls: list[int] = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda x, state, pos: (calls.append(pos), forward(x, state, pos))[1])
    tokens = generate(model, PROMPT, max_new_tokens=5)
    assert calls == []
    list(islice(tokens, 2))
    assert calls == [0, 7]
    list(tokens)
    assert calls == [0, 7, 8, 9, 10]


def test_the_consumer_is_not_left_in_inference_mode(model: Model) -> None:
    for _ in generate(model, PROMPT, max_new_tokens=2):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


def test_a_seed_repeats_a_sample_and_another_seed_makes_another(model: Model) -> None:
    hot = [greedy(model, 16, sampling=Sampling(temperature=5.0, seed=seed)) for seed in (1, 1, 2)]
    assert hot[0] == hot[1]
    assert hot[0] != hot[2]


def test_the_likeliest_of_one_is_the_greedy_choice(model: Model) -> None:
    for sampling in (Sampling(temperature=5.0, top_k=1), Sampling(temperature=5.0, top_p=1e-6)):
        assert greedy(model, 8, sampling=sampling) == greedy(model, 8)


def kept(logits: Tensor, **options: float) -> list[list[int]]:
    warped = warp(logits, Sampling(temperature=1.0, **options))
    return [row.isfinite().nonzero()[:, 0].tolist() for row in warped]


def test_top_k_and_top_p_keep_what_they_say() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.05, 0.35], [0.25, 0.25, 0.3, 0.2]]).log()
    assert kept(logits) == [[0, 1, 2, 3]] * 2
    assert kept(logits, top_k=2) == [[1, 3], [0, 1, 2]]  # a tie at the limit keeps both
    assert kept(logits, top_p=0.75) == [[1, 3], [0, 1, 2]]
    assert kept(logits, top_p=0.9) == [[0, 1, 3], [0, 1, 2, 3]]
    assert kept(logits, top_k=3, top_p=0.88) == [[1, 3], [0, 1, 2]]  # top_p counts what top_k left


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 5}, {"top_p": 0.7}, {"top_k": 20, "top_p": 0.9}, {"temperature": 0.4, "top_p": 0.5}]
)
def test_probabilities_are_those_of_transformers(options: dict[str, float]) -> None:
    from transformers.generation import logits_process

    logits = 3 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    expected = logits_process.TemperatureLogitsWarper(options.get("temperature", 1.0))(None, logits)
    if "top_k" in options:
        expected = logits_process.TopKLogitsWarper(options["top_k"])(None, expected)
    if "top_p" in options:
        expected = logits_process.TopPLogitsWarper(options["top_p"])(None, expected)
    ours = warp(logits, Sampling(**({"temperature": 1.0} | options)))
    torch.testing.assert_close(ours.softmax(-1), expected.softmax(-1))


@pytest.mark.parametrize(
    ("prompt", "options", "field"),
    [
        ([], {}, "prompt: is empty"),
        ([3, 512], {}, "prompt: token 512"),
        ([-1], {}, "prompt: token -1"),
        (PROMPT, {"max_new_tokens": 0}, "max_new_tokens: 0"),
        (PROMPT, {"prefill_chunk": 0}, "prefill_chunk: 0"),
        (PROMPT, {"sampling": Sampling(temperature=-1.0)}, "temperature: -1"),
        (PROMPT, {"sampling": Sampling(temperature=float("nan"))}, "temperature: nan"),
        (PROMPT, {"sampling": Sampling(temperature=1.0, top_k=0)}, "top_k: 0"),
        (PROMPT, {"sampling": Sampling(temperature=1.0, top_p=0.0)}, "top_p: 0"),
        (PROMPT, {"sampling": Sampling(temperature=1.0, top_p=1.5)}, "top_p: 1.5"),
    ],
)
def test_what_cannot_be_generated_is_refused_at_once(
    model: Model, prompt: list[int], options: dict[str, object], field: str
) -> None:
    with pytest.raises(UsageError, match=field):
        generate(model, prompt, **({"max_new_tokens": 4} | options))
