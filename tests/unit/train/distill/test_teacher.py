import json
import shutil

import pytest
import torch

from edgeprof.core.errors import UsageError
from edgeprof.train.data.dataset import open_data
from edgeprof.train.data.loader import Batches
from edgeprof.train.distill import prepare as prepare_module
from edgeprof.train.distill.choice import DistillChoice, make_distillation
from edgeprof.train.distill.prepare import Order, prepare
from edgeprof.train.distill.stored import open_stored
from edgeprof.train.distill.stored_index import STORED_FILE
from edgeprof.train.distill.teacher import load_teacher
from edgeprof.train.settings import Settings

CPU = torch.device("cpu")
SETTINGS = Settings(tokens=1280, seq_len=32, batch=4, lr=0.01)


@pytest.fixture
def opened(data):
    return open_data(data)


@pytest.fixture
def order(teacher_folder, opened, tmp_path):
    return lambda **changes: Order(
        **({"teacher": teacher_folder, "data": opened, "out": tmp_path / "stored", "seq_len": 32, "k": 8,
            "shard_tokens": 1024} | changes)
    )  # fmt: skip


def batch_of(opened, seq_len=32):
    return next(Batches(opened.split("train"), batch=6, seq_len=seq_len, seed=4))


def test_what_is_kept_is_what_the_model_says_of_the_tokenizers_tokens(teacher_folder, opened):
    teacher = load_teacher(teacher_folder, opened, device=CPU, k=8)
    batch = batch_of(opened)
    found = teacher.top_k(batch)
    n_ids = opened.index.tokenizer.n_ids
    row = 2
    first = batch.documents[row] == batch.documents[row, 0]
    with torch.no_grad():
        log_p = teacher.model(batch.ids[row][first][None]).logits[0, :, :n_ids].double().log_softmax(-1)
    here = slice(row * 32, row * 32 + int(first.sum()))
    top = log_p.topk(8, -1)
    torch.testing.assert_close(found.indices[here], top.indices)
    torch.testing.assert_close(found.values[here].double(), top.values, rtol=2e-3, atol=1e-4)
    rest = (1 - top.values.exp().sum(-1)).log()
    torch.testing.assert_close(found.log_rest[here].double(), rest, rtol=2e-3, atol=1e-4)


def test_stored_distributions_are_those_of_the_live_teacher(order, teacher_folder, opened, heard):
    prepare(order(), heard)
    batch = batch_of(opened)
    stored = open_stored(order().out).top_k(batch)
    live = load_teacher(teacher_folder, opened, device=CPU, k=8).top_k(batch)
    # the batches differ, and with them the rounding of products
    torch.testing.assert_close(stored.values, live.values, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(stored.log_rest, live.log_rest, rtol=2e-3, atol=1e-4)
    assert (stored.indices == live.indices).float().mean() > 0.99


class KilledError(Exception):
    pass


def test_killed_it_goes_on_to_the_same_bytes(order, heard, monkeypatch):
    def files(folder):
        return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}

    whole, parts = order(out=order().out.with_name("whole")), order()
    prepare(whole, heard)
    real, left = prepare_module.Teacher.top_k, [2]

    def until_killed(self, batch):
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        return real(self, batch)

    monkeypatch.setattr(prepare_module.Teacher, "top_k", until_killed)
    with pytest.raises(KilledError):
        prepare(parts, heard)
    index = json.loads((parts.out / STORED_FILE).read_text())
    assert len(index["shards"]) == 2
    with pytest.raises(UsageError, match="shards are done; run its edgeprof distill prepare again"):
        open_stored(parts.out)
    monkeypatch.undo()
    asked = []
    monkeypatch.setattr(prepare_module.Teacher, "top_k", lambda self, batch: asked.append(1) or real(self, batch))
    prepare(parts, heard)
    assert len(asked) == len(json.loads((whole.out / STORED_FILE).read_text())["shards"]) - 2
    assert files(parts.out) == files(whole.out)
    asked.clear()
    prepare(parts, heard)
    assert asked == []


def test_a_damaged_shard_is_refused_and_made_again(order, heard):
    prepare(order(), heard)
    path = order().out / "top-k-00001.bin"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UsageError, match=r"top-k-00001\.bin: its checksum"):
        open_stored(order().out)
    prepare(order(), heard)
    content[5] ^= 1
    assert path.read_bytes() == bytes(content)
    open_stored(order().out)


@pytest.mark.parametrize("part", ["ids", "documents"])
def test_a_row_that_the_teacher_has_not_read_is_refused(order, opened, heard, part):
    prepare(order(), heard)
    batch = batch_of(opened)
    getattr(batch, part)[0, 20:] += 1
    with pytest.raises(UsageError, match="has not read a row"):
        open_stored(order().out).top_k(batch)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"k": 4}, "k: was 8, now 4"),
        ({"seq_len": 16}, "seq_len: was 32, now 16"),
        ({"dtype": "bf16"}, "dtype: was fp32"),
    ],
)
def test_a_folder_is_for_one_teacher_one_data_set_and_one_length(order, heard, changes, said):
    prepare(order(), heard)
    with pytest.raises(UsageError, match=said):
        prepare(order(**changes), heard)


def test_a_folder_with_other_files_is_left_alone(order, heard):
    order().out.mkdir()
    (order().out / "notes").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        prepare(order(), heard)


