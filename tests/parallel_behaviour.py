"""What strategies do beside giving the right weights: each function is run in two processes, and says what it saw."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import torch
from tests.parallel_runs import Adversaries, Net, fit
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from leyden import Trainer, grad_norm
from leyden.strategies import DDPStrategy, DistributedStrategy, FSDPStrategy

__all__ = ["BEHAVIOURS", "ON_CPU", "leave_out_alone", "seen"]

ON_CPU = {"accelerator": "cpu"}
"""There may be one GPU only, and this is about two processes."""


def make_trainer(strategy: Any, **settings: Any) -> Trainer:
    settings = {"max_epochs": 1, "logger": False, "discover_callbacks": False, **ON_CPU, **settings}
    return Trainer(strategy=strategy, **settings)


def whole(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: one.full_tensor() if isinstance(one, DTensor) else one.clone()
        for name, one in module.state_dict().items()
    }


class Asking(Net):
    """Asks for everything that processes do together."""

    def on_train_start(self) -> None:
        strategy = self.trainer.strategy
        rank = strategy.global_rank
        mine = torch.tensor([1.0 + rank])
        followed = mine.clone().requires_grad_()
        weights = torch.tensor([[1.0], [10.0]]) * (1 + rank)
        (self.all_gather(followed, sync_grads=True) * weights).sum().backward()
        strategy.barrier("here")
        self.found = {
            **{name: strategy.reduce(mine, reduce_op=name).item() for name in ("mean", "sum", "max", "min")},
            "default": strategy.reduce(mine).item(),
            "no tensor": strategy.reduce("text"),
            "given": mine.item(),
            "all": strategy.reduce_boolean_decision(rank == 0),
            "any": strategy.reduce_boolean_decision(rank == 0, all=False),
            "first": strategy.broadcast({"from": rank}),
            "second": strategy.broadcast([rank], src=1),
            "gathered": self.all_gather({"a": mine, "b": [rank, 2.5], "c": "text"}),
            "gradient": followed.grad,
        }


def collectives() -> Any:
    module = Asking(4)
    make_trainer("ddp").fit(module)
    return module.found


class Evaluated(Net):
    """Writes down what its weights are between steps of evaluation, and in them."""

    def __init__(self) -> None:
        super().__init__(4)
        self.between: list[bool] = []
        self.within: list[bool] = []
        self.norm = nn.BatchNorm1d(4)
        self.means: list[Tensor] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.net(self.norm(batch)).square().mean()  # type: ignore[no-any-return]

    def forward(self, batch: Tensor) -> Tensor:
        self.within.append(isinstance(self.net[0].weight, DTensor))
        return self.net(batch)  # type: ignore[no-any-return]

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self(batch).square().mean(), sync_dist=False)

    test_step = validation_step

    def on_validation_batch_end(self, *_: Any) -> None:
        self.between.append(isinstance(self.net[0].weight, DTensor))
        assert self.norm.running_mean is not None
        self.means.append(self.norm.running_mean.clone())


def _evaluate(strategy: Any, batches: list[int]) -> Any:
    """Fit with validation, and evaluate alone, with as many batches in each process as `batches` says."""
    module, trainer = Evaluated(), make_trainer(strategy, use_distributed_sampler=True, max_epochs=2)
    data = [torch.full((2, 4), float(index)) for index in range(batches[trainer.global_rank])]
    trainer.fit(module, val_dataloaders=data)
    trained = whole(module)
    evaluations = [len(trainer.validate(module, data, verbose=False)), len(trainer.test(module, data, verbose=False))]
    predictions = trainer.predict(module, data)
    return {
        "weights": trained,
        "evaluated": [*evaluations, len(predictions or [])],
        "between": set(module.between),
        "within": set(module.within),
        "means": module.means,
        "after": isinstance(module.net[0].weight, DTensor),
        "same": all(torch.equal(one, trained[name]) for name, one in whole(module).items() if "norm" not in name),
    }


def evaluation_of_uneven_batches_by_fsdp() -> Any:
    return _evaluate(FSDPStrategy(wrap={nn.Linear}), [1, 4])


def evaluation_of_even_batches_by_fsdp() -> Any:
    return _evaluate(FSDPStrategy(wrap={nn.Linear}), [3, 3])


def evaluation_of_uneven_batches_by_ddp() -> Any:
    return _evaluate("ddp", [1, 4])


class Overflowing(Net):
    """Its loss is infinite in one process, in the second step."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * torch.inf if batch_idx == 1 and self.global_rank == 1 else loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _overflow(strategy: Any) -> Any:
    module, trainer = Overflowing(4), make_trainer(strategy, precision="16-mixed")
    trainer.precision_plugin.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.fit(module)
    scaler = trainer.precision_plugin.scaler
    assert scaler is not None
    return trainer.global_step, scaler.get_scale(), whole(module)


