import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from edgeprof.core.errors import UsageError
from edgeprof.models.generate import Sampling, generate
from edgeprof.train.evaluate.causal_lm import document_logits
from edgeprof.train.evaluate.generation import generate_texts, tokens
from edgeprof.train.evaluate.language_model import HfModel, OwnModel, open_model

CPU = torch.device("cpu")
GREEDY = Sampling()
PROMPT = "the model reads"


@pytest.fixture
def models(hf_folder, own_folder):
    return {"own": own_folder, "llama": hf_folder("llama"), "lfm2": hf_folder("lfm2")}


@pytest.mark.parametrize("kind", ["own", "llama", "lfm2"])
def test_greedy_text_is_what_the_whole_model_finds_likeliest_token_by_token(models, kind):
    model = open_model(models[kind], CPU)
    (found,) = generate_texts(model, PROMPT, count=3, sampling=GREEDY, max_tokens=12)
    ids = model.text.encode_prompt(PROMPT)
    begin = len(ids)
    while len(ids) < begin + 12:
        logits, _ = model.decoding(torch.tensor([ids]), len(ids))  # all of it again: no cache that could be wrong
        ids.append(int(logits.argmax()))
        if ids[-1] in model.text.ends:
            break
    ended = ids[-1] in model.text.ends
    assert found.text == model.text.decode(ids[begin:]).removesuffix("" if ended else "\ufffd")
    assert (found.ended, found.tokens) == (ended, len(ids) - begin - ended)


def test_own_models_are_opened_by_their_own_modules_and_others_by_transformers(models):
    assert isinstance(open_model(models["own"], CPU), OwnModel)
    assert isinstance(open_model(models["lfm2"], CPU), HfModel)


def test_sampling_is_that_of_this_projects_generation(own_folder):
    model = open_model(own_folder, CPU)
    sampling = Sampling(temperature=0.8, seed=3)
    (found,) = generate_texts(model, PROMPT, count=1, sampling=sampling, max_tokens=20)
    prompt = model.text.encode_prompt(PROMPT)
    ids = list(generate(model.model, prompt, max_new_tokens=20, sampling=sampling, eos=min(model.text.ends)))
    assert found.text == model.text.decode(ids).removesuffix("\ufffd")


def test_samples_differ_from_each_other_and_come_again_with_the_seed(own_folder):
    model = open_model(own_folder, CPU)

    def texts(seed):
        sampling = Sampling(temperature=1.0, seed=seed)
        return [g.text for g in generate_texts(model, "", count=4, sampling=sampling, max_tokens=16)]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)
    assert len(set(texts(1))) == 4


class Ending:
    """A model that writes token 5 until its second call, then ends; it counts its calls."""

    text = SimpleNamespace(ends=frozenset({3}))
    calls = 0

    def decoding(self, ids, capacity):
        return self.step(ids[:, 0]), self.step

    def step(self, token):
        self.calls += 1
        likeliest = torch.tensor([3 if self.calls > 1 else 5] * len(token))
        return torch.nn.functional.one_hot(likeliest, 9).float()


def test_no_token_is_computed_after_all_texts_have_ended():
    model = Ending()
    drawn = list(tokens(model, torch.zeros(2, 4, dtype=torch.long), GREEDY, 50))
    assert [token.tolist() for token in drawn] == [[5, 5], [3, 3]]
    assert model.calls == 2


def test_a_model_that_computes_no_numbers_is_refused(own_folder):
    model = open_model(own_folder, CPU)
    model.model.embedding.table.data[:] = float("nan")
    with pytest.raises(UsageError, match="its logits are not numbers"):
        generate_texts(model, PROMPT, count=1, sampling=GREEDY, max_tokens=4)


def test_each_document_of_a_row_is_read_by_itself(hf_folder):
    model = open_model(hf_folder("lfm2"), CPU).model
    ids = torch.randint(2, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    documents = torch.tensor([[0] * 5 + [1] * 7, [0] * 12])
    found = torch.empty(24, 300)
    for positions, logits in document_logits(model, ids, documents):
        found[positions] = logits
    with torch.no_grad():
        alone = [model(part[None]).logits[0] for part in (ids[0, :5], ids[0, 5:], ids[1])]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_a_model_without_a_cache_reads_everything_again(hf_folder):
    model = open_model(hf_folder("llama"), CPU)
    cached = generate_texts(model, PROMPT, count=1, sampling=GREEDY, max_tokens=8)
    model.model.config.use_cache = False
    assert generate_texts(model, PROMPT, count=1, sampling=GREEDY, max_tokens=8) == cached


def test_prompt_and_text_must_fit_the_context(own_folder):
    with pytest.raises(UsageError, match=r"exceed the context of 64 of small; use \d+ or less"):
        generate_texts(open_model(own_folder, CPU), PROMPT, count=1, sampling=GREEDY, max_tokens=64)


def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_pickled_weights_are_refused(hf_folder, tmp_path):
    folder = copied(hf_folder("llama"), tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"holds no model\.safetensors"):
        open_model(folder, CPU)


def test_missing_weights_are_refused_and_not_drawn_at_random(hf_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copied(hf_folder("llama"), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if "layers.1.mlp" not in k}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UsageError, match=r"layers\.1\.mlp.*is missing"):
        open_model(folder, CPU)


def test_a_folders_own_code_is_not_run(hf_folder, tmp_path):
    folder = copied(hf_folder("llama"), tmp_path)
    document = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (folder / "config.json").write_text(json.dumps(document | {"model_type": "mine", "auto_map": auto}))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UsageError, match="transformers cannot load it"):
        open_model(folder, CPU)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [("none", "no such folder"), ("empty", r"holds no config\.json"), ("run", "has no model folder yet")],
)
def test_what_holds_no_model_is_refused(tmp_path, name, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(UsageError, match=said):
        open_model(tmp_path / name, CPU)


def test_a_chat_template_is_used_where_there_is_one_and_unless_told_otherwise(hf_folder, tmp_path):
    folder = copied(hf_folder("llama"), tmp_path)
    (folder / "chat_template.jinja").write_text("the model {{ messages[0].content }} writes")
    put = open_model(folder, CPU).text
    plain = open_model(folder, CPU, chat=False).text
    assert put.decode(put.encode_prompt("reads")) == "the model reads writes"
    assert plain.decode(plain.encode_prompt("reads")) == "reads"
    with pytest.raises(UsageError, match="no chat template"):
        open_model(hf_folder("llama"), CPU, chat=True)


def test_an_empty_prompt_begins_with_the_token_that_ends_texts_where_none_begins_them(own_folder):
    text = open_model(own_folder, CPU).text
    assert text.encode_prompt("") == [min(text.ends)]
