"""What ``edgeprof train`` does: the run folder, data, network and optimiser; then the loop; then the model."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from edgeprof.core.errors import UsageError
from edgeprof.models.config import ArchConfig
from edgeprof.train.checkpoint import Checkpoints
from edgeprof.train.data.dataset import DataSet, open_data
from edgeprof.train.data.index import INDEX_FILE
from edgeprof.train.data.loader import Batches
from edgeprof.train.data.prepare import Order as DataOrder
from edgeprof.train.data.prepare import prepare
from edgeprof.train.data.sources import STDLIB, Reading
from edgeprof.train.data.tokenizer import Specials
from edgeprof.train.distributed import Processes, find_device, join_processes, spread
from edgeprof.train.held_out import EVALUATION_TOKENS, Evaluate, EvaluationCall, HeldOut, held_out_loss
from edgeprof.train.interrupt import noticing_interrupts
from edgeprof.train.loop import Loop, Observer
from edgeprof.train.loss import CrossEntropy, Loss
from edgeprof.train.metrics import MetricsFile, read_metrics
from edgeprof.train.network import make_network
from edgeprof.train.optimiser import make_optimiser
from edgeprof.train.run_folder import CHECKPOINTS, DATA, METRICS_FILE, MODEL, Run, check_same, kept_to_run, read_run
from edgeprof.train.save_model import save_model, whole_weights, with_tokens
from edgeprof.train.settings import Running, Settings, make_running, make_settings, training_flops
from edgeprof.train.step import Stepper, micro_batch_of
from edgeprof.train.summary import Summary, summarise

SAVES = 20
"""Checkpoints that a run writes over its length, and evaluations, unless told otherwise."""

FindRoof = Callable[[torch.device, str], float | None]
"""FLOP/s that a device reaches at best in ``fp32`` or ``bf16``; None where it cannot be told."""


def _cross_entropy(settings: Settings, data: DataSet) -> Loss:
    return CrossEntropy(settings.z_loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataChoice:
    """What to train on: sources of text to prepare in the run folder, or the folder of a prepared data set.

    Without ``sources`` a run goes on with its own data, and a new one takes the standard library's documentation.
    """

    sources: tuple[str, ...] = ()
    tokenizer: Path | None = None
    held_out: float = 0.01
    reading: Reading = field(default_factory=Reading)

    def prepared(self) -> Path | None:
        """The prepared data set that is named, if one is.

        Raises:
            UsageError: it is named beside other sources.
        """
        folders = [Path(source) for source in self.sources if (Path(source) / INDEX_FILE).is_file()]
        if folders and len(self.sources) > 1:
            raise UsageError(
                f"--data: {folders[0]} is a prepared data set, and cannot be joined with others; name it alone"
            )
        return folders[0].resolve() if folders else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to train, where. ``given`` are the settings that were asked for, checked; others are chosen, or the run's own.

    ``make_loss`` and ``evaluate`` say what is minimised and what is measured on held-out documents; ``objective`` names what is
    minimised if it is something else than the text's own cross-entropy, so that a run does not go on with another teacher.
    """

    config: ArchConfig
    out: Path
    given: Mapping[str, Any] = field(default_factory=dict)
    data: DataChoice = field(default_factory=DataChoice)
    device: str = "auto"
    threads: int | None = None
    make_loss: Callable[[Settings, DataSet], Loss] = _cross_entropy
    objective: Mapping[str, Any] | None = None
    evaluate: Evaluate = held_out_loss
    find_roof: FindRoof | None = None


def train(order: Order, observer: Observer) -> Summary:
    """Trains, or goes on with what the folder holds; what became of it.

    Raises:
        UsageError: something asked for cannot be, or training cannot go on: says why and what helps.
        KeyboardInterrupt: it was interrupted, and can go on.
    """
    if order.threads is not None:
        torch.set_num_threads(order.threads)
    device = find_device(order.device)
    with join_processes(device) as processes, ExitStack() as stack:
        with processes.together():
            if processes.is_first:
                stack.enter_context(kept_to_run(order.out))
        return _Session(order, processes, observer).run(stack)


