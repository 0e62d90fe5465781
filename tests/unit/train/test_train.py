"""Runs of ten steps: what is learnt, resumed, skipped and refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from edgeprof.core.errors import UsageError
from edgeprof.models.config import config_of_pattern
from edgeprof.train import step as step_module
from edgeprof.train.data.loader import Batches
from edgeprof.train.interrupt import Interrupt
from edgeprof.train.session import DataChoice

GOLDEN = [5.9046, 5.64018, 5.2128, 4.84851, 4.48297, 4.11688, 3.84481, 3.65478, 3.22842, 3.19544]
"""Losses of ten steps with Muon, in nats a token, in fp32 on one thread.

The tolerance is for CPUs that sum up in another order, which moved a loss by 3e-4 at most where two processes shared the weights.
"""


def interrupt_after(monkeypatch, step: int) -> None:
    """As if Ctrl-C were pressed during that step."""
    real = step_module.Stepper.step
    made: list[Interrupt] = []
    real_init = Interrupt.__init__

    def remember(self) -> None:
        real_init(self)
        made.append(self)

    count = iter(range(1, 10**6))

    def counted(self, *args: object):
        if next(count) == step:
            made[-1].asked = True
        return real(self, *args)

    monkeypatch.setattr(Interrupt, "__init__", remember)
    monkeypatch.setattr(step_module.Stepper, "step", counted)


def test_ten_steps_have_the_golden_losses(run, losses, tmp_path) -> None:
    summary = run(tmp_path / "a")
    assert losses(tmp_path / "a") == pytest.approx(GOLDEN, abs=2e-3)
    assert (summary.steps, summary.tokens, summary.skipped) == (10, 1280, 0)


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
def test_an_interrupted_run_goes_on_bit_for_bit(run, losses, weights, tmp_path, monkeypatch, optimiser) -> None:
    run(tmp_path / "whole", optimiser=optimiser)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6)
        with pytest.raises(KeyboardInterrupt, match=r"step 6 of 10 is saved; the same command goes on from there"):
            run(tmp_path / "cut", optimiser=optimiser)
    assert len(losses(tmp_path / "cut")) == 6
    run(tmp_path / "cut", optimiser=optimiser)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_rows_beyond_the_checkpoint_are_made_again_not_doubled(run, losses, tmp_path) -> None:
    out = tmp_path / "a"
    run(out)
    before = losses(out)
    shutil.rmtree(out / "checkpoints" / "step-00000010")
    with (out / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 11, "los')  # a kill in the middle of a line
    run(out)
    assert losses(out) == before


def test_a_finished_run_is_not_trained_again(run, tmp_path, monkeypatch) -> None:
    first = run(tmp_path / "a")
    monkeypatch.setattr(step_module.Stepper, "step", lambda *_: pytest.fail("a step was made"))
    assert run(tmp_path / "a") == first


def test_micro_batches_add_up_to_the_batch(run, losses, tmp_path) -> None:
    for name, size in (("whole", 4), ("parts", 1), ("uneven", 3)):
        run(tmp_path / name, micro_batch=size, optimiser="adamw")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-4)
    assert losses(tmp_path / "uneven") == pytest.approx(losses(tmp_path / "whole"), abs=1e-4)


def test_activation_checkpoints_change_no_bit(run, losses, tmp_path) -> None:
    run(tmp_path / "kept")
    run(tmp_path / "again", checkpoint_activations=True)
    assert losses(tmp_path / "again") == losses(tmp_path / "kept")


def test_bf16_learns_what_fp32_learns(run, losses, tmp_path) -> None:
    run(tmp_path / "fp32")
    run(tmp_path / "bf16", precision="bf16")
    assert losses(tmp_path / "bf16") != losses(tmp_path / "fp32")
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "fp32"), abs=0.05)


def poison(monkeypatch, steps: set[int]) -> None:
    """Gradients of these steps are not finite."""
    real = step_module.Stepper.gradients
    count = iter(range(1, 10**6))

    def poisoned(self, batch):
        found = real(self, batch)
        if next(count) in steps:
            next(iter(self.called.parameters())).grad[0, 0] = float("inf")
        return found

    monkeypatch.setattr(step_module.Stepper, "gradients", poisoned)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(run, tmp_path, monkeypatch, caplog) -> None:
    poison(monkeypatch, {3})
    summary = run(tmp_path / "a")
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    skipped = [row for row in rows if row.get("skipped")]
    assert [(row["step"], row["loss"], row["grad_norm"]) for row in skipped] == [(3, None, None)]
    assert (summary.skipped, summary.steps) == (1, 10)
    assert "step 3" in caplog.text
    state = json.loads((tmp_path / "a" / "checkpoints" / "step-00000010" / "state.json").read_text())
    assert (state["step"], state["updates"]) == (10, 9)


def test_weights_are_as_they_were_after_a_skipped_step(run, weights, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        poison(patch, {4})
        run(tmp_path / "a", keep=9, tokens=4 * 128, save_every=3)
    saved = sorted((tmp_path / "a" / "checkpoints").iterdir())
    before, after = ((path / "model.safetensors").read_bytes() for path in saved)
    assert [path.name for path in saved] == ["step-00000003", "step-00000004"]
    assert before == after


def test_training_stops_after_too_many_such_steps_in_a_row(run, tmp_path, monkeypatch) -> None:
    poison(monkeypatch, {5, 6, 7})
    with pytest.raises(UsageError, match=r"not finite in 3 steps in a row.*lower --lr.*step-00000004 is the last"):
        run(tmp_path / "a", max_skipped=3)


def test_another_config_setting_or_data_is_refused_with_what_differs(run, tmp_path, corpus) -> None:
    other = config_of_pattern("CC", {"kernel_size": 3, "d_ff": 8}, name="other", d_model=8, vocab=300, max_context=64)
    run(tmp_path / "a", tokens=128)
    with pytest.raises(UsageError, match=r"holds another run \(lr: was 0.01, now 0.02\)"):
        run(tmp_path / "a", tokens=128, lr=0.02)
    with pytest.raises(UsageError, match=r"config: was small \(CSG\), now other \(CC\)"):
        run(tmp_path / "a", tokens=128, order={"config": other})
    with pytest.raises(UsageError, match="other data"):
        run(tmp_path / "a", tokens=128, order={"data": DataChoice(sources=(str(corpus),))})


def test_settings_that_are_not_given_again_are_the_runs_own(run, losses, tmp_path) -> None:
    run(tmp_path / "a", tokens=256)
    again = run(tmp_path / "a", **dict.fromkeys(("tokens", "seq_len", "batch", "lr", "precision")))
    assert again.run.settings.tokens == 256
    assert len(losses(tmp_path / "a")) == 2


def test_a_folder_with_other_files_is_refused(run, tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds other files \(thesis.txt\)"):
        run(tmp_path)
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["thesis.txt"]


def test_a_vocabulary_that_does_not_match_is_refused(run, tmp_path) -> None:
    small = config_of_pattern("C", {"kernel_size": 3, "d_ff": 8}, name="narrow", d_model=8, vocab=100, max_context=64)
    with pytest.raises(UsageError, match="the data have a vocabulary of 300, narrow has 100"):
        run(tmp_path / "a", order={"config": small})


def test_running_out_of_memory_says_what_to_lower(run, tmp_path, monkeypatch) -> None:
    def gone(*_: object) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried ..."
        )

    monkeypatch.setattr(step_module.Stepper, "gradients", gone)
    with pytest.raises(UsageError, match=r"out of memory: .*--micro-batch"):
        run(tmp_path / "a")


def test_the_precision_is_chosen_once_by_measuring_and_then_kept(run, heard, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(step_module, "best_seconds", lambda calls, device: [call() for call in calls] and [2.0, 1.0])
    assert run(tmp_path / "a", precision="auto", tokens=128).run.precision == "bf16"
    assert "bf16: measured" in heard.said[0]
    monkeypatch.setattr(step_module, "best_seconds", lambda *_: pytest.fail("measured again"))
    assert run(tmp_path / "a", tokens=128, precision=None).run.precision == "bf16"


def test_measuring_the_precision_learns_nothing(run, losses, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(step_module, "best_seconds", lambda calls, device: [call() for call in calls] and [1.0, 1.0])
    run(tmp_path / "auto", precision="auto")
    run(tmp_path / "fp32")
    assert losses(tmp_path / "auto") == losses(tmp_path / "fp32")


def test_another_loss_and_another_evaluation_take_their_place(run, tmp_path) -> None:
    from edgeprof.train.held_out import HeldOut
    from edgeprof.train.loss import CrossEntropy, LossSum

    class Doubled(CrossEntropy):
        def __call__(self, *args) -> LossSum:
            found = super().__call__(*args)
            return LossSum(total=2 * found.total, cross_entropy=found.cross_entropy)

    summary = run(
        tmp_path / "a",
        order={
            "make_loss": lambda s, d: Doubled(),
            "evaluate": lambda *_: HeldOut(loss=1.5, bits_per_byte=0.5, tokens=1),
        },
    )
    assert (summary.held_out_loss, summary.bits_per_byte) == (1.5, 0.5)


def test_held_out_loss_does_not_depend_on_its_batches(run, data, config, tmp_path) -> None:
    from edgeprof.train.data.dataset import open_data
    from edgeprof.train.distributed import Processes
    from edgeprof.train.held_out import EvaluationCall, held_out_loss
    from edgeprof.train.loss import CrossEntropy
    from edgeprof.train.network import make_network

    dataset = open_data(data)
    assert dataset.index.held_out is not None
    network = make_network(config, CrossEntropy(), seed=0, mask_documents=True)
    found = [
        held_out_loss(
            EvaluationCall(
                called=network,
                processes=Processes(rank=0, world_size=1, device=torch.device("cpu")),
                precision="fp32",
                batch=batch,
                seq_len=32,
                text_bytes=dataset.index.held_out.text_bytes,
            ),
            dataset.split("held_out"),
        )
        for batch in (1, 7)
    ]
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-5)
    nats = found[0].loss * found[0].tokens
    assert found[0].bits_per_byte == pytest.approx(
        nats / 0.6931471805599453 / dataset.index.held_out.text_bytes, rel=0.05
    )


def test_the_model_is_saved_for_transformers_with_its_tokenizer(run, tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    summary = run(tmp_path / "a")
    model = AutoModelForCausalLM.from_pretrained(summary.model)
    tokenizer = AutoTokenizer.from_pretrained(summary.model)
    ids = tokenizer("the model reads", return_tensors="pt").input_ids
    assert model(ids).logits.shape == (1, ids.shape[1], 300)
    assert model.config.eos_token_id == tokenizer.eos_token_id


def test_a_model_that_transformers_cannot_express_is_saved_in_our_form(run, data, heard, tmp_path) -> None:
    from edgeprof.models.config import load_config
    from edgeprof.models.weights import load_weights

    odd = config_of_pattern("CC", {"kernel_size": 3}, name="odd", d_ffs=(8, 16), d_model=16, vocab=300, max_context=64)
    summary = run(tmp_path / "a", order={"config": odd})
    assert "not in Hugging Face's form: layers: d_ff" in heard.said[-1]
    config = load_config(str(summary.model / "config.toml"))
    assert set(load_weights(summary.model, config)) == set(load_weights(summary.checkpoint, config))


def test_two_runs_cannot_share_a_folder(run, tmp_path) -> None:
    from filelock import FileLock

    (tmp_path / "a").mkdir()
    with FileLock(tmp_path / "a" / ".lock"), pytest.raises(UsageError, match="another edgeprof train is at work there"):
        run(tmp_path / "a")


def test_a_newer_run_file_is_not_guessed_at(run, tmp_path) -> None:
    run(tmp_path / "a", tokens=128)
    path = Path(tmp_path / "a" / "run.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    with pytest.raises(UsageError, match="schema_version: 2 is newer than 1; upgrade"):
        run(tmp_path / "a")


def test_the_data_are_read_on_from_where_they_were(run, tmp_path, monkeypatch) -> None:
    seen: list[int] = []
    real = Batches.__next__

    def counted(self):
        seen.append(self.position)
        return real(self)

    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "a")
    monkeypatch.setattr(Batches, "__next__", counted)
    run(tmp_path / "a")
    assert seen == [12, 16, 20, 24, 28, 32, 36]
