"""Tokens a CPU-second of training: edgeprof's step beside a plain loop, Hugging Face's Trainer and Accelerate.

All train one model of 9.3M parameters on the same random tokens, with AdamW and clipping. Contenders take turns in one process,
and the best of their rounds counts: other work on a machine only ever slows. On a GPU, seconds are of the wall clock. Under
torchrun all spread the same batch over the processes (DDP), and CPU-seconds are the sum of theirs. ``--memory`` gives each
contender a fresh process, and says how far its peak lies above what it held before: imports are no part of it.

    python benchmarks/training.py [--rounds 3] [--steps 6] [--precision bf16] [--device cpu] [--threads 1] [--memory]
    torchrun --nproc-per-node 2 benchmarks/training.py
"""

import argparse
import importlib.util
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from edgeprof.models.accounting import parameters
from edgeprof.models.config import ArchConfig, config_of_pattern
from edgeprof.models.hf import hf_document
from edgeprof.models.initialise import initialise
from edgeprof.models.model import model_of
from edgeprof.models.module import Model
from edgeprof.operators.module import Packed
from edgeprof.train.distributed import Processes, join_processes, spread
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
    processes: Processes
    precision: str
    steps: int

    @property
    def device(self) -> torch.device:
        """Where this process trains."""
        return self.processes.device

    @property
    def batch(self) -> int:
        """Sequences of this process in each step."""
        return BATCH // self.processes.world_size


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
    """Seconds of this process for the steps after the warm-up."""
    for _ in range(WARM_UP):
        step()
    begin = clock(place.device)
    for _ in range(place.steps):
        step()
    return clock(place.device) - begin


def in_parallel(network: nn.Module, place: Place) -> nn.Module:
    return DistributedDataParallel(network) if place.processes.world_size > 1 else network


def plain(place: Place) -> float:
    """What anyone would write: autocast, all logits in fp32, AdamW as it comes."""
    network = in_parallel(ForTrainer(CONFIG).to(place.device), place)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    ids, targets, _ = (x.to(place.device) for x in random_batch(CONFIG.vocab, place.batch, SEQ_LEN))

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
    network = make_network(CONFIG, CrossEntropy(settings.z_loss), seed=0, mask_documents=mask_documents)
    stepper = Stepper(
        called=spread(network, place.processes, "ddp"),
        optimiser=make_optimiser(settings, network.model.spec, network.weights()),
        processes=place.processes,
        settings=settings,
        micro_batch=micro_batch_of(settings, Running(), place.device, world_size=place.processes.world_size),
        precision=place.precision,  # type: ignore[arg-type]
    )
    batch = random_batch(CONFIG.vocab, place.batch, SEQ_LEN)
    if mask_documents:
        batch = batch._replace(documents=(torch.arange(SEQ_LEN) // 100).expand(place.batch, SEQ_LEN).contiguous())
    return timed(lambda: stepper.step(batch, 1.0), place)


def accelerate(place: Place) -> float:
    """The plain loop under Accelerate."""
    from accelerate import Accelerator

    accelerator = Accelerator(
        cpu=place.device.type == "cpu", mixed_precision="bf16" if place.precision == "bf16" else "no"
    )
    made = ForTrainer(CONFIG)
    network, optimiser = accelerator.prepare(made, torch.optim.AdamW(made.parameters(), lr=LEARNING_RATE))
    ids, targets, _ = (x.to(place.device) for x in random_batch(CONFIG.vocab, place.batch, SEQ_LEN))

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
    rows = [{"input_ids": i, "labels": t} for i, t in zip(ids, targets, strict=True)] * (WARM_UP + place.steps + 1)
    marks: list[float] = []

    class Marks(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(clock(place.device))

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=place.batch,
            max_steps=WARM_UP + place.steps,
            learning_rate=LEARNING_RATE,
            max_grad_norm=CLIP,
            bf16=place.precision == "bf16",
            use_cpu=place.device.type == "cpu",
            ddp_backend="gloo" if place.processes.world_size > 1 and place.device.type == "cpu" else None,
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
    parser.add_argument("--memory", action="store_true", help="peak memory of each, instead of speed")
    parser.add_argument("--only", choices=list(CONTENDERS), help="one of them, in this process, and its peak memory")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = list(CONTENDERS)
    if importlib.util.find_spec("accelerate") is None:
        names = [n for n in names if not n.startswith(("Accelerate", "Hugging Face"))]
        print("accelerate is not installed: it and Hugging Face's Trainer, which needs it, are left out")
    with join_processes(torch.device(options.device)) as processes:
        place = Place(processes, options.precision, options.steps)
        if options.only:
            print(peak_mib(options.only, place))
        elif options.memory:
            compare_memory(names)
        else:
            compare_speed(names, place, options.rounds)


def compare_speed(names: list[str], place: Place, rounds: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in names}
    on_cpu, world_size = place.device.type == "cpu", place.processes.world_size
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            seconds = float(place.processes.sum(torch.tensor([CONTENDERS[name](place)], device=place.device)))
            rates[name].append(BATCH * SEQ_LEN * place.steps / (seconds if on_cpu else seconds / world_size))
    if not place.processes.is_first:
        return
    unit = "CPU-second" if on_cpu else "second"
    what = f"{parameters(CONFIG):,} parameters, {place.precision}, {BATCH} x {SEQ_LEN} tokens a step"
    print(f"{what}, {place.device.type}, {world_size} process{'es' if world_size > 1 else ''}")
    print(f"| trainer | tokens a {unit}, best | median | over the plain loop, best |\n|---|---|---|---|")
    best = max(rates["plain loop"])
    for name, found in rates.items():
        print(f"| {name} | {max(found):,.0f} | {statistics.median(found):,.0f} | {max(found) / best:.2f} |")


def compare_memory(names: list[str]) -> None:
    print("| trainer | peak memory above what was held before, MiB |\n|---|---|")
    for name in names:
        command = [sys.executable, *sys.argv, "--only", name]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"| {name} | {float(told.splitlines()[-1]):,.0f} |", flush=True)


def peak_mib(name: str, place: Place) -> float:
    """How far the peak lies above what the process holds after its imports, those of the peers included."""
    if name.startswith(("Accelerate", "Hugging Face")):
        import accelerate as _  # noqa: F401
        import transformers.trainer  # noqa: F401
    before = psutil.Process().memory_info().rss
    CONTENDERS[name](place)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**20


if __name__ == "__main__":
    main()
