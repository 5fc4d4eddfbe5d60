"""BatchSizeFinder: the largest batch size that fits into memory, found by trying."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset

from leyden.arguments import is_count, is_name, is_number, refuse
from leyden.callback import Callback
from leyden.data.combined import CombinedLoader
from leyden.data.loaders import flatten_loaders, is_collection
from leyden.errors import MisconfigurationException
from leyden.loops.trial import EndOfTrial, trial
from leyden.rank_zero import rank_zero_info
from leyden_optim.batch_size_search import Mode, free_memory, is_out_of_memory, largest
from leyden_optim.begun_anew import accumulation_of, make_optimizers_anew, with_random_numbers_of
from leyden_optim.hyperparameter import Hyperparameter

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer
    from leyden.runtime.strategy import Strategy

__all__ = ["BatchSizeFinder"]

_LOADERS = {
    "fit": "train_dataloader",
    "validate": "val_dataloader",
    "test": "test_dataloader",
    "predict": "predict_dataloader",
}


class BatchSizeFinder(Callback):
    """Finds the largest batch size whose steps do not run out of memory, before a fit or an evaluation begins.

    The attribute gets the size that was found, and the run asks for its dataloaders, as if the attribute had been so
    from the beginning.

    Args:
        mode: ``"power"`` doubles the size and takes the last that fits; ``"binsearch"`` goes on between that and the
            one that does not.
        steps_per_trial: optimizer steps, or batches of an evaluation, that have to succeed; at least 1.
        init_val: the size in samples that is tried first; where it does not fit, it is halved.
        max_trials: sizes that are tried at most.
        batch_arg_name: where module, datamodule or the ``hparams`` of these keep the size; ``"data.batch_size"`` goes
            into `data`. The dataloader hooks have to use it.
        margin: the part, from 0 to below 1, that ``"binsearch"`` takes off again, where any size did not fit.
        max_val: no larger size is tried, nor one that is larger than the dataset.

    Attributes:
        optimal_batch_size: what was found, in samples; None before.

    Raises:
        MisconfigurationException: at once, with every argument that cannot work; when the run begins, without the
            attribute, or with dataloaders that were passed to it, since these have their size already.

    Example:
        >>> from leyden import Trainer
        >>> from leyden.testing import BoringModule, RandomDataset
        >>> class Module(BoringModule):
        ...     batch_size = 2
        ...
        ...     def train_dataloader(self):
        ...         return DataLoader(RandomDataset(4, 100), batch_size=self.batch_size)
        ...
        ...     def training_step(self, batch, batch_idx):
        ...         if len(batch) > 20:
        ...             raise RuntimeError("out of memory")
        ...         return super().training_step(batch, batch_idx)
        >>> module = Module()
        >>> trainer = Trainer(max_epochs=1, logger=False, callbacks=[BatchSizeFinder()], discover_callbacks=False)
        >>> trainer.fit(module)
        >>> module.batch_size, trainer.num_training_batches
        (16, 7)
    """

    position = "first"
    runs_before = ("LearningRateFinder",)  # whose rate is for the batches that are trained on

    def __init__(
        self,
        mode: Mode = "power",
        steps_per_trial: int = 3,
        init_val: int = 2,
        max_trials: int = 25,
        batch_arg_name: str = "batch_size",
        margin: float = 0.05,
        max_val: int = 8192,
    ) -> None:
        super().__init__()
        problems = []
        if mode not in ("power", "binsearch"):
            problems.append(f"mode={mode!r}: expected 'power' or 'binsearch'")
        counts = {
            "steps_per_trial": steps_per_trial,
            "init_val": init_val,
            "max_trials": max_trials,
            "max_val": max_val,
        }
        problems += [
            f"{name}={value!r}: expected an int >= 1" for name, value in counts.items() if not is_count(value, least=1)
        ]
        if not is_name(batch_arg_name):
            problems.append(f"batch_arg_name={batch_arg_name!r}: expected a name")
        if not is_number(margin) or not 0 <= margin < 1:
            problems.append(f"margin={margin!r}: expected a number from 0 to below 1")
        refuse(type(self).__name__, problems)
        self.mode, self.steps_per_trial, self.init_val, self.max_trials = mode, steps_per_trial, init_val, max_trials
        self.batch_arg_name, self.margin, self.max_val = batch_arg_name, margin, max_val
        self._start_afresh()

    def _start_afresh(self) -> None:
        self.optimal_batch_size: int | None = None
        self._is_due = False  # whether this fit, or the one it resumes, has its search still before it
        self._checkpoint: dict[str, Any] | None = None  # that is resumed, made before the search was done
        self._samples: int | None = None  # in the dataset, as far as it can be known

    # -- within a run -----------------------------------------------------------------------------------------------

    def common_settings(self, trainer: Trainer) -> Mapping[str, Any]:
        """Return what decides, for all processes have to come to the same."""
        names = ("mode", "steps_per_trial", "init_val", "max_trials", "batch_arg_name", "max_val")
        return {name: getattr(self, name) for name in names}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work."""
        self._start_afresh()
        self._is_due = stage == "fit"
        name = _LOADERS[stage]
        if trainer.given_loaders.get(name) is not None:
            raise MisconfigurationException(
                f"{type(self).__name__}: a {name} was passed to Trainer.{stage}, and its batches have their size. "
                f"Define {name}() in the module or a datamodule, with batch_size=self.{self.batch_arg_name}."
            )
        self._attribute(pl_module, trainer.datamodule)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, before any other callback's fit begins."""
        if self._is_due:
            with_random_numbers_of(self._checkpoint)
            self.scale_batch_size(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, where the run is a validation and nothing else."""
        if str(trainer.state.fn) == "validate":
            self.scale_batch_size(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search."""
        self.scale_batch_size(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search."""
        self.scale_batch_size(trainer, pl_module)

    def scale_batch_size(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, in a hook of a run, and let it read batches of the size that is found."""
        self.search(trainer, pl_module)
        if self.optimal_batch_size is None:
            return
        if str(trainer.state.fn) != "fit":
            _read_anew(trainer, _evaluation(trainer))
        elif trainer.fit_loop.underway:
            trainer.fit_loop.val_loop.forget_data()
            _read_anew(trainer, trainer.fit_loop)
            assert trainer.fit_loop.source is not None
            trainer.fit_loop.source.set_epoch(trainer.current_epoch)
        else:  # schedulers may have asked how many steps there will be
            trainer.fit_loop.forget_data()
            make_optimizers_anew(trainer, self._checkpoint)

    def conflict_with_strategy(self, strategy: Strategy) -> str | None:
        """A process cannot try a batch without the others' parts of the weights."""
        if strategy.shards_weights:
            return (
                "a process that runs out of memory within a step leaves the others waiting for its part of the "
                "weights; try batch sizes by hand, or search with strategy='ddp'"
            )
        return None

    # -- the search -------------------------------------------------------------------------------------------------

    def search(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, and leave the result in `optimal_batch_size` and in the attribute."""
        if trainer.settings.fast_dev_run:
            rank_zero_info(f"{type(self).__name__} leaves its search out, since Trainer(fast_dev_run) tries the code.")
            return
        attribute = self._attribute(pl_module, trainer.datamodule)
        before, self._samples = attribute.read(), None

        def fits(size: int) -> bool:
            attribute.write(size)
            return bool(trainer.strategy.reduce_boolean_decision(self._fits(trainer, size), all=True))

        try:
            found = largest(
                fits, self.mode, first=self.init_val, trials=self.max_trials, limit=self._limit, margin=self.margin
            )
        finally:
            attribute.write(before)
        self._is_due = False
        if found is None:
            raise MisconfigurationException(
                f"{type(self).__name__}: no batch size that was tried fits into memory, from {self.init_val} down. "
                "Use a smaller model or a lower precision, or look for what else takes the memory."
            )
        self.optimal_batch_size = found
        attribute.write(found)
        rank_zero_info(f"{type(self).__name__}: batches of {found} fit into memory; {attribute.name} is {found} now.")

    def update(self, pl_module: LightningModule, datamodule: object = None) -> None:
        """Let the attribute have what was found."""
        if self.optimal_batch_size is not None:
            self._attribute(pl_module, datamodule).write(self.optimal_batch_size)

    def _limit(self) -> int:
        return self.max_val if self._samples is None else max(1, min(self.max_val, self._samples))

    def _fits(self, trainer: Trainer, size: int) -> bool:
        """Whether batches of `size` samples can be run."""
        try:
            self._try(trainer, size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            fits = False
        else:
            fits = True
        if not fits or trainer.strategy.root_device.type != "cpu":
            free_memory()  # here, where the error holds no frame with tensors any more
        return fits

    def _try(self, trainer: Trainer, size: int) -> None:
        fn, few = str(trainer.state.fn), _Few(self.steps_per_trial, trainer)
        names = ["train_dataloader", "val_dataloader"] if fn == "fit" else [_LOADERS[fn]]
        limits = {} if fn == "fit" else {f"limit_{names[0].split('_')[0]}_batches": self.steps_per_trial}
        # Alone: a process that runs out of memory in the middle of a step would leave the others waiting for it.
        with trial(trainer, few, names, alone=trainer.world_size > 1, **limits) as aside:
            self._look_at(aside.given_loaders[names[0]], names[0], size)
            if fn != "fit":
                loop = _evaluation(aside)
                loop.setup_data()
                loop.run()
                return
            aside.accumulate_grad_batches = accumulation_of(trainer)
            with suppress(EndOfTrial):
                aside.fit_loop.run()
            if trainer.settings.limit_val_batches != 0:
                aside.settings.limit_val_batches = self.steps_per_trial
                if aside.fit_loop.val_loop.wanted:
                    aside.fit_loop.validate()

    def _look_at(self, loaders: Any, name: str, size: int) -> None:
        """Learn how many samples there are, and whether the loaders follow the attribute at all."""
        loaders = loaders.flattened if isinstance(loaders, CombinedLoader) else loaders
        members = flatten_loaders(loaders)[0] if is_collection(loaders) else [loaders]
        known = [loader for loader in members if isinstance(loader, DataLoader) and loader.batch_size is not None]
        if known and all(loader.batch_size != size for loader in known):
            raise MisconfigurationException(
                f"{type(self).__name__}: {name} gave batches of {known[0].batch_size} where {self.batch_arg_name} is "
                f"{size}. Use it there: DataLoader(dataset, batch_size=self.{self.batch_arg_name})."
            )
        sized: list[Any] = [loader.dataset for loader in known if not isinstance(loader.dataset, IterableDataset)]
        self._samples = max((len(dataset) for dataset in sized), default=None) if len(sized) == len(members) else None

    def _attribute(self, pl_module: LightningModule, datamodule: object) -> Hyperparameter:
        found = Hyperparameter(self.batch_arg_name, pl_module, datamodule)
        if found.found:
            return found
        owners = [type(pl_module).__name__, *([] if datamodule is None else [type(datamodule).__name__])]
        raise MisconfigurationException(
            f"{type(self).__name__}: {' and '.join(owners)} {'has' if len(owners) == 1 else 'have'} no "
            f"{self.batch_arg_name}, neither as an attribute nor in hparams, that could be given the batch size. Set "
            f"self.{self.batch_arg_name} in __init__ and use it in the dataloader hooks, or give the "
            "name that it has there as batch_arg_name."
        )

    # -- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what was found, and whether the search is still to be made."""
        if self.optimal_batch_size is None and not self._is_due:
            return {}
        return {"is_due": self._is_due, "optimal_batch_size": self.optimal_batch_size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was found."""
        self._is_due, self.optimal_batch_size = bool(state_dict["is_due"]), state_dict["optimal_batch_size"]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Give module and datamodule the size that was found before they make dataloaders."""
        if str(trainer.state.fn) != "fit":
            return
        state = (checkpoint.get("callbacks") or {}).get(self.state_key) or {}
        self._is_due = bool(state.get("is_due"))
        self._checkpoint = checkpoint if self._is_due else None
        if state.get("optimal_batch_size") is not None:
            self._attribute(pl_module, trainer.datamodule).write(state["optimal_batch_size"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the checkpoint."""
        self._checkpoint = None


class _Few(Callback):
    """Ends a trial after some optimizer steps, or after the batches of an evaluation, before the hooks of an end."""

    def __init__(self, steps: int, run: Trainer) -> None:
        self._left = steps
        self._run = run

    def on_train_batch_start(self, *_: Any) -> None:
        self._run.raise_on_sigterm()
        if not self._left:
            raise EndOfTrial

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._left -= trainer.fit_loop.window_ends

    def on_train_epoch_end(self, *_: Any) -> None:
        if not self._left:
            raise EndOfTrial

    def on_validation_epoch_end(self, *_: Any) -> None:
        self._run.raise_on_sigterm()
        raise EndOfTrial

    def on_test_epoch_end(self, *_: Any) -> None:
        self.on_validation_epoch_end()

    def on_predict_epoch_end(self, *_: Any) -> None:
        self.on_validation_epoch_end()


def _read_anew(trainer: Trainer, loop: Any) -> None:
    """Let a loop ask for its dataloaders again."""
    hook, loop.source = trainer.journal.hook, None
    loop.setup_data()
    trainer.journal.hook = hook


def _evaluation(trainer: Trainer) -> Any:
    return getattr(trainer, f"{trainer.state.fn}_loop")
