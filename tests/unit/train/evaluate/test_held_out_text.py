import math

import pytest
import torch

from edgeprof.core.errors import UsageError
from edgeprof.train.data.dataset import open_data
from edgeprof.train.data.loader import IGNORED, in_order
from edgeprof.train.data.prepare import Order, prepare
from edgeprof.train.evaluate.held_out_text import score_held_out
from edgeprof.train.evaluate.language_model import open_model
from edgeprof.train.evaluate.recall import recall
from edgeprof.train.evaluate.samples import draw_samples

CPU = torch.device("cpu")


def score(folder, data, **changes):
    return score_held_out(open_model(folder, CPU), open_data(data), **({"seq_len": 32, "batch": 4} | changes))


def by_hand(model, data):
    """Nats and scored tokens, document part by document part."""
    nats, count = 0.0, 0
    for batch in in_order(data.split("held_out"), batch=1, seq_len=32):
        ids, targets, documents = (x[0] for x in batch)
        for number in documents.unique():
            here = documents == number
            with torch.no_grad():
                logits = model(ids[here][None]).logits[0].double()
            scored = targets[here] != IGNORED
            nats -= float(logits.log_softmax(-1)[scored].gather(1, targets[here][scored][:, None]).sum())
            count += int(scored.sum())
    return nats, count


def test_the_loss_of_a_model_is_that_of_each_document_by_itself(hf_folder, data):
    folder = hf_folder("lfm2")
    found = score(folder, data)
    nats, count = by_hand(open_model(folder, CPU).model, open_data(data))
    assert found.tokens == count
    assert found.loss == pytest.approx(nats / count, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert found.bits_per_byte == pytest.approx(
        nats / math.log(2) / open_data(data).index.held_out.text_bytes, rel=1e-5
    )
    assert not found.retokenised


def test_the_loss_does_not_depend_on_the_batch_and_is_the_same_each_time(own_folder, data):
    one = score(own_folder, data)
    assert score(own_folder, data) == one
    assert score(own_folder, data, batch=7).loss == pytest.approx(one.loss, rel=1e-5)


def test_own_modules_and_transformers_agree_on_the_same_weights(own_folder, data, tmp_path):
    folder = tmp_path / "hf"
    folder.mkdir()
    for path in own_folder.iterdir():
        if path.name != "config.toml":  # what is left is Hugging Face's form
            (folder / path.name).write_bytes(path.read_bytes())
    assert score(folder, data).loss == pytest.approx(score(own_folder, data).loss, rel=1e-4)


def test_a_model_of_another_tokenizer_reads_the_same_text_with_its_own(hf_folder, corpus, data, tmp_path):
    other = tmp_path / "other"
    prepare(Order(sources=[str(corpus)], out=other, vocab=280, held_out=0.1), Silent())
    folder = hf_folder("llama")
    found, same = score(folder, other), score(folder, data)
    assert found.retokenised
    # the same documents, in the same tokens: the two data sets differ by their tokenizer alone
    assert found.tokens == same.tokens
    assert found.loss == pytest.approx(same.loss, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(same.bits_per_byte, rel=1e-5)


def test_only_so_many_tokens_are_scored(own_folder, data):
    assert score(own_folder, data, most_tokens=256).tokens <= 256


def test_a_sequence_beyond_the_context_is_refused(own_folder, data):
    with pytest.raises(UsageError, match="--seq-len: 65 exceeds the context of 64"):
        score(own_folder, data, seq_len=65)


class Silent:
    def stage(self, name, total): ...

    def step(self, label): ...


class Looking:
    """A model that answers with what followed the last token before; ``blind`` with anything."""

    name, device, max_context = "looking", CPU, 200

    def __init__(self, *, blind=False):
        self.blind = blind
        self.text = self

    def ordinary_ids(self):
        return list(range(3, 90))

    def decoding(self, ids, capacity):
        assert int(ids.min()) >= 3
        found = torch.tensor([[row.index(row[-1]) + 1] for row in ids.tolist()])
        answer = ids.gather(1, found)[:, 0] if not self.blind else ids[:, 1]
        return torch.nn.functional.one_hot(answer, 90).float(), None


def test_recall_tells_a_model_that_looks_back_from_one_that_guesses():
    seeing, blind = list(recall(Looking())), list(recall(Looking(blind=True)))
    assert [(row.pairs, row.accuracy) for row in seeing] == [(8, 1.0), (32, 1.0)]
    assert [row.chance for row in blind] == [1 / 8, 1 / 32]
    for row in blind:
        assert row.ci95[0] <= row.chance <= row.ci95[1]


def test_recall_leaves_out_what_the_context_has_no_room_for(own_folder):
    model = open_model(own_folder, CPU)
    assert [row.pairs for row in recall(model, n=8)] == [8]


def test_samples_are_one_a_prompt_and_temperature(own_folder):
    model = open_model(own_folder, CPU)
    found = list(draw_samples(model, ["the", ""], [0.0, 1.0], max_tokens=5))
    assert [(s.prompt, s.temperature) for s in found] == [("the", 0.0), ("the", 1.0), ("", 0.0), ("", 1.0)]
    assert all(s.tokens <= 5 for s in found)