class _Session:
    """One call of ``train`` in one of its processes, its folder locked."""

    def __init__(self, order: Order, processes: Processes, observer: Observer) -> None:
        self.order, self.processes, self.observer = order, processes, observer
        self.running: Running = make_running(order.given)
        self.checkpoints = Checkpoints(order.out / CHECKPOINTS, keep=self.running.keep)

    def run(self, stack: ExitStack) -> Summary:
        """From the run folder to the trained model."""
        stored = read_run(self.order.out)
        if stored is not None:
            order = self.order
            check_same(stored, order.config, order.given, order.data.prepared(), order.objective)
        data = self._data(stored)
        data.check_fits(self.order.config)
        settings = stored.settings if stored else self._settings(data)
        start = self._start()
        loop = self._loop(data, settings)
        run = stored or self._begin(loop, data)
        loop.stepper.precision = run.precision
        if self.running.compile:  # only now: to choose a precision takes both, and each would be compiled
            for block in loop.network.blocks():
                block.compile()
        if start is not None:
            loop.resume(start)
        if self.processes.is_first:
            loop.mfu_of_rate = self._mfu_of_rate(settings, run)
            loop.metrics = MetricsFile(self.order.out / METRICS_FILE, after_step=loop.step)
            stack.callback(loop.metrics.close)
        with noticing_interrupts() as interrupt:
            loop.run(interrupt)
        return self._finish(loop, data, run)

    def _data(self, stored: Run | None) -> DataSet:
        """The data, prepared by the first process where they are not yet."""
        choice, config = self.order.data, self.order.config
        folder = choice.prepared() or (
            stored.data if stored and not choice.sources else self.order.out.resolve() / DATA
        )
        with self.processes.together():
            if self.processes.is_first and choice.prepared() is None and (stored is None or choice.sources):
                sources = choice.sources or (STDLIB,)
                wanted = DataOrder(
                    sources=sources,
                    out=folder,
                    vocab=config.vocab,
                    specials=Specials.of(config),
                    tokenizer=choice.tokenizer,
                    held_out=choice.held_out,
                    reading=choice.reading,
                )
                prepare(wanted, self.observer)
        with self.processes.together():
            data = open_data(folder, checksums=self.processes.is_first)
        if stored is not None and data.index.fingerprint != stored.data_fingerprint:
            raise UsageError(
                f"--out: {self.order.out} was trained on other data than {folder} holds now; choose another folder"
            )
        return data

    def _settings(self, data: DataSet) -> Settings:
        return make_settings(self.order.config, self.order.given, data_tokens=data.index.train.tokens)

    def _start(self) -> Path | None:
        """The checkpoint to go on from, the same for all processes."""
        step = -1.0
        with self.processes.together():
            if self.processes.is_first and (latest := self.checkpoints.latest()) is not None:
                step = int(latest.name.removeprefix("step-"))
        step = self.processes.from_first(step)
        return None if step < 0 else self.checkpoints.path(int(step))

    def _loop(self, data: DataSet, settings: Settings) -> Loop:
        order, running, processes = self.order, self.running, self.processes
        network = make_network(
            order.config,
            order.make_loss(settings, data),
            seed=settings.seed,
            mask_documents=settings.mask_documents,
            checkpoint_activations=running.checkpoint_activations,
        )
        called = spread(network, processes, running.parallel)
        stepper = Stepper(
            called=called,
            optimiser=make_optimiser(settings, network.model.spec, network.weights()),
            processes=processes,
            settings=settings,
            micro_batch=micro_batch_of(settings, running, processes.device, world_size=processes.world_size),
        )
        every = -(-settings.steps // SAVES)
        held_out = data.index.held_out
        return Loop(
            settings=settings,
            network=network,
            stepper=stepper,
            batches=self._batches(data, settings),
            checkpoints=self.checkpoints,
            evaluate=None if held_out is None else lambda: self._evaluate(stepper, data),
            save_every=running.save_every or every,
            evaluate_every=running.evaluate_every or every,
            observer=self.observer,
        )

    def _batches(self, data: DataSet, settings: Settings) -> Batches:
        return Batches(
            data.split("train"),
            batch=settings.batch,
            seq_len=settings.seq_len,
            seed=settings.seed,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
        )

    def _evaluate(self, stepper: Stepper, data: DataSet) -> HeldOut:
        assert data.index.held_out is not None
        call = EvaluationCall(
            called=stepper.called,
            processes=self.processes,
            precision=stepper.precision,
            batch=stepper.micro_batch,
            seq_len=stepper.settings.seq_len,
            text_bytes=data.index.held_out.text_bytes,
        )
        return self.order.evaluate(call, data.split("held_out"), EVALUATION_TOKENS)

    def _begin(self, loop: Loop, data: DataSet) -> Run:
        """Chooses the precision, and writes down what the folder is for."""
        settings = loop.settings
        batch = next(self._batches(data, settings))
        loop.stepper.choose_precision(batch, settings.precision, self._say)
        run = Run(
            folder=self.order.out,
            config=self.order.config,
            data=data.folder,
            data_fingerprint=data.index.fingerprint,
            settings=settings,
            precision=loop.stepper.precision,
            objective=self.order.objective,
        )
        with self.processes.together():
            if self.processes.is_first:
                run.write()
        return run

    def _say(self, text: str) -> None:
        if self.processes.is_first:
            self.observer.say(text)

    def _mfu_of_rate(self, settings: Settings, run: Run) -> float | None:
        """What tokens/s are to be multiplied with to get the share of the roof of all processes."""
        find = self.order.find_roof
        roof = None if find is None else find(self.processes.device, run.precision)
        flops = training_flops(self.order.config, settings.seq_len)
        return None if roof is None else flops / (roof * self.processes.world_size)

    def _finish(self, loop: Loop, data: DataSet, run: Run) -> Summary:
        """Saves the model, and sums up."""
        folder = self.order.out / MODEL
        weights = whole_weights(dict(loop.network.weights()))
        with self.processes.together():
            if self.processes.is_first:
                config = with_tokens(self.order.config, data.index.tokenizer)
                why = save_model(config, weights, data.tokenizer_files, folder)
                if why is not None:
                    self._say(f"the model is not in Hugging Face's form: {why}")
        return summarise(run, read_metrics(self.order.out / METRICS_FILE))