def changed_tokenizer(folder, tmp_path, change):
    copy = shutil.copytree(folder, tmp_path / "other")
    document = json.loads((copy / "tokenizer.json").read_text())
    change(document)
    (copy / "tokenizer.json").write_text(json.dumps(document))
    return copy


def swap_tokens(document):
    vocab = document["model"]["vocab"]
    names = {i: name for name, i in vocab.items()}
    vocab[names[270]], vocab[names[271]] = 271, 270


def test_a_teacher_with_another_vocabulary_is_refused_by_the_first_token_that_differs(teacher_folder, opened, tmp_path):
    folder = changed_tokenizer(teacher_folder, tmp_path, swap_tokens)
    with pytest.raises(
        UsageError, match=r"another tokenizer than .*: token 270 is '.+' and '.+'; prepare the data with"
    ):
        load_teacher(folder, opened, device=CPU)


def test_a_teacher_with_other_merges_is_refused(teacher_folder, opened, tmp_path):
    folder = changed_tokenizer(teacher_folder, tmp_path, lambda d: d["model"]["merges"].reverse())
    with pytest.raises(UsageError, match="merge 0 is"):
        load_teacher(folder, opened, device=CPU)


def test_a_teacher_that_cuts_text_otherwise_is_refused(teacher_folder, opened, tmp_path):
    folder = changed_tokenizer(teacher_folder, tmp_path, lambda d: d["pre_tokenizer"].update(add_prefix_space=True))
    with pytest.raises(UsageError, match="pre_tokenizer is"):
        load_teacher(folder, opened, device=CPU)


def test_a_tokenizer_file_that_is_only_written_otherwise_is_the_same(teacher_folder, opened, tmp_path):
    def rewrite(document):
        document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
        document["truncation"] = None

    same = load_teacher(changed_tokenizer(teacher_folder, tmp_path, rewrite), opened, device=CPU)
    assert same.n_ids == load_teacher(teacher_folder, opened, device=CPU).n_ids


def test_a_teacher_without_tokenizer_or_with_too_few_tokens_is_refused(teacher_folder, opened, data, tmp_path):
    copy = shutil.copytree(teacher_folder, tmp_path / "other")
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"no tokenizer\.json"):
        load_teacher(copy, opened, device=CPU)
    with pytest.raises(UsageError, match="k: 1000 tokens cannot be kept"):
        load_teacher(teacher_folder, opened, device=CPU, k=1000)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"share": 0.0}, "--teacher-share"),
        ({"temperature": 0.0}, "--teacher-temperature"),
        ({"k": 4}, "prepared with k 8, not 4"),
    ],
)
def test_a_choice_that_cannot_be_met_is_refused(order, opened, heard, changes, said):
    prepare(order(), heard)
    with pytest.raises(UsageError, match=said):
        make_distillation(DistillChoice(teacher=order().out, **changes), SETTINGS, opened)


def test_a_run_of_another_length_is_refused(order, opened, heard):
    prepare(order(), heard)
    settings = Settings(tokens=1280, seq_len=16, batch=4, lr=0.01)
    with pytest.raises(UsageError, match="prepared with --seq-len 32, the run has 16"):
        make_distillation(DistillChoice(teacher=order().out), settings, opened)


def test_a_stored_teacher_and_a_live_one_are_one_choice(order, teacher_folder, heard):
    prepare(order(), heard)
    stored = DistillChoice(teacher=order().out).identity()
    assert stored == DistillChoice(teacher=teacher_folder, k=8).identity()
    assert stored != DistillChoice(teacher=teacher_folder, k=4).identity()


@pytest.mark.parametrize("stored", [True, False])
def test_a_student_is_trained_with_a_teacher(order, opened, heard, run, losses, tmp_path, stored, teacher_folder):
    prepare(order(), heard)
    choice = DistillChoice(teacher=order().out if stored else teacher_folder, share=1.0, k=8)
    out = tmp_path / "run"
    summary = run(out, order={"make_loss": lambda s, d: make_distillation(choice, s, d)})
    plain = run(tmp_path / "plain")
    assert summary.finished
    assert losses(out)[0] == pytest.approx(losses(tmp_path / "plain")[0], rel=1e-5)  # cross-entropy is what is reported
    assert losses(out)[-1] != pytest.approx(losses(tmp_path / "plain")[-1], rel=1e-3)
    assert plain.held_out_loss is not None
    assert summary.held_out_loss is not None


def test_training_on_the_teacher_alone_brings_the_student_nearer_to_it(
    order, teacher_folder, opened, heard, run, tmp_path
):
    from edgeprof.train.distill.divergence import top_k_divergence
    from edgeprof.train.evaluate.language_model import open_model

    prepare(order(), heard)
    teacher = open_stored(order().out)
    batch = batch_of(opened)

    def distance(out):
        from edgeprof.models.model import model_of
        from edgeprof.models.module import Model
        from edgeprof.operators.module import Packed

        student = open_model(out, CPU).model
        model = Model(model_of(student.spec.arch, all_logits=True))
        model.load_state_dict(student.state_dict())
        logits = model(batch.ids, Packed(documents=batch.documents), 0).flatten(0, 1)
        return top_k_divergence(logits, teacher.top_k(batch)).mean().item()

    make = {"make_loss": lambda s, d: make_distillation(DistillChoice(teacher=order().out, share=1.0), s, d)}
    run(tmp_path / "taught", order=make, tokens=3840)
    run(tmp_path / "plain", tokens=3840)
    assert distance(tmp_path / "taught") < distance(tmp_path / "plain")
