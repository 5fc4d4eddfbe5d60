"""What a checkpoint holds, and how a run takes it up again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from leyden.callback import Callback
from leyden.errors import MisconfigurationException
from leyden.rank_zero import rank_zero_warn
from leyden.state.plain import check_plain
from leyden.state.rng import collect_rng, restore_rng

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["FORMAT_VERSION", "dump", "restore_callbacks", "restore_module", "restore_progress", "restore_training"]

FORMAT_VERSION = 1


def dump(trainer: Trainer, weights_only: bool = False) -> dict[str, Any]:
    """Return the checkpoint of `trainer` as it stands: weights, and unless `weights_only` all it takes to go on."""
    module = trainer.lightning_module
    checkpoint: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "leyden_version": _version(),
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "state_dict": module.state_dict(),
    }
    if not weights_only:
        checkpoint["loops"] = {"fit_loop": trainer.fit_loop.state_dict()}
        checkpoint["callbacks"] = {}
        checkpoint["optimizer_states"] = [optimizer.state_dict() for optimizer in trainer.optimizers]
        checkpoint["lr_schedulers"] = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
        checkpoint["precision"] = trainer.precision_plugin.state_dict()
        checkpoint["metrics"] = trainer.journal.state_dict()
        checkpoint["rng"] = collect_rng()
    checkpoint.update(module.checkpoint_hparams())
    if trainer.datamodule is not None:
        checkpoint.update(trainer.datamodule.checkpoint_hparams())
        state = trainer.datamodule.state_dict()
        if state and not weights_only:
            checkpoint[type(trainer.datamodule).__qualname__] = state
    if not weights_only:
        checkpoint["callbacks"] = _callback_states(trainer, checkpoint)
    if trainer.datamodule is not None:
        trainer.datamodule.on_save_checkpoint(checkpoint)
    trainer.journal.hook = "on_save_checkpoint"
    module.on_save_checkpoint(checkpoint)
    return checkpoint


def _callback_states(trainer: Trainer, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Ask every callback for its state; those of older generations return it from `on_save_checkpoint`."""
    states: dict[str, Any] = {}
    for entry in trainer.plan.entries("state_dict"):
        state = entry.call()
        if state:
            states[_key(entry.owner)] = state
    checkpoint["callbacks"] = states
    for entry in trainer.plan.entries("on_save_checkpoint"):
        if isinstance(entry.owner, Callback):
            returned = entry.call(checkpoint)
            if isinstance(returned, Mapping) and returned:
                states.setdefault(_key(entry.owner), dict(returned))
    for key, state in states.items():
        check_plain(state, f"the state of the callback {key}: state_dict()")
    return states


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
    if not isinstance(weights, Mapping):
        raise MisconfigurationException(
            f"ckpt_path={path!r} has no 'state_dict' (it holds {_some(checkpoint)}), so it is no checkpoint of a "
            "training. For bare weights "
            "use module.load_state_dict(torch.load(path))."
        )
    try:
        module.load_state_dict(weights, strict=module.strict_loading)
    except RuntimeError as error:
        lines = " ".join(str(error).split())
        raise MisconfigurationException(
            f"ckpt_path={path!r} does not fit {type(module).__name__}: {lines[:600]} Is it the checkpoint of another "
            "model, or of another "
            "version of this one? With `strict_loading = False` on the module, missing and unexpected weights are "
            "passed over."
        ) from error


def restore_callbacks(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Hand callbacks the checkpoint, then each its own state; states that nobody takes are named in a warning."""
    for entry in trainer.plan.entries("on_load_checkpoint"):
        if isinstance(entry.owner, Callback):
            entry.call(checkpoint)
    states = checkpoint.get("callbacks") or {}
    for entry in (*trainer.plan.entries("on_load_state"), *trainer.plan.entries("load_state_dict")):
        if _key(entry.owner) in states:
            entry.call(states[_key(entry.owner)])
    known = {callback.state_key for callback in trainer.callbacks}
    unknown = sorted(str(key) for key in states if key not in known)
    if unknown:
        rank_zero_warn(
            f"the checkpoint holds states of callbacks that this Trainer does not have: {', '.join(unknown)}. Add them "
            "to "
            "Trainer(callbacks=[...]) to go on exactly as before."
        )


def restore_training(trainer: Trainer, checkpoint: dict[str, Any], path: str) -> None:
    """Load optimizers, schedulers, the gradient scaler and running metrics; the random numbers last."""
    if "optimizer_states" not in checkpoint:
        raise MisconfigurationException(
            f"ckpt_path={path!r} holds weights only, so fit cannot go on from it. Load the weights with "
            f"{type(trainer.lightning_module).__name__}.load_from_checkpoint(path) and fit without ckpt_path."
        )
    for name, parts, states in (
        ("optimizer", trainer.optimizers, checkpoint["optimizer_states"]),
        (
            "lr_scheduler",
            [config.scheduler for config in trainer.lr_scheduler_configs],
            checkpoint.get("lr_schedulers", []),
        ),
    ):
        if len(parts) != len(states):
            raise MisconfigurationException(
                f"ckpt_path={path!r} has {len(states)} {name} state(s), but configure_optimizers gave {len(parts)}; "
                "return the same as when it "
                "was saved."
            )
        for part, state in zip(parts, states, strict=True):
            try:
                part.load_state_dict(state)
            except (ValueError, KeyError) as error:
                raise MisconfigurationException(
                    f"ckpt_path={path!r}: the {type(part).__name__} cannot load its state: {error}"
                ) from error
    trainer.precision_plugin.load_state_dict(checkpoint.get("precision") or {})
    if "metrics" in checkpoint:
        trainer.journal.load_state_dict(checkpoint["metrics"])
    if "rng" in checkpoint:
        restore_rng(checkpoint["rng"])


def restore_progress(trainer: Trainer, checkpoint: dict[str, Any], path: str) -> None:
    """Set the counters to where the run stood."""
    loops = checkpoint.get("loops") or {}
    if "global_step" not in checkpoint or "fit_loop" not in loops:
        raise MisconfigurationException(
            f"ckpt_path={path!r} holds no progress of a fit (it has {_some(checkpoint)}). Load its weights with "
            f"{type(trainer.lightning_module).__name__}.load_from_checkpoint(path) and fit without ckpt_path."
        )
    trainer.engine.steps = int(checkpoint["global_step"])
    trainer.fit_loop.load_state_dict(loops["fit_loop"])


def _key(owner: object) -> str:
    assert isinstance(owner, Callback)
    return owner.state_key


def _some(checkpoint: object) -> str:
    if not isinstance(checkpoint, Mapping):
        return f"a {type(checkpoint).__name__}"
    keys = sorted(map(str, checkpoint))
    return ", ".join(keys[:8]) + (", …" if len(keys) > 8 else "")


def _version() -> str:
    from leyden import __version__

    return __version__