def overflow_of_one_process_by_ddp() -> Any:
    return _overflow("ddp")


def overflow_of_one_process_by_fsdp() -> Any:
    return _overflow("fsdp")


class Measured(Net):
    """Looks at the norms of its gradients."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.norms = {name: float(value) for name, value in grad_norm(self, 2).items()}


def norms_of_gradients() -> Any:
    found = []
    for strategy in ("ddp", "fsdp"):
        module = Measured(4)
        make_trainer(strategy).fit(module)
        found.append(module.norms)
    return found


class Untrained(Net):
    """Nothing is trained in the first epoch, all of it in the second; frozen in the midst of it by nobody."""

    def on_train_epoch_start(self) -> None:
        self.requires_grad_(self.current_epoch > 0)

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) if self.current_epoch else None


def nothing_to_train_at_first() -> Any:
    return {strategy: fit(strategy, ON_CPU, Untrained) for strategy in ("ddp", "fsdp")}


class LeavesOut(Net):
    """The last batch of each accumulation window is left out; one of which the window is never opened, too."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return None if batch_idx in (1, 2, 3) else super().training_step(batch, batch_idx)


def windows_that_end_without_a_loss() -> Any:
    found = {}
    for strategy in ("ddp", "fsdp"):
        try:
            found[strategy] = fit(strategy, {**ON_CPU, "accumulate_grad_batches": 2}, LeavesOut)
        except Exception as error:
            found[strategy] = {"error": str(error)}
    return found


class Calls(Net):
    """Calls itself and looks at its weights wherever it may, while an optimizer steps in between."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.calls: list[Tensor] = []
        self.shards: list[bool] = []

    def forward(self, batch: Tensor) -> Tensor:
        return self.net(batch)  # type: ignore[no-any-return]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self(batch).square().mean()  # type: ignore[no-any-return]

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self(batch)

    def val_dataloader(self) -> Any:
        return [torch.ones(2, 4)]

    def _call(self) -> None:
        with torch.no_grad():
            self.calls.append(self(torch.ones(2, 4)))
        self.shards.append(isinstance(self.net[0].weight, DTensor))

    def on_after_backward(self) -> None:
        self._call()

    def on_train_batch_end(self, *_: Any) -> None:
        self._call()

    def on_validation_epoch_end(self) -> None:
        self._call()

    def on_train_epoch_start(self) -> None:
        self._call()


def calls_outside_of_steps() -> Any:
    found = []
    for strategy in ("ddp", "fsdp", FSDPStrategy(wrap={nn.Linear}, reshard_after_forward=False)):
        module = Calls(4)
        make_trainer(strategy, max_epochs=2).fit(module)
        found.append((torch.stack(module.calls), set(module.shards), whole(module)))
    return found


def predictions_of_fewer_samples_than_processes() -> Any:
    found = []
    for strategy in ("ddp", "fsdp"):
        trainer, rows = make_trainer(strategy), torch.ones(1, 4)
        predicted = trainer.predict(Calls(4), torch.utils.data.DataLoader(rows))  # type: ignore[arg-type]
        found.append(len(predicted or []))
    return found


class Statistics(Net):
    """Has no parameter and no optimizer at all."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        del self.net
        self.register_buffer("seen", torch.zeros(()))
        self.rows = 0

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        self.rows += len(batch)

    def configure_optimizers(self) -> Any:
        return None


