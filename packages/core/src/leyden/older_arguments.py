"""What to write instead of arguments that the Trainer of an earlier generation had."""

from __future__ import annotations

__all__ = ["OLDER_ARGUMENTS", "instead_of"]

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
    "gpus": 'write accelerator="gpu", devices=...',
    "log_gpu_memory": "write callbacks=[DeviceStatsMonitor()]",
    "log_save_interval": "the logger has it: logger=CSVLogger(..., flush_logs_every_n_steps=...)",
    "move_metrics_to_cpu": "leave it out",
    "multiple_trainloader_mode": "give CombinedLoader(loaders, mode) as the train_dataloaders",
    "num_gpus": 'write accelerator="gpu", devices=...',
    "num_processes": 'write accelerator="cpu", devices=...',
    "prepare_data_per_node": "it is an attribute of the module and the datamodule",
    "process_position": "write callbacks=[TQDMProgressBar(process_position=...)]",
    "progress_bar_refresh_rate": "write callbacks=[TQDMProgressBar(refresh_rate=...)], or enable_progress_bar=False",
    "reload_dataloaders_every_epoch": "write reload_dataloaders_every_n_epochs=1",
    "replace_sampler_ddp": "write use_distributed_sampler",
    "resume_from_checkpoint": "it belongs to fit: trainer.fit(model, ckpt_path=...)",
    "row_log_interval": "write log_every_n_steps",
    "stochastic_weight_avg": "write callbacks=[StochasticWeightAveraging(swa_lrs=...)]",
    "terminate_on_nan": "write callbacks=[EarlyStopping(..., check_finite=True)], or detect_anomaly=True",
    "track_grad_norm": "log leyden.grad_norm(module, norm_type) in on_before_optimizer_step",
    "truncated_bptt_steps": "split the batch in training_step, with automatic_optimization = False",
    "weights_save_path": "write callbacks=[ModelCheckpoint(dirpath=...)], or default_root_dir",
    "weights_summary": "write callbacks=[ModelSummary(max_depth=...)], or enable_model_summary=False",
}
"""Arguments of the 1.x Trainer that today's has not, with what does the same."""


def instead_of(name: str) -> str:
    """Return a sentence that says what to write instead of an argument, "" for one that there never was.

    Example:
        >>> instead_of("gpus")
        ' It was an argument of 1.x; instead, write accelerator="gpu", devices=...'
    """
    return f" It was an argument of 1.x; instead, {OLDER_ARGUMENTS[name]}" if name in OLDER_ARGUMENTS else ""
