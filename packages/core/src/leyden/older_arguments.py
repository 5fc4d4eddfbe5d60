"""What to write instead of arguments and attributes of Lightning's Trainers that this one has not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Never

__all__ = ["OF_CLASSES", "OLDER_ARGUMENTS", "OLDER_ATTRIBUTES", "instead_of", "instead_of_attribute", "mark_gone"]

OLDER_ARGUMENTS: dict[str, str] = {
    "amp_backend": 'write precision="16-mixed"',
    "amp_level": 'write precision="16-mixed"',
    "auto_lr_find": "write callbacks=[LearningRateFinder()]",
    "auto_scale_batch_size": "write callbacks=[BatchSizeFinder()]",
    "auto_select_gpus": "leave it out",
    "checkpoint_callback": "write enable_checkpointing",
    "distributed_backend": "write strategy",
    "early_stop_callback": "write callbacks=[EarlyStopping(...)]",
    "flush_logs_every_n_steps": "the logger has it: logger=CSVLogger(..., flush_logs_every_n_steps=...)",
    "enable_autolog_hparams": "write self.save_hyperparameters(logger=False) in the module",
    "gpus": 'write accelerator="gpu", devices=...',
    "ipus": "there is none: IPUs are not supported",
    "log_gpu_memory": "write callbacks=[DeviceStatsMonitor()]",
    "log_save_interval": "the logger has it: logger=CSVLogger(..., flush_logs_every_n_steps=...)",
    "model_registry": "there is none: checkpoints are files, and trainer.fit(ckpt_path=...) takes their paths",
    "move_metrics_to_cpu": "leave it out",
    "multiple_trainloader_mode": "give CombinedLoader(loaders, mode) as the train_dataloaders",
    "num_gpus": 'write accelerator="gpu", devices=...',
    "num_processes": 'write accelerator="cpu", devices=...',
    "prepare_data_per_node": "it is an attribute of the datamodule",
    "process_position": "write callbacks=[TQDMProgressBar(process_position=...)]",
    "progress_bar_refresh_rate": "write callbacks=[TQDMProgressBar(refresh_rate=...)], or enable_progress_bar=False",
    "reload_dataloaders_every_epoch": "write reload_dataloaders_every_n_epochs=1",
    "replace_sampler_ddp": "write use_distributed_sampler",
    "resume_from_checkpoint": "it belongs to fit: trainer.fit(model, ckpt_path=...)",
    "row_log_interval": "write log_every_n_steps",
    "stochastic_weight_avg": "write callbacks=[StochasticWeightAveraging(swa_lrs=...)]",
    "tpu_cores": "there is none: TPUs are not supported",
    "terminate_on_nan": "write callbacks=[EarlyStopping(..., check_finite=True)], or detect_anomaly=True",
    "track_grad_norm": "log leyden.grad_norm(module, norm_type) in on_before_optimizer_step",
    "truncated_bptt_steps": "split the batch in training_step, with automatic_optimization = False",
    "weights_save_path": "write callbacks=[ModelCheckpoint(dirpath=...)], or default_root_dir",
    "weights_summary": "write callbacks=[ModelSummary(max_depth=...)], or enable_model_summary=False",
}
"""Arguments of Lightning's Trainers that this one has not, with what does the same."""

OF_CLASSES = (
    "add_argparse_args",
    "default_attributes",
    "from_argparse_args",
    "get_init_arguments_and_types",
    "match_env_arguments",
    "parse_argparser",
)
"""Methods that 1.x scripts call on the classes `Trainer` and `LightningDataModule` themselves."""

_BY_HAND = "write parser.add_argument(...) for the settings you want to give, and Trainer(**vars(parser.parse_args()))"
_NO_RESET = "leave it out: dataloaders are asked for when they are due, again with reload_dataloaders_every_n_epochs"
_PATH_GIVEN = "use trainer.ckpt_path"

