"""A training run, step by step."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from undrift.data.images import ImageData
from undrift.diffusion.condition import ConditionalNetwork
from undrift.diffusion.pipelines import save_pipeline
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput
from undrift.objectives.objective import Objective
from undrift.objectives.published import ON_SAMPLES
from undrift.processes import Processes
from undrift.regularizer.cumulative import CumulativeErrorRegularizer
from undrift.regularizer.guard import MainLossGuard
from undrift.regularizer.options import OF_MODEL
from undrift.regularizer.resumable import seeded
from undrift.seeds import stream_seed
from undrift.storage.manifest import check_sealed, seal
from undrift.storage.writing import appearing
from undrift.training import building, checkpoint, lora, trainable
from undrift.training.check import check, check_conditions
from undrift.training.conditions import conditions_of
from undrift.training.config import TrainConfig
from undrift.training.devices import accelerator_for, check_processes
from undrift.training.records import Row


class Trainer:
    """A training run: everything that a resumed run restores.

    Arguments:
        config: What was chosen.
        data: The images.
        accelerator: Devices, processes, precision; a new one when None.

    Raises:
        InvalidInput: If the configuration does not fit the data, or its options exclude each other.
    """

    def __init__(self, config: TrainConfig, data: ImageData, accelerator: Any = None) -> None:
        from diffusers.training_utils import EMAModel

        check(config)
        self.accelerator = accelerator or accelerator_for(config)
        check_processes(config, self.accelerator)
        start = checkpoint.StartingPoint.load(config.start_from) if config.start_from else None
        state = start.state if start else None
        self.asked = config = start.inherit(config) if start else config
        rate = building.learning_rate(config, start)
        config = self.config = replace(
            config,
            regularizer=config.chosen(config.batch_size),
            optimizer=replace(config.optimizer, learning_rate=rate),
        )
        self.start = start
        self.data = data = start.encoded(data) if start else data
        network, self.scheduler = building.starting_network(config, data, start)
        if config.lora.rank:
            lora.add_adapters(network, config.lora.rank, config.lora.target_modules)
        else:
            trainable.select(network, config.trainable)
        options = building.optimizer_options(config)
        self.max_grad_norm = options.max_grad_norm
        optimizer, self.lr_schedule = building.build_optimizer(
            options, network, config.steps, warm=state is not None
        )
        self.ema = EMAModel(network.parameters(), decay=config.ema_decay, foreach=True)
        if state:
            # moments of another loss or of other parameters do not fit
            same = state["config"].get("trainable") == config.trainable
            if config.method not in ON_SAMPLES and same:
                building.continue_optimizer(optimizer, state["optimizer"])
            self.ema.load_state_dict({**state["ema"], "decay": config.ema_decay})
        # the schedule is stepped by hand, once a step, whatever the number of processes
        self.network, self.optimizer = self.accelerator.prepare(network, optimizer)
        self.ema.to(self.accelerator.device)
        self.sampler = self._sampler(self.bare_network)
        self.has_learned = start is not None
        check_conditions(config, self.sampler, data)
        self.objective = self._objective()
        self.regularizer = self._regularizer()
        self.guard = self._guard()
        self.stream = data.batches(
            config.batch_size,
            torch.Generator().manual_seed(stream_seed(config.seed, "data")),
            config.horizontal_flip,
            self.processes,
        )
        self.step = 0
        self.cpu_seconds = 0.0
        self.unlogged: list[Row] = []

    def _objective(self) -> Objective:
        """The loss of the method, over the chain that it follows if it is one of samples."""
        config = self.config
        if config.method not in ON_SAMPLES:
            return building.build_objective(config, self.sampler, config.seed)
        if not OF_MODEL.isdisjoint(config.regularizer.spaces):
            self._check_learned()
        chain = self._chain(config.chain.sampler or "ddim")
        return building.build_sample_objective(config, chain, self.data, config.seed)

    def _regularizer(self) -> CumulativeErrorRegularizer | None:
        """The regularizer of the method, over the chain that it follows."""
        config = self.config
        if config.variant is None:
            return None
        if config.regularizer.spaces not in (("pixels",), ("pyramid",)):
            self._check_learned()
        return building.build_regularizer(config, self._chain(config.chain.sampler), config.seed)

    def _guard(self) -> MainLossGuard | None:
        """The limit on the rise of the main loss, where the strength is balanced."""
        limit = self.config.regularizer.main_loss_limit
        if self.regularizer is None or self.regularizer.balance is None or limit is None:
            return None
        return MainLossGuard(limit, network=copy.deepcopy(self.bare_network))

    def _chain(self, name: str | None) -> Sampler:
        """The chain that the method follows; without a name the regularizer sets its steps."""
        steps = self.config.regularizer.num_inference_steps if name else None
        return self._sampler(self.bare_network, steps, name)

    def _sampler(
        self, network: nn.Module, num_inference_steps: int | None = None, name: str | None = None
    ) -> Sampler:
        """A sampler over a network, with the conditions of the data."""
        conditions = conditions_of(self.config, self.start)
        sampler = building.build_sampler(
            network, self.scheduler, num_inference_steps, name, self.start, conditions
        )
        return sampler.over(self.data.labels)

    def _labels(self) -> Tensor | None:
        """The conditions of the last batch in this process, of a conditional model."""
        return self.stream.labels if self.sampler.is_conditional else None

    def _conditioned(self, network: nn.Module | None, generator: torch.Generator) -> nn.Module:
        """A network, the trained one when None, under the conditions of the last batch.

        A main term is without guidance, which belongs to the chain, and with a share of the rows
        without a condition.
        """
        network, labels = (
            cast(nn.Module, self.network if network is None else network),
            self._labels(),
        )
        if labels is None:
            return network
        conditions: ConditionalNetwork = self.sampler.network.around(network)
        if self.config.method in ON_SAMPLES:
            return conditions.given(labels)
        if share := self.config.conditioning_dropout_prob:
            chance = self.processes.drawn(lambda n: torch.rand(n, generator=generator), len(labels))
            dropped = chance < share
            labels = torch.where(dropped, -1, labels)
        return conditions.guided(1.0).given(labels)

    def _check_learned(self) -> None:
        """Check that there is a model whose features or estimates can be compared."""
        if not self.has_learned:
            raise InvalidInput(
                f"--regularizer.features {self.config.regularizer.features} are made by the "
                "network as it is at the start, which has learned nothing yet: give --start-from"
            )

    @property
    def bare_network(self) -> nn.Module:
        """The network itself, without the wrapper of several processes."""
        return cast(nn.Module, self.accelerator.unwrap_model(self.network))

    def run(
        self, on_step: Callable[[Row], None] = lambda row: None, until: int | None = None
    ) -> None:
        """Train from the current step to the last.

        Arguments:
            on_step: Called after each step with its measurements.
            until: Stop after this step instead.
        """
        self.network.train()
        last = self.config.steps if until is None else min(until, self.config.steps)
        while self.step < last:
            started = time.process_time()
            row = self._step()
            self.cpu_seconds += time.process_time() - started
            on_step(row)

    def _step(self) -> Row:
        x_0 = self._batch()
        self.optimizer.zero_grad()
        with seeded(self._seed("dropout", self.processes.index), self.accelerator.device):
            first_term = self.config.regularizer.start * self.config.steps
            if self.regularizer is None or self.step < first_term:
                main = self._main_term(x_0)
                self.accelerator.backward(main)
            else:
                main = self.regularizer.backward(
                    self.network,
                    x_0,
                    lambda: self._main_term(x_0),
                    self.accelerator.backward,
                    self._labels(),
                )
                self._limit_main_loss(main, x_0)
        loss = float(self.processes.mean(main))
        if not math.isfinite(loss):
            raise InvalidInput(
                f"the loss is {loss} at step {self.step + 1}: lower --optimizer.learning-rate, or "
                "check the data and the starting weights"
            )
        grad_norm = self.accelerator.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        row = {"step": self.step + 1, "loss": loss, "grad_norm": float(grad_norm)}
        row["lr"] = float(self.lr_schedule.get_last_lr()[0])
        row |= self._objective_log() | self._regularizer_log()
        self.optimizer.step()
        self.lr_schedule.step()
        self.ema.step(self.bare_network.parameters())
        self.step += 1
        return row

    def _limit_main_loss(self, main: Tensor, x_0: Tensor) -> None:
        """Now and then compare the main loss with that of the model before the first term."""
        guard, regularizer = self.guard, self.regularizer
        if guard is None or regularizer is None or regularizer.balance is None:
            return
        if not guard.start:  # the first term: nothing has changed yet
            guard.network.load_state_dict(self.bare_network.state_dict())
        elif self.step % guard.every:
            return
        with torch.no_grad():
            pair = main, self._main_term(x_0, guard.network)
        guard.update(*(float(self.processes.mean(term)) for term in pair))
        regularizer.balance.scale = guard.scale
        regularizer.log |= {"main_average": guard.main, "main_average_start": guard.start}
        regularizer.log["share"] = regularizer.balance.share * guard.scale

    def _main_term(self, x_0: Tensor, network: nn.Module | None = None) -> Tensor:
        """The method's loss, at steps and noise that depend on the seed and the step alone."""
        torch.manual_seed(self._seed("main", self.processes.index))  # of dropout
        noise = torch.Generator().manual_seed(self._seed("main"))
        dropout = torch.Generator().manual_seed(self._seed("conditioning"))
        return self.objective(self._conditioned(network, dropout), x_0, generator=noise)

    def _objective_log(self) -> Row:
        """The measurements of the method; the loss of a run is the main term alone."""
        log = dict(self.objective.log)
        return {"loss": log.pop("main")} | log if "main" in log else log

    def _regularizer_log(self) -> Row:
        """The measurements of the regularizer; half precision has scaled both of its gradients."""
        scaler = self.accelerator.scaler
        scale = scaler.get_scale() if scaler is not None else 1.0
        log = self.regularizer.log if self.regularizer else {}
        return {k: v / scale if k.startswith("grad_norm") else v for k, v in log.items()}

    def _batch(self) -> Tensor:
        """This process' share of the next batch."""
        return next(self.stream).to(self.accelerator.device)

    @property
    def processes(self) -> Processes:
        """The processes of the run."""
        return Processes.of(self.accelerator)

    def _seed(self, stream: str, process: int = 0) -> int:
        """A seed for this step, the same in every run with the same seed."""
        return stream_seed(self.config.seed, stream, self.step, process)

    def averaged_network(self) -> nn.Module:
        """A copy of the network with the averaged weights, for evaluation in full precision."""
        network = copy.deepcopy(self.bare_network)
        for wrapper in ("forward", "_original_forward"):  # what mixed precision has put around it
            network.__dict__.pop(wrapper, None)
        self.ema.copy_to(network.parameters())
        return network.eval()

    def averaged_sampler(
        self, num_inference_steps: int | None = None, name: str | None = None
    ) -> Sampler:
        """A sampler over the averaged weights; that of the scheduler if it is not named."""
        network = self.averaged_network()
        return self._sampler(network, num_inference_steps, name)

    def save_pipeline(self, path: Path) -> None:
        """Write the averaged weights as a pipeline of diffusers, completely or not at all.

        Adapters are merged, and written beside it.
        """
        network, like = self.averaged_network(), self.start.pipeline if self.start else None
        if self.config.lora.rank:
            name = "unet" if getattr(like, "unet", None) is not None else "transformer"
            with appearing(path.parent / "lora") as part:
                lora.save(network, name, part)
            lora.merge(network)
        with appearing(path) as part:
            save_pipeline(network, self.scheduler, part, like)
            seal(part)

    def save_checkpoint(self, folder: Path) -> Path:
        """Write all state, and delete all but the last checkpoints."""
        path = folder / f"step-{self.step:08d}"
        main, wait = self.accelerator.is_main_process, self.accelerator.wait_for_everyone
        with appearing(path, when=main, agree=wait) as part:
            if main:
                _save(self._state(), part / checkpoint.STATE_FILE)
            for file, own in self._own.items():
                _save(own.state_dict(), part / file)
            wait()
            if main:
                seal(part)
        if main:
            checkpoint.forget_old_checkpoints(folder)
        return path

    def load_checkpoint(self, path: Path) -> None:
        """Resume from a checkpoint.

        Raises:
            Damaged: If its files are not what was written.
            InvalidInput: If it was made with another configuration, or is not finite.
        """
        file = path / checkpoint.STATE_FILE
        check_sealed(path, needs=[file.name])
        state = checkpoint.read_state(file, needs=("config", "network", "step"))
        checkpoint.same_run(state["config"], self.config, path)
        if state["num_processes"] != self.accelerator.num_processes:
            raise InvalidInput(
                f"{path} was made by {state['num_processes']} processes: use as many"
            )
        own_states = {name: checkpoint.read_state(path / name) for name in self._own}
        for name, part in self._shared.items():
            part.load_state_dict(state[name])
        self.ema.to(self.accelerator.device)
        self.step, self.cpu_seconds = state["step"], state["cpu_seconds"]
        self.unlogged[:] = state["unlogged"]
        for name, own in self._own.items():
            own.load_state_dict(own_states[name])

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "num_processes": self.accelerator.num_processes,
            "cpu_seconds": self.cpu_seconds,
            "unlogged": [dict(row) for row in self.unlogged],
            "config": asdict(self.config),
            "image_shape": self.data.image_shape,
            **{name: part.state_dict() for name, part in self._shared.items()},
        }

    @property
    def _shared(self) -> dict[str, Any]:
        """Everything whose state is the same in all processes."""
        names, scaler = ("optimizer", "lr_schedule", "ema"), self.accelerator.scaler
        parts = {"scaler": scaler} if scaler is not None else {}
        parts |= {"guard": self.guard} if self.guard is not None else {}
        return parts | {"network": self.bare_network} | {n: getattr(self, n) for n in names}

    @property
    def _own(self) -> dict[str, Any]:
        """Files of everything whose state differs between processes."""
        parts: dict[str, Any] = {"objective": self.objective, "stream": self.stream}
        parts["regularizer"] = self.regularizer
        rank = self.accelerator.process_index
        return {f"{name}-{rank}.pt": part for name, part in parts.items() if part is not None}


def _save(state: dict[str, Any], file: Path) -> None:
    """Write a state; an error of the system is not lost in torch."""
    with file.open("wb") as stream:
        torch.save(state, stream)
