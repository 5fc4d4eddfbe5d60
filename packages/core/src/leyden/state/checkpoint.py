"""What a checkpoint holds, and how a run takes it up again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer

from leyden.errors import MisconfigurationException, with_article
from leyden.runtime.shards import as_in, parted_state
from leyden.runtime.wrapped_optimizer import note_step
from leyden.state.callback_states import change_weights, save_callbacks
from leyden.state.folders import read_parts
from leyden.state.lightning_format import LIGHTNING_VERSION, LIGHTNING_VERSION_KEY, is_of_lightning

if TYPE_CHECKING:
    from leyden.module import LightningModule
    from leyden.trainer import Trainer

__all__ = [
    "FORMAT_VERSION",
    "check_checkpoint",
    "dump",
    "restore_loggers",
    "restore_module",
    "restore_progress",
    "restore_training",
]

FORMAT_VERSION = 1
_OF_A_RUN = ("global_step", "loops", "optimizer_states")
_DOES_NOT_FIT = (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError)
_BARE_WEIGHTS = "For bare weights use module.load_state_dict(torch.load(path))."


def dump(trainer: Trainer, weights_only: bool = False) -> dict[str, Any]:
    """Return the checkpoint of `trainer` as it stands: weights, and unless `weights_only` all it takes to go on."""
    module = trainer.lightning_module
    checkpoint: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "leyden_version": _version(),
        LIGHTNING_VERSION_KEY: LIGHTNING_VERSION,
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "state_dict": trainer.fit_loop.weights(),
    }
    if not weights_only:
        checkpoint["loops"] = {"fit_loop": trainer.fit_loop.state_dict()}
        checkpoint["callbacks"] = {}
        checkpoint["optimizer_states"] = [optimizer.state_dict() for optimizer in trainer.optimizers]
        checkpoint["lr_schedulers"] = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
        checkpoint["precision"] = trainer.precision_plugin.state_dict()
        checkpoint.update(trainer.fit_loop.run_state())
        checkpoint["loggers"] = [logger.state_dict() for logger in trainer.loggers]
    checkpoint.update(module.checkpoint_hparams())
    if trainer.datamodule is not None:
        checkpoint.update(trainer.datamodule.checkpoint_hparams())
        state = trainer.datamodule.state_dict()
        if state and not weights_only:
            checkpoint[type(trainer.datamodule).__qualname__] = state
    if weights_only:
        change_weights(trainer, checkpoint)
    else:
        save_callbacks(trainer, checkpoint)
        if trainer.fit_loop.cut_at is not None:
            trainer.fit_loop.cut_at.put_back(checkpoint)
    if trainer.datamodule is not None:
        trainer.datamodule.on_save_checkpoint(checkpoint)
    outer, trainer.journal.hook = trainer.journal.hook, "on_save_checkpoint"
    module.on_save_checkpoint(checkpoint)
    trainer.journal.hook = outer  # whoever saves in a hook may log in it afterwards
    return checkpoint


def check_checkpoint(checkpoint: object, path: str, module: LightningModule, fn: str) -> None:
    """Refuse what is no checkpoint, and for "fit" one that holds no run to go on with.

    Raises:
        MisconfigurationException: naming the file, what is in it and what to do with it instead.
    """
    if not isinstance(checkpoint, Mapping) or not all(isinstance(key, str) for key in checkpoint):
        raise MisconfigurationException(
            f"ckpt_path={path!r} is no checkpoint of a training: it holds {_some(checkpoint)}."
        )
    if fn != "fit":
        return
    load_weights = (
        f"Load its weights with {type(module).__name__}.load_from_checkpoint(path) and fit without ckpt_path."
    )
    if not all(name in checkpoint for name in (_OF_A_RUN[::2] if is_of_lightning(checkpoint) else _OF_A_RUN)):
        if "state_dict" in checkpoint:
            what, how = "holds weights only", load_weights
        else:
            what, how = "is no checkpoint of a training", _BARE_WEIGHTS
        raise MisconfigurationException(
            f"ckpt_path={path!r} {what} (it holds {_some(checkpoint)}), so fit cannot go on from it. {how}"
        )
    loops = checkpoint.get("loops")
    if not is_of_lightning(checkpoint) and not (
        isinstance(loops, Mapping) and isinstance(loops.get("fit_loop", {}), Mapping)
    ):
        raise _of_another_kind(path, "progress", TypeError("its 'loops' are no dicts"))


def restore_module(trainer: Trainer, checkpoint: dict[str, Any], path: str) -> None:
    """Load the weights, after the datamodule's and module's `on_load_checkpoint` have seen the checkpoint."""
    module, datamodule = trainer.lightning_module, trainer.datamodule
    if datamodule is not None:
        datamodule.on_load_checkpoint(checkpoint)
        state = checkpoint.get(type(datamodule).__qualname__)
        if state:
            datamodule.load_state_dict(state)
    trainer.journal.hook = "on_load_checkpoint"
    module.on_load_checkpoint(checkpoint)
    weights = checkpoint.get("state_dict")
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise MisconfigurationException(
            f"ckpt_path={path!r} has no 'state_dict' (it holds {_some(checkpoint)}), so it is no checkpoint of a "
            f"training. {_BARE_WEIGHTS}"
        )
    try:
        # Layers without memory, which a strategy would fill a part at a time, take that of the checkpoint.
        assign = any(one.is_meta for one in module.parameters())
        module.load_state_dict(as_in(module, weights), strict=module.strict_loading, assign=assign)
    except RuntimeError as error:
        lines = " ".join(str(error).split())
        raise MisconfigurationException(
            f"ckpt_path={path!r} does not fit {type(module).__name__}: {lines[:600]} Is it the checkpoint of another "
            "model, or of another version of this one? With `strict_loading = False` on the module, missing and "
            "unexpected weights are passed over."
        ) from error


def restore_loggers(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Let the loggers go on where they were; before `setup`, in which callbacks ask for the loggers' folders."""
    for logger, state in zip(trainer.loggers, checkpoint.get("loggers") or [], strict=False):
        if state:
            logger.load_state_dict(state)


