"""Tokens a CPU-second of training: edgeprof's step beside a plain loop, Hugging Face's Trainer and Accelerate.

All train one model of 9.3M parameters on the same random tokens, with AdamW and clipping. Contenders take turns in one process,
and the best of their rounds counts: other work on a machine only ever slows. On a GPU, seconds are of the wall clock.

    python benchmarks/training.py [--rounds 3] [--steps 6] [--precision bf16] [--device cpu] [--threads 1]
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprof.models.accounting import parameters
from edgeprof.models.config import ArchConfig, config_of_pattern
from edgeprof.models.hf import hf_document
from edgeprof.models.initialise import initialise
from edgeprof.models.model import model_of
from edgeprof.models.module import Model
from edgeprof.operators.module import Packed
from edgeprof.train.distributed import Processes
from edgeprof.train.loss import CrossEntropy
from edgeprof.train.measure import random_batch
from edgeprof.train.network import make_network
from edgeprof.train.optimiser import make_optimiser
from edgeprof.train.precision import synchronise
from edgeprof.train.settings import Running, make_settings
from edgeprof.train.step import Stepper, micro_batch_of

DIMS = {"kernel_size": 3, "n_heads": 4, "n_kv_heads": 2, "head_dim": 64, "window": 64, "d_ff": 1024}
CONFIG = config_of_pattern("CCSCCG", DIMS, name="benchmark", d_model=256, vocab=12_288)
SEQ_LEN, BATCH = 256, 16
WARM_UP = 2
LEARNING_RATE, CLIP = 3e-4, 1.0


@dataclass(frozen=True)
class Place:
    device: torch.device
    precision: str
    steps: int


def theirs() -> nn.Module:
    """The same architecture as Hugging Face's own class."""
    from transformers import AutoConfig, AutoModelForCausalLM

    document = hf_document(CONFIG)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(document.pop("model_type"), **document))


class ForTrainer(nn.Module):
    """The model as Hugging Face's classes call one."""

    def __init__(self, config: ArchConfig) -> None:
        super().__init__()
        self.model = Model(model_of(config, all_logits=True))
        initialise(self.model, 0)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The mean loss, where the classes look for it."""
        logits = self.model(input_ids, Packed(), 0)
        return {"loss": F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())}


def clock(device: torch.device) -> float:
    synchronise(device)
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def timed(step: Callable[[], Any], place: Place) -> float:
    """Seconds of the steps after the warm-up."""
    for _ in range(WARM_UP):
        step()
    begin = clock(place.device)
    for _ in range(place.steps):
        step()
    return clock(place.device) - begin


def plain(place: Place) -> float:
    """What anyone would write: autocast, all logits in fp32, AdamW as it comes."""
    network = ForTrainer(CONFIG).to(place.device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    ids, targets, _ = (x.to(place.device) for x in random_batch(CONFIG.vocab, BATCH, SEQ_LEN))

    def step() -> None:
        with torch.autocast(place.device.type, torch.bfloat16, enabled=place.precision == "bf16"):
            loss = network(ids, targets)["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad()

    return timed(step, place)


def ours(place: Place, *, optimiser: str = "adamw", mask_documents: bool = False) -> float:
    """Its step: also z-loss, a finite gradient before each update, and the loss of every step read back."""
    settings = make_settings(
        CONFIG, {"tokens": 10**7, "seq_len": SEQ_LEN, "batch": BATCH, "optimiser": optimiser, "lr": LEARNING_RATE}
    )
    network = make_network(CONFIG, CrossEntropy(settings.z_loss), seed=0, mask_documents=mask_documents).to(
        place.device
    )
    stepper = Stepper(
        called=network,
        optimiser=make_optimiser(settings, network.model.spec, network.weights()),
        processes=Processes(rank=0, world_size=1, device=place.device),
        settings=settings,
        micro_batch=micro_batch_of(settings, Running(), place.device, world_size=1),
        precision=place.precision,  # type: ignore[arg-type]
    )
    batch = random_batch(CONFIG.vocab, BATCH, SEQ_LEN)
    if mask_documents:
        batch = batch._replace(documents=(torch.arange(SEQ_LEN) // 100).expand(BATCH, SEQ_LEN).contiguous())
    return timed(lambda: stepper.step(batch, 1.0), place)


def accelerate(place: Place) -> float:
    """The plain loop under Accelerate."""
    from accelerate import Accelerator

    accelerator = Accelerator(
        cpu=place.device.type == "cpu", mixed_precision="bf16" if place.precision == "bf16" else "no"
    )
    made = ForTrainer(CONFIG)
    network, optimiser = accelerator.prepare(made, torch.optim.AdamW(made.parameters(), lr=LEARNING_RATE))
    ids, targets, _ = (x.to(place.device) for x in random_batch(CONFIG.vocab, BATCH, SEQ_LEN))

    def step() -> None:
        loss = network(ids, targets)["loss"]
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad()

    return timed(step, place)


def hf_trainer(place: Place, make: Callable[[], nn.Module]) -> float:
    """Hugging Face's Trainer, told to log, evaluate and save nothing."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    ids, targets, _ = random_batch(CONFIG.vocab, BATCH, SEQ_LEN)
    rows = [{"input_ids": i, "labels": t} for i, t in zip(ids, targets, strict=True)] * (WARM_UP + place.steps)
    marks: list[float] = []

    class Marks(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(clock(place.device))

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            max_steps=WARM_UP + place.steps,
            learning_rate=LEARNING_RATE,
            max_grad_norm=CLIP,
            bf16=place.precision == "bf16",
            use_cpu=place.device.type == "cpu",
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        Trainer(model=make(), args=arguments, train_dataset=rows, callbacks=[Marks()]).train()
    return marks[-1] - marks[WARM_UP - 1]


CONTENDERS: dict[str, Callable[[Place], float]] = {
    "plain loop": plain,
    "edgeprof adamw": ours,
    "edgeprof adamw, documents masked": lambda place: ours(place, mask_documents=True),
    "edgeprof muon": lambda place: ours(place, optimiser="muon"),
    "Accelerate": accelerate,
    "Hugging Face Trainer, our model": lambda place: hf_trainer(place, lambda: ForTrainer(CONFIG)),
    "Hugging Face Trainer, its own model": lambda place: hf_trainer(place, theirs),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    place = Place(torch.device(options.device), options.precision, options.steps)
    names = list(CONTENDERS)
    if importlib.util.find_spec("accelerate") is None:
        names = [n for n in names if not n.startswith(("Accelerate", "Hugging Face"))]
        print("accelerate is not installed: it and Hugging Face's Trainer, which needs it, are left out")
    rates: dict[str, list[float]] = {name: [] for name in names}
    tokens = BATCH * SEQ_LEN * options.steps
    for number in range(options.rounds):
        for name in names if number % 2 == 0 else reversed(names):
            rates[name].append(tokens / CONTENDERS[name](place))
    unit = "CPU-second" if options.device == "cpu" else "second"
    print(
        f"{parameters(CONFIG):,} parameters, {options.precision}, {BATCH} x {SEQ_LEN} tokens a step, {options.device}"
    )
    print(f"| trainer | tokens a {unit}, best | median | over the plain loop, best |\n|---|---|---|---|")
    best = max(rates["plain loop"])
    for name, found in rates.items():
        print(f"| {name} | {max(found):,.0f} | {statistics.median(found):,.0f} | {max(found) / best:.2f} |")


if __name__ == "__main__":
    main()