OLDER_ATTRIBUTES: dict[str, str] = {
    **dict.fromkeys(OF_CLASSES, _BY_HAND),
    **dict.fromkeys(("predicted_ckpt_path", "resume_from_checkpoint", "tested_ckpt_path"), _PATH_GIVEN),
    "validated_ckpt_path": _PATH_GIVEN,
    **{f"reset_{name}_dataloader": _NO_RESET for name in ("predict", "test", "train", "val")},
    "reset_train_val_dataloaders": _NO_RESET,
    "amp_backend": "use trainer.precision",
    "call_hook": "call the method of the module or callback itself",
    "convert_to_lightning_optimizers": "leave it out: self.optimizers() in the module gives them so",
    "data_parallel": "use trainer.world_size",
    "devices": "use trainer.num_devices",
    "distributed_sampler_kwargs": "leave it out, or give the dataloader a sampler of yours",
    "enable_validation": "use trainer.limit_val_batches",
    "gpus": "use trainer.device_ids",
    "init_optimizers": "read trainer.optimizers and trainer.lr_scheduler_configs from on_fit_start on",
    "ipus": "leave it out: IPUs are not supported",
    "lightning_optimizers": "use self.optimizers() in the module",
    "num_gpus": "use trainer.num_devices",
    "optimizer_frequencies": "drive several optimizers by hand, with automatic_optimization = False in the module",
    "prediction_writer_callbacks": "look for them in trainer.callbacks",
    "prepare_dataloader": "leave it out: it happens when the dataloader is asked for",
    "request_dataloader": "call the module's or the datamodule's method itself",
    "root_gpu": "use trainer.strategy.root_device",
    "run_stage": "call trainer.fit, validate, test or predict",
    "scaler": "use trainer.precision_plugin.scaler",
    "should_rank_save_checkpoint": "use trainer.is_global_zero",
    "tpu_cores": "leave it out: TPUs are not supported",
    "track_grad_norm": "log leyden.grad_norm(module, norm_type) in on_before_optimizer_step",
    "training_type_plugin": "use trainer.strategy",
    "tune": "write leyden.tuner.Tuner(trainer).lr_find(model) or .scale_batch_size(model), or put "
    "LearningRateFinder() or BatchSizeFinder() among the callbacks",
    "tuner": "write leyden.tuner.Tuner(trainer)",
    "tuning": "ask for the trainer that the search has: it is one of its own, beside this one",
    "use_amp": "use trainer.precision",
    "val_check_batch": "use trainer.val_check_interval",
    "verbose_evaluate": "give validate and test the argument verbose",
    "weights_save_path": "use trainer.default_root_dir",
}
"""Attributes and methods of Lightning's Trainers that this one has not, with what to write."""


def instead_of(name: str) -> str:
    """Return a sentence that says what to write instead of an argument, "" for one that there never was.

    Example:
        >>> instead_of("gpus")
        ' It is an argument of Lightning; instead, write accelerator="gpu", devices=...'
    """
    return f" It is an argument of Lightning; instead, {OLDER_ARGUMENTS[name]}" if name in OLDER_ARGUMENTS else ""


def instead_of_attribute(name: str) -> str:
    """Return a sentence that says what to write instead of an attribute, "" for one that there never was.

    Example:
        >>> instead_of_attribute("num_gpus")
        ' It is an attribute of Lightning; instead, use trainer.num_devices'
    """
    return f" It is an attribute of Lightning; instead, {OLDER_ATTRIBUTES[name]}" if name in OLDER_ATTRIBUTES else ""


def mark_gone(cls: type, instead: Mapping[str, str]) -> None:
    """Let a class say what to write instead of names that it, or its instance, has no more.

    Example:
        >>> class Data: ...
        >>> mark_gone(Data, {"from_argparse_args": "write Data(...)"})
        >>> Data.from_argparse_args
        Traceback (most recent call last):
        AttributeError: Data has no attribute 'from_argparse_args'. It is an attribute of Lightning; instead, write ...
        >>> hasattr(Data, "from_argparse_args")
        False
    """
    for name, advice in instead.items():
        setattr(cls, name, _Gone(name, advice))


class _Gone:
    def __init__(self, name: str, instead: str) -> None:
        self._name, self._instead = name, instead

    def __get__(self, instance: object, owner: type) -> Never:
        where = f"{owner.__name__} has no attribute {self._name!r}"
        raise AttributeError(f"{where}. It is an attribute of Lightning; instead, {self._instead}")