def nothing_to_train_at_all() -> Any:
    import warnings

    found = []
    for strategy in ("ddp", "fsdp"):
        module = Statistics(4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no optimizer
            make_trainer(strategy).fit(module)
        found.append(module.rows)
    return found


def several_runs_of_one_trainer() -> Any:
    found = []
    for strategy in ("ddp", FSDPStrategy()):
        module, trainer = Net(4), make_trainer(strategy)
        trainer.fit(module)
        once = whole(module)
        trainer.fit_loop.max_epochs = 2
        trainer.fit(module)
        other = make_trainer(strategy if isinstance(strategy, str) else FSDPStrategy(), max_epochs=1)
        other.fit(module)
        found.append((trainer.global_step, other.global_step, once, whole(module), module.net[0].weight.shape))
    return found


class OnMeta(Net):
    """Its layers are made without memory, when there is a strategy that fills them."""

    def __init__(self) -> None:
        super().__init__(4)
        del self.net

    def configure_model(self) -> None:
        if hasattr(self, "net"):
            return
        with torch.device("meta"):
            self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
            self.net.append(nn.Linear(2, 2))
            self.net.append(nn.Linear(2, 2))
            self.net[6].weight = self.net[5].weight

    def on_train_start(self) -> None:
        self.begun = whole(self)


def layers_made_on_the_meta_device() -> Any:
    torch.manual_seed(5)
    module, trainer = OnMeta(), make_trainer(FSDPStrategy(wrap=lambda name, one: name in ("net.0", "net.2")))
    trainer.fit(module)
    trainer.save_checkpoint("meta.ckpt")
    again = OnMeta()
    make_trainer(FSDPStrategy(), max_epochs=2).fit(again, ckpt_path="meta.ckpt")
    return {
        "read": again.begun,
        "tied": module.net[6].weight is module.net[5].weight and again.net[6].weight is again.net[5].weight,
        "begun": module.begun,
        "trained": whole(module),
        "steps": trainer.global_step,
    }


def module_after_fsdp() -> Any:
    module, trainer = Evaluated(), make_trainer(FSDPStrategy())
    trainer.fit(module)
    weight: Any = module.net[0].weight
    called = module(torch.ones(2, 4))
    refused = ""
    try:
        make_trainer("ddp").fit(module)
    except Exception as error:
        refused = str(error)
    return type(weight).__name__, tuple(weight.to_local().shape), tuple(weight.shape), called.detach(), refused


class AverageGradients(DistributedStrategy):
    """What DistributedDataParallel does, as plainly as it can be done; ``docs/strategies.md`` shows it."""

    def setup_module(self, module: nn.Module) -> None:
        super().setup_module(module)
        for tensor in (*module.parameters(), *module.buffers()):
            torch.distributed.broadcast(tensor.detach(), 0)
        for parameter in module.parameters():
            parameter.register_post_accumulate_grad_hook(self.average)  # type: ignore[no-untyped-call]

    def average(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        torch.distributed.all_reduce(parameter.grad)
        parameter.grad /= self.world_size


def own_strategy() -> Any:
    module, trainer = Net(4), make_trainer(AverageGradients(), max_epochs=2)
    trainer.fit(module)
    return whole(module), trainer.global_step, trainer.world_size


class Forgetful(Net):
    """A layer of it is in no loss."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.lost, self.frozen = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)


class Changing(Net):
    """Uses other parameters in every other step."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        layer: Any = self.net[2] if batch_idx % 2 else nn.Identity()
        return layer(self.net[0](batch)).square().mean()  # type: ignore[no-any-return]


class Reentrant(Net):
    """Uses a layer twice, each time within a checkpoint of the old kind."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        layer = self.net[0]
        once = checkpoint(layer, batch.requires_grad_(), use_reentrant=True)
        return checkpoint(layer, once[:, :4], use_reentrant=True).mean()  # type: ignore[no-any-return]


class Outside(Net):
    """Uses a layer between steps."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.net[0](batch)


class Backward(Adversaries):
    """Goes backward past the strategy."""

    def training_step(self, batch: Tensor, batch_idx: int) -> None:  # type: ignore[override]
        self.net(batch).square().mean().backward()
        for optimizer in self.optimizers():
            optimizer.step()


class Freezing(Net):
    """Freezes a layer in the midst of an epoch."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.net[0].requires_grad_(batch_idx < 3)


class Thawing(Net):
    """Sets a layer free in the midst of an epoch, and trains it with momentum from then on."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.net[0].requires_grad_(False)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 3:
            self.net[0].requires_grad_(True)


class Monitored(Net):
    """Its scheduler looks at what is another value in each process: it gets worse in the second one only."""

    def on_train_epoch_end(self) -> None:
        self.log("seen", float(self.current_epoch * (1 if self.global_rank else -1)))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "seen"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        self.metrics = [*getattr(self, "metrics", ()), metric]
        super().lr_scheduler_step(scheduler, metric)


def schedulers_that_monitor() -> Any:
    found = []
    for strategy in ("ddp", "fsdp"):
        module = Monitored(4)
        make_trainer(strategy, max_epochs=3).fit(module)
        found.append((torch.stack(module.metrics), whole(module)))
    return found


def layers_set_free_within_an_epoch() -> Any:
    return fit("ddp", ON_CPU, Thawing)["weights"]


class Growing(Net):
    """Gets a layer when the strategy is done with it."""

    def on_fit_start(self) -> None:
        self.head = nn.Linear(2, 2)


class Scaled(Net):
    """Has a hook on a gradient."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        weight: Any = self.net[0].weight
        weight.register_hook(lambda gradient: 2 * gradient)


class Mixed(Net):
    """Weights of two dtypes."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.last = nn.Linear(2, 2, dtype=torch.float64)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        found: Tensor = self.last(self.net(batch).double())
        return found.square().mean()


class Factored(Net):
    """Has an optimizer that torch does not have for shards."""

    def configure_optimizers(self) -> Any:
        return torch.optim.Adafactor(self.parameters())


FAILURES: dict[str, tuple[Any, type[Net]]] = {
    "unused": ("ddp", Forgetful),
    "static": (lambda: DDPStrategy(static_graph=True), Changing),
    "twice": ("ddp_find_unused_parameters_true", Reentrant),
    "outside": ("fsdp", Outside),
    "static, by hand": (lambda: DDPStrategy(static_graph=True), Adversaries),
    "past the strategy": ("ddp", Backward),
    "frozen": ("ddp", Freezing),
    "too late": ("fsdp", Growing),
    "hooked": ("fsdp", Scaled),
    "of two dtypes": ("fsdp", Mixed),
    "factored": ("fsdp", Factored),
}


class OneLeavesOut(Net):
    """One process leaves a batch out, and the other goes backward."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        left_out = self.global_rank == 1 and batch_idx == 2
        return None if left_out else super().training_step(batch, batch_idx)


class OneSkips(Net):
    """One process skips the rest of the epoch, and the other goes on with it."""

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> int | None:
        return -1 if self.global_rank == 1 and batch_idx == 2 else None


class Impatient(DDPStrategy):
    patience_s = 1.0


def leave_out_alone(kind: type[Net]) -> None:
    """Fail, since one process waits for the gradients of another that has none."""
    make_trainer(Impatient()).fit(kind(4))


class Skips(Net):
    """All processes skip every epoch but one, before its first batch."""

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> int | None:
        return -1 if self.current_epoch != 1 else None


def skipped_epochs() -> int:
    trainer = make_trainer("ddp", max_epochs=4)
    trainer.fit(Skips(4))
    return trainer.global_step


def uneven_training() -> Any:
    trainer = make_trainer("ddp", use_distributed_sampler=False)
    try:
        trainer.fit(Net(4), [torch.ones(2, 4)] * (3 + trainer.global_rank))
    except Exception as error:
        return type(error).__name__, str(error)
    return None


def _fail(name: str) -> Callable[[], Any]:
    strategy, kind = FAILURES[name]

    def run() -> Any:
        try:
            make_trainer(strategy if isinstance(strategy, str) else strategy()).fit(kind(4))
        except Exception as error:
            return type(error).__name__, str(error)
        return None

    return run


BEHAVIOURS: dict[str, Callable[[], Any]] = {
    one.__name__: one
    for one in (
        collectives,
        evaluation_of_uneven_batches_by_fsdp,
        evaluation_of_even_batches_by_fsdp,
        evaluation_of_uneven_batches_by_ddp,
        overflow_of_one_process_by_ddp,
        overflow_of_one_process_by_fsdp,
        norms_of_gradients,
        nothing_to_train_at_first,
        nothing_to_train_at_all,
        windows_that_end_without_a_loss,
        calls_outside_of_steps,
        predictions_of_fewer_samples_than_processes,
        several_runs_of_one_trainer,
        layers_made_on_the_meta_device,
        module_after_fsdp,
        own_strategy,
        layers_set_free_within_an_epoch,
        schedulers_that_monitor,
        skipped_epochs,
        uneven_training,
    )
} | {name: _fail(name) for name in FAILURES}


def seen(*names: str) -> dict[str, Any]:
    """Return what each behaviour of these names gave, or the traceback of its error."""
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = BEHAVIOURS[name]()
        except BaseException as error:
            found[name] = "".join(traceback.format_exception(error))
    return found