def restore_progress(trainer: Trainer, checkpoint: dict[str, Any], path: str) -> None:
    """Set the counters to where the run stood."""
    try:
        trainer.engine.steps = int(checkpoint["global_step"])
        trainer.fit_loop.load_state_dict(checkpoint["loops"]["fit_loop"])
    except (KeyError, TypeError, ValueError) as error:
        raise _of_another_kind(path, "progress", error) from error


def restore_training(trainer: Trainer, checkpoint: dict[str, Any], path: str) -> None:
    """Load optimizers, schedulers, the gradient scaler and running metrics; the random numbers last."""
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    _load_all("optimizer", trainer.optimizers, checkpoint["optimizer_states"], path)
    _load_all("lr_scheduler", schedulers, checkpoint.get("lr_schedulers", []), path)
    for optimizer in trainer.optimizers:
        _check_options(optimizer, path)
        note_step(optimizer)
    try:
        trainer.precision_plugin.load_state_dict(checkpoint.get("precision") or {})
        trainer.fit_loop.load_run_state(checkpoint)
    except _DOES_NOT_FIT as error:
        raise _of_another_kind(path, "precision, metrics or random numbers", error) from error


def _load_all(name: str, parts: Sequence[Any], states: Sequence[Any], path: str) -> None:
    if not isinstance(states, list | tuple):
        raise _of_another_kind(path, f"{name} states", TypeError(f"they are {with_article(type(states).__name__)}"))
    if len(parts) != len(states):
        raise MisconfigurationException(
            f"ckpt_path={path!r} has {len(states)} {name} state(s), but configure_optimizers gave {len(parts)}; "
            "return the same as when it was saved."
        )
    for part, state in zip(parts, states, strict=True):
        try:
            if isinstance(part, Optimizer):
                state = parted_state(part, read_parts(part, state))
            part.load_state_dict(state)
            if isinstance(part, Optimizer):
                _keep_dtype_of_numbers(part, state)
        except _DOES_NOT_FIT as error:
            raise MisconfigurationException(
                f"ckpt_path={path!r}: the {type(part).__name__} cannot load its state: {error}. Return the same "
                f"{name} from configure_optimizers as when it was saved."
            ) from error


def _keep_dtype_of_numbers(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Give single numbers the dtype that they were saved in: torch gives them that of the weights as it loads them.

    NAdam's product of momenta and ASGD's averaging rate are float32 beside weights of any precision.
    """
    places = [place for group in saved["param_groups"] for place in group["params"]]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for place, weight in zip(places, weights, strict=True):
        for name, value in saved["state"].get(place, {}).items():
            if isinstance(value, Tensor) and not value.ndim and optimizer.state[weight][name].dtype != value.dtype:
                optimizer.state[weight][name] = value.to(optimizer.state[weight][name].device, copy=True)


def _check_options(optimizer: Optimizer, path: str) -> None:
    """Find the state of an optimizer of another kind, which loads without a word and fails at the first step."""
    for group in optimizer.param_groups:
        missing = sorted(set(optimizer.defaults) - set(group) - {"differentiable"})  # a default that loading adds
        if missing:
            raise MisconfigurationException(
                f"ckpt_path={path!r} holds the state of another optimizer than {type(optimizer).__name__}: it has no "
                f"{', '.join(missing)}. Return the same optimizer from configure_optimizers as when it was saved."
            )


def _of_another_kind(path: str, part: str, error: Exception) -> MisconfigurationException:
    return MisconfigurationException(
        f"ckpt_path={path!r}: its {part} cannot be read ({type(error).__name__}: {error}). It was written by another "
        "version or by other code; load its weights with load_from_checkpoint and fit without ckpt_path."
    )


def _some(checkpoint: object) -> str:
    if not isinstance(checkpoint, Mapping):
        return f"{with_article(type(checkpoint).__name__)}"
    keys = sorted(f"{key!s:.80}" for key in checkpoint)
    return ", ".join(keys[:8]) + (", …" if len(keys) > 8 else "")


def _version() -> str:
    from leyden import __version__

    return __version__
