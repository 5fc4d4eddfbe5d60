"""ModelPruning: sets the least important weights to zero while the model is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from leyden.arguments import refuse
from leyden.callback import Callback
from leyden.errors import MisconfigurationException
from leyden.rank_zero import rank_zero_info, rank_zero_warn
from leyden_optim.pruned_weights import as_before, fit_weights, plain_weights
from leyden_optim.pruning_arguments import Switch, answer, mistakes
from leyden_optim.pruning_method import Amount, Method, is_amount
from leyden_optim.pruning_selection import PARAMETER_NAMES, Pair, check_sizes, select, targets_of
from leyden_optim.pruning_state import copied_state, restore, state_of
from leyden_optim.pruning_target import Target, make_permanent, resampled
from leyden_optim.sparsity import Sparsity, sparsity_table, total_of

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer
    from leyden.runtime.strategy import Strategy

__all__ = ["ModelPruning"]


class ModelPruning(Callback):
    """Prunes weights at the end of epochs with `torch.nn.utils.prune`, and keeps them at zero.

    Args:
        pruning_fn: ``"l1_unstructured"`` prunes the smallest weights, ``"random_unstructured"`` any;
            ``"ln_structured"`` and ``"random_structured"`` prune slices whole along `pruning_dim`, the former those of
            the smallest `pruning_norm`; ``"identity"`` prunes none. Or a subclass of
            `torch.nn.utils.prune.BasePruningMethod`, torch's or yours, which gets ``amount``, ``n`` (the norm) and
            ``dim`` where its ``__init__`` takes them.
        parameters_to_prune: pairs of a layer, or its name in the model, and the name of a parameter in it:
            ``[(model.head, "weight")]`` or ``[("head", "weight")]``; empty is `parameter_names` in every layer.
        parameter_names: without pairs, the names that are pruned in every layer; None is ``["weight", "bias"]``,
            BatchNorm's too, of a structured method those with two dimensions or more.
        use_global_unstructured: compare the weights of all layers with one another, so that a layer of small ones loses
            more; False takes `amount` of each parameter. A structured method needs False.
        amount: a float is a fraction of what is left, from 0.0 to 1.0, an int counts weights (slices, of a structured
            method); or a function of the epoch, from 0, that returns either, and 0 for none.
        apply_pruning: whether to prune; or a function of the epoch, which is asked at the end of each.
        make_pruning_permanent: whether the weights in checkpoints, and the model after the fit, are without masks: a
            plain model loads them. A function is asked with the epoch at each save, and with the last at the end.
        use_lottery_ticket_hypothesis: whether the weights that are left return, after each pruning, to the values that
            they had when the fit began. A function is asked with the epoch at each pruning.
        resample_parameters: they return to new random values instead, by the layer's ``reset_parameters``, where it has
            one.
        pruning_dim: of a structured method, the dimension whose slices are pruned whole: 0 is the outputs of a layer, 1
            its inputs.
        pruning_norm: of ``"ln_structured"``, the p of the norm by which slices are compared, such as 2, or ``"fro"``.
        verbose: 1 logs how much was pruned, 2 a table by layer, 0 nothing.
        prune_on_train_epoch_end: False prunes after each validation instead; a fit without one is refused.

    Attributes:
        amount: the argument; what is set later holds from the next pruning on.

    Raises:
        MisconfigurationException: at once, with every argument that cannot work; as fit starts, when they do not fit
            the model.

    Example:
        >>> from leyden import Trainer
        >>> from leyden.testing import BoringModule
        >>> pruning = ModelPruning("l1_unstructured", parameter_names=["weight"], apply_pruning=lambda epoch: epoch < 2)
        >>> trainer = Trainer(max_epochs=4, logger=False, callbacks=[pruning], discover_callbacks=False)
        >>> trainer.fit(BoringModule())
        >>> print(pruning.sparsity_table())
        ┌──────────────┬────────┬─────────┬────────┬──────────┐
        │ parameter    │ layer  │ weights │ pruned │ sparsity │
        ├──────────────┼────────┼─────────┼────────┼──────────┤
        │ layer.weight │ Linear │       8 │      6 │  75.00 % │
        │ all          │        │       8 │      6 │  75.00 % │
        └──────────────┴────────┴─────────┴────────┴──────────┘
    """

    PARAMETER_NAMES = PARAMETER_NAMES

    runs_before = ("BaseFinetuning",)  # which finds parameters by name when it resumes
    changes_weights = True
    changes_saved_weights = True

    def __init__(
        self,
        pruning_fn: str | type[Any],
        parameters_to_prune: Sequence[tuple[nn.Module | str, str]] | None = (),
        parameter_names: Sequence[str] | None = None,
        use_global_unstructured: bool = True,
        amount: Amount | Callable[[int], Amount] = 0.5,
        apply_pruning: Switch = True,
        make_pruning_permanent: Switch = True,
        use_lottery_ticket_hypothesis: Switch = True,
        resample_parameters: bool = False,
        pruning_dim: int | None = None,
        pruning_norm: int | float | str | None = None,
        verbose: int = 0,
        prune_on_train_epoch_end: bool = True,
    ) -> None:
        super().__init__()
        method, problems = Method.of(pruning_fn, use_global_unstructured is True, pruning_dim, pruning_norm)
        switches = {
            "apply_pruning": apply_pruning,
            "make_pruning_permanent": make_pruning_permanent,
            "use_lottery_ticket_hypothesis": use_lottery_ticket_hypothesis,
        }
        flags = {
            "use_global_unstructured": use_global_unstructured,
            "resample_parameters": resample_parameters,
            "prune_on_train_epoch_end": prune_on_train_epoch_end,
        }
        problems += mistakes(
            switches, flags, parameters_to_prune, parameter_names, amount, pruning_dim, pruning_norm, verbose
        )
        refuse(type(self).__name__, problems)
        assert method is not None
        for name, given, taken_as in (("pruning_dim", pruning_dim, "dim"), ("pruning_norm", pruning_norm, "n")):
            if given is not None and taken_as not in method.arguments:
                rank_zero_warn(
                    f"{type(self).__name__}({name}={given!r}) does nothing with pruning_fn={method.name!r}, which "
                    "takes none."
                )
        if resample_parameters and use_lottery_ticket_hypothesis is False:
            rank_zero_warn(
                f"{type(self).__name__}(resample_parameters=True) does nothing with "
                "use_lottery_ticket_hypothesis=False: weights do not return to other values after a pruning."
            )
        self.amount = amount
        self._method = method
        self._pairs, self._names = parameters_to_prune, parameter_names
        self._together = use_global_unstructured
        self._apply_pruning, self._make_permanent = apply_pruning, make_pruning_permanent
        self._use_lottery, self._resample = use_lottery_ticket_hypothesis, resample_parameters
        self._verbose, self._at_epoch_end = verbose, prune_on_train_epoch_end
        self._targets: list[Target] = []
        self._initial: dict[str, Tensor] = {}
        self._given: dict[str, Any] | None = None  # the state of a checkpoint, or of the run that is over
        self._returned_at: int | None = None  # the step after which weights were given the values of the beginning
        self._unhook: Callable[[], None] | None = None

    # -- what is there --------------------------------------------------------------------------------------------

    def conflict_with_strategy(self, strategy: Strategy) -> str | None:
        """What is pruned is chosen among all weights of a layer, or of all layers."""
        if strategy.shards_weights:
            return (
                "torch chooses what to prune among whole weights, and a process has a part of each; prune with "
                "strategy='ddp', or what the training has made, in a process of its own"
            )
        return None

    def sparsity(self) -> list[Sparsity]:
        """Return how much of each parameter is pruned, in the order in which they are; empty before the first fit."""
        return [
            Sparsity(
                target.label,
                type(target.layer).__name__,
                target.parameter.numel(),
                int((target.parameter if target.mask is None else target.mask).eq(0).sum()),
            )
            for target in self._targets
        ]

    def total_sparsity(self) -> float:
        """Return which fraction of all the weights that may be pruned is pruned."""
        return total_of(self.sparsity()).fraction

    def sparsity_table(self) -> str:
        """Return `sparsity` as a table, with a line for all."""
        return sparsity_table(self.sparsity())

    @staticmethod
    def sanitize_parameters_to_prune(
        pl_module: nn.Module,
        parameters_to_prune: Sequence[tuple[nn.Module | str, str]] | None = (),
        parameter_names: Sequence[str] | None = None,
    ) -> list[Pair]:
        """Return which parameters of `pl_module` the arguments mean, as layers and names."""
        return select(pl_module, parameters_to_prune, parameter_names)

    # -- what a subclass may change -------------------------------------------------------------------------------

    def filter_parameters_to_prune(self, parameters_to_prune: Sequence[Pair] = ()) -> Sequence[Pair]:
        """Return those of the layers and names that are to be pruned: override it to leave some out."""
        return parameters_to_prune

    @torch.inference_mode(False)  # which validation may run in: masks made there could not be trained with
    def apply_pruning(self, amount: Amount) -> None:
        """Prune once."""
        targets = self._fitted()
        try:
            if self._together:
                masks = self._method.global_masks(
                    [target.weight for target in targets], [target.whole_mask for target in targets], amount
                )
            else:
                masks = [self._method.mask(target.weight, target.mask, amount) for target in targets]
        except ValueError as error:
            raise MisconfigurationException(
                f"{type(self).__name__}(amount={amount!r}) cannot prune on after {100 * self.total_sparsity():.1f} % "
                f"was pruned: {error}. Nothing was changed. Give a fraction, which is one of what is left, or a "
                "function of the epoch that returns 0 in time."
            ) from error
        for target, mask in zip(targets, self._agreed(masks), strict=True):
            target.apply(mask)

    @torch.inference_mode(False)
    def apply_lottery_ticket_hypothesis(self) -> None:
        """Give the weights that are left the values they had when the fit began, or new ones by `resample_parameters`.

        The state of the optimizer stays.
        """
        if self._use_lottery is False:
            raise MisconfigurationException(
                f"{type(self).__name__}(use_lottery_ticket_hypothesis=False) has kept no values to return to. Give it "
                "a function of the epoch that returns False, to call apply_lottery_ticket_hypothesis() by yourself."
            )
        twins: dict[int, nn.Module | None] = {}
        values = []
        for target in self._fitted():
            module, name = target.holders[0]
            if self._resample and id(module) not in twins:
                twins[id(module)] = resampled(module)
            twin = twins.get(id(module))
            values.append(self._initial[target.label] if twin is None else getattr(twin, name).detach())
        for target, value in zip(self._targets, self._agreed(values), strict=True):
            target.set(value)

    def make_pruning_permanent(self, module: nn.Module) -> None:
        """Remove every mask from the module; what is pruned is zero, and no more kept there."""
        make_permanent(module)

    def _fitted(self) -> list[Target]:
        if self._targets:
            return self._targets
        raise MisconfigurationException(
            f"{type(self).__name__} does not know yet what to prune: it finds that out as fit starts."
        )

    def _agreed(self, values: list[Tensor]) -> list[Tensor]:
        """Return those of the first of several processes: what is random each of them draws for itself."""
        trainer = None if self._trainer_ref is None else self._trainer_ref()
        if trainer is None or trainer.world_size == 1:
            return values
        agreed: list[Tensor] = trainer.strategy.broadcast(values)
        return [one.to(own.device) for one, own in zip(agreed, values, strict=True)]

    # -- hooks ----------------------------------------------------------------------------------------------------

    def common_settings(self, trainer: Trainer) -> Mapping[str, Any]:
        """Return what decides, for all processes have to come to the same."""
        return {
            "amount": self.amount,
            "apply_pruning": self._apply_pruning,
            "use_lottery_ticket_hypothesis": self._use_lottery,
            "prune_on_train_epoch_end": self._at_epoch_end,
        }

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let weights be loaded whether they, and the module, are pruned or not; a new fit starts afresh."""
        if stage == "fit":
            self._given, self._initial, self._targets, self._returned_at = None, {}, [], None
        self._let_go()
        handle = pl_module.register_load_state_dict_pre_hook(fit_weights)  # type: ignore[no-untyped-call]
        self._unhook = handle.remove

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find what is to be pruned, now that all layers are there, and put masks back."""
        self._let_go()  # plain weights that somebody loads from now on would be without the masks
        pairs = select(pl_module, self._pairs, self._names, whole=self._method.whole)
        self._targets = targets_of(pl_module, list(self.filter_parameters_to_prune(pairs)))
        check_sizes(self._targets, self._method, self.amount, self._together)
        given, self._given = self._given, None
        if given is not None:
            self._initial = restore(self._targets, given, type(self).__name__)
        if not self._at_epoch_end:
            self._check_validation(trainer)
        if self._use_lottery is not False:
            for target in self._targets:
                self._initial.setdefault(target.label, target.parameter.detach().clone())

    def _check_validation(self, trainer: Trainer) -> None:
        """Refuse a fit without one, in which nothing would be pruned; warn of scores that are of other weights."""
        if not trainer.fit_loop.val_loop.wanted:
            raise MisconfigurationException(
                f"{type(self).__name__}(prune_on_train_epoch_end=False) prunes after each validation, and this fit has "
                "none: give it validation data, a validation_step and limit_val_batches > 0, or leave "
                "prune_on_train_epoch_end at True."
            )
        for saver in trainer.checkpoint_callbacks:
            monitor = getattr(saver, "monitor", None)
            if monitor not in (None, "step", "epoch"):
                rank_zero_warn(
                    f"{type(self).__name__}(prune_on_train_epoch_end=False) prunes after a validation, before "
                    f"{type(saver).__name__}(monitor={monitor!r}) saves: what it saves is pruned more than what has "
                    "that score. With prune_on_train_epoch_end=True it saves first."
                )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune here, unless it is done after validation."""
        if self._at_epoch_end:
            self._prune(trainer)
        else:
            self._refresh()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune here where this is the place for it, in validations that belong to a fit."""
        if not self._at_epoch_end and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._prune(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the pruning permanent; say so where nothing was trained since weights returned to their beginnings."""
        if self._returned_at == trainer.global_step:
            rank_zero_info(
                f"{type(self).__name__} pruned as the training ended, and gave the weights that are left the values "
                "they had when it began: they are not trained. Let epochs follow the last pruning, as by "
                "apply_pruning=lambda epoch: epoch < 5, or give use_lottery_ticket_hypothesis=False."
            )
        self._finish(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Do what an exception left undone: the module is the user's again."""
        self._let_go()
        if stage == "fit":
            self._finish(trainer)

    def _let_go(self) -> None:
        if self._unhook is not None:
            self._unhook()
        self._unhook = None

    def _refresh(self) -> None:
        for target in self._targets:
            target.refresh()

    def _prune(self, trainer: Trainer) -> None:
        epoch = trainer.current_epoch
        amount = self._amount_in(epoch) if answer(self._apply_pruning, epoch) else 0
        if not amount:
            self._refresh()
            return
        before = self.sparsity() if self._verbose else []
        self.apply_pruning(amount)
        if answer(self._use_lottery, epoch):
            self.apply_lottery_ticket_hypothesis()
            self._returned_at = trainer.global_step
        if self._verbose:
            self._report(before, epoch, amount)

    def _amount_in(self, epoch: int) -> Amount:
        if not callable(self.amount):
            return self.amount
        amount = self.amount(epoch) or 0
        if not is_amount(amount):
            raise MisconfigurationException(
                f"{type(self).__name__}(amount=...) returned {amount!r} for epoch {epoch}: expected a fraction from "
                "0.0 to 1.0, or a count of weights."
            )
        return amount

    def _report(self, before: list[Sparsity], epoch: int, amount: Amount) -> None:
        after = self.sparsity()
        then, now = total_of(before), total_of(after)
        text = (
            f"{type(self).__name__}: {self._method.name} with amount={amount} in epoch {epoch}: "
            f"{then.pruned} -> {now.pruned} of {now.weights} weights pruned ({100 * now.fraction:.2f} %)"
        )
        rank_zero_info("%s", sparsity_table(after, before, text) if self._verbose == 2 else text)

    def _finish(self, trainer: Trainer) -> None:
        """Keep what a run that goes on from here would need, and make the pruning permanent."""
        masked = [target for target in self._targets if target.mask is not None]
        if masked and answer(self._make_permanent, _epoch_of(trainer)):
            self._given, self._initial = copied_state(state_of(self._targets, self._initial)), {}
            for target in masked:
                target.remove()

    # -- state ----------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the weights into the checkpoint as a plain model has them."""
        boundary = trainer.fit_loop.cut_at
        if boundary is not None:  # a run that an exception cut, which goes on from before this pruning
            checkpoint["state_dict"] = as_before(checkpoint["state_dict"], boundary.weights)
        if answer(self._make_permanent, _epoch_of(trainer)):
            names = [name for target in self._targets for name in target.names]
            checkpoint["state_dict"] = plain_weights(checkpoint["state_dict"], names)

    def state_dict(self) -> dict[str, Any]:
        """Return masks, the values behind them, and those that the weights return to."""
        return dict(state_of(self._targets, self._initial) if self._given is None else self._given)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until the optimizers are made: they are made of the parameters as the model names them."""
        self._given = dict(state_dict)


def _epoch_of(trainer: Trainer) -> int:
    """Return the epoch that is running, or was the last; a fit that is over counts those that it made."""
    loop = trainer.fit_loop
    return loop.epoch if loop.epoch_started else max(loop.epoch - 1, 0)
