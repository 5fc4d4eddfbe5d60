"""The arguments of ModelCheckpoint, all checked at once where they are given."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from leyden.arguments import is_int, refuse
from leyden.errors import did_you_mean
from leyden_checkpoint.files import url_problem
from leyden_checkpoint.naming import template_problems

__all__ = ["check_settings"]


def check_settings(owner: str, given: dict[str, Any], name_last: str) -> None:
    """Raise one error that names every argument in `given` which cannot work, what was expected, and the fix."""
    problems = [
        *_folder_problems(given),
        *_ranking_problems(given, name_last),
        *_rhythm_problems(given, owner),
        *_flag_problems(given),
    ]
    refuse(owner, problems)


def _folder_problems(given: dict[str, Any]) -> list[str]:
    dirpath, filename = given["dirpath"], given["filename"]
    problems = []
    if dirpath is not None and not (isinstance(dirpath, str | os.PathLike) and os.fspath(dirpath)):
        problems.append(f"dirpath={dirpath!r}: expected a folder's path, or None for the logger's folder")
    elif dirpath is not None and (why := url_problem(os.fspath(dirpath))):
        problems.append(f"dirpath={os.fspath(dirpath)!r}: fsspec knows no such place ({why})")
    if filename is not None:
        if isinstance(filename, str):
            problems += template_problems(filename)
        else:
            problems.append(f"filename={filename!r}: expected a template such as '{{epoch}}-{{val_loss:.2f}}', or None")
    return problems


def _ranking_problems(given: dict[str, Any], name_last: str) -> list[str]:
    monitor, mode, top_k, last = given["monitor"], given["mode"], given["save_top_k"], given["save_last"]
    problems = []
    if monitor is not None and not (isinstance(monitor, str) and monitor):
        problems.append(f"monitor={monitor!r}: expected the name of a metric that is logged, or None")
    if mode not in ("min", "max"):
        problems.append(f"mode={mode!r}: expected 'min' or 'max'.{did_you_mean(str(mode), ('min', 'max'))}")
    if not is_int(top_k) or top_k < -1:
        problems.append(f"save_top_k={top_k!r}: expected -1 (keep all), 0 (none) or a number of checkpoints to keep")
    elif monitor is None and top_k > 1:
        problems.append(
            f"save_top_k={top_k} with monitor=None: there is nothing to tell the best {top_k} by; give a metric, as in "
            "monitor='val_loss' (monitor='step', mode='max' keeps the newest), or one of save_top_k=-1, 0, 1"
        )
    if not (last is None or isinstance(last, bool) or last == "link"):
        problems.append(f"save_last={last!r}: expected True (a copy), 'link' (a link to the newest) or None")
    elif last and given["filename"] == name_last:
        problems.append(f"filename={name_last!r} with save_last={last!r}: both want the same file; choose another name")
    return problems


def _rhythm_problems(given: dict[str, Any], owner: str) -> list[str]:
    problems = []
    for name, unit in (("every_n_train_steps", "optimizer steps"), ("every_n_epochs", "epochs")):
        if given[name] is not None and not (is_int(given[name]) and given[name] >= 0):
            problems.append(f"{name}={given[name]!r}: expected a number of {unit} (int >= 1), 0 for never, or None")
    interval = given["train_time_interval"]
    if interval is not None and not (isinstance(interval, timedelta) and interval > timedelta(0)):
        problems.append(f"train_time_interval={interval!r}: expected a positive timedelta, e.g. timedelta(minutes=30)")
    rhythms = [name for name in ("every_n_train_steps", "every_n_epochs", "train_time_interval") if given[name]]
    if len(rhythms) > 1:
        problems.append(
            f"{' and '.join(rhythms)} are mutually exclusive; keep one of them, and give the other to a second {owner}"
        )
    return problems


_FLAGS = (
    "verbose",
    "save_on_exception",
    "save_weights_only",
    "auto_insert_metric_name",
    "enable_version_counter",
    "asynchronous",
)


def _flag_problems(given: dict[str, Any]) -> list[str]:
    problems = [
        f"{name}={given[name]!r}: expected True or False" for name in _FLAGS if not isinstance(given[name], bool)
    ]
    if given["on_save_error"] not in ("raise", "warn"):
        problems.append(
            f"on_save_error={given['on_save_error']!r}: expected 'raise' (training stops) or 'warn' (it goes on)."
            f"{did_you_mean(str(given['on_save_error']), ('raise', 'warn'))}"
        )
    if given["save_on_train_epoch_end"] is not None and not isinstance(given["save_on_train_epoch_end"], bool):
        problems.append(
            f"save_on_train_epoch_end={given['save_on_train_epoch_end']!r}: expected True, False (after validation) or "
            "None (after validation where it runs within epochs or not in each)"
        )
    return problems
