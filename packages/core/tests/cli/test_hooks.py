"""`leyden hooks [NAME]`: the contract, whole, and one hook of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from leyden.cli import main
from leyden.hooks.contract import HOOKS


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["hooks", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def first_cells(table: str) -> list[str]:
    return [line.split("│")[1].strip() for line in table.splitlines() if line.startswith("│")][1:]


def test_the_contract_is_shown_in_its_order_with_the_older_generations(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = ran(capsys)
    assert (status, err) == (0, "")
    today, older = out.split("\n\n")
    assert first_cells(today) == [name for name, hook in HOOKS.items() if hook.generation is None]
    assert first_cells(older) == [
        name for name, hook in HOOKS.items() for _ in range((hook.generation is not None) + len(hook.older))
    ]
    rows = [" ".join(line.replace("│", "").split()) for line in out.splitlines()]
    assert "on_train_batch_end outputs, batch, batch_idx after each training step; outputs hold the detached loss " \
        "callbacks, module" in rows  # fmt: skip
    assert "on_load_checkpoint 1.3-1.7 trainer, pl_module, callback_state load_state_dict" in rows
    assert "on_init_start 1.9 and before trainer setup" in rows
    assert "(not in state_dict, load_state_dict)" in out


def test_as_json_it_holds_all_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = ran(capsys, "--json")
    assert (status, err) == (0, "")
    shown = json.loads(out)
    assert [one["name"] for one in shown] == list(HOOKS)
    assert [one["called"] for one in shown] == [hook.summary for hook in HOOKS.values()]
    assert [len(one["older"]) for one in shown] == [len(hook.older) for hook in HOOKS.values()]
    assert shown[list(HOOKS).index("on_train_epoch_end")] == {
        "name": "on_train_epoch_end",
        "called": "an epoch ends, after its validation",
        "arguments": {"callbacks": ["trainer", "pl_module"], "module": []},
        "passed_at_times": [],
        "log": {"step_allowed": False, "on_step": False, "on_epoch": True},
        "generation": None,
        "use_instead": None,
        "older": [
            {
                "generation": "1.0-1.2",
                "arguments": ["trainer", "pl_module", "outputs"],
                "use_instead": "on_train_epoch_end without outputs",
            }
        ],
    }


SHOWN = {
    "on_validation_batch_end": """\
on_validation_batch_end: after each validation_step
  callbacks       def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0)
  module          def on_validation_batch_end(self, outputs, batch, batch_idx, dataloader_idx=0)
  dataloader_idx  passed where there are several dataloaders
  self.log        on_step=False, on_epoch=True unless you say otherwise
  comes after     validation_step
  comes before    on_validation_epoch_end
""",
    "on_load_checkpoint": """\
on_load_checkpoint: a checkpoint is restored; gets the whole of it
  callbacks       def on_load_checkpoint(self, trainer, pl_module, checkpoint)
  module          def on_load_checkpoint(self, checkpoint)
  datamodule      def on_load_checkpoint(self, checkpoint)
  older           1.3-1.7: (trainer, pl_module, callback_state); use load_state_dict instead \
(told by the last argument's name: callback_state, checkpointed_state, callback_states)
  older           1.0-1.2: (state); use load_state_dict instead
  self.log        not here
  comes after     on_save_checkpoint
  comes before    load_state_dict
""",
    "on_epoch_start": """\
on_epoch_start: before each training, validation and test epoch
  callbacks       def on_epoch_start(self, trainer, pl_module)
  module          def on_epoch_start(self)
  generation      1.7 and before; use on_train_epoch_start, on_validation_epoch_start or on_test_epoch_start instead
  self.log        on_epoch=True, the only form here
  comes after     on_train_start
  comes before    on_train_epoch_start
""",
}


@pytest.mark.parametrize("name", SHOWN)
def test_one_hook(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(capsys, name) == (0, SHOWN[name], "")


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_can_be_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = ran(capsys, name)
    shown: dict[str, Any] = json.loads(ran(capsys, name, "--json")[1])
    assert (status, out.splitlines()[0]) == (0, f"{name}: {HOOKS[name].summary}")
    assert (shown["name"], shown["generation"]) == (name, HOOKS[name].generation)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("on_train_batch_ends", "'on_train_batch_ends' is no hook. Did you mean 'on_train_batch_end'?"),
        ("on_val_start", "Did you mean 'on_validation_start'?"),
        ("before_zero_grad", "Did you mean 'on_before_zero_grad'?"),
        ("coffee", "'coffee' is no hook. `leyden hooks` lists them all."),
        ("training_epoch_end", "was a method of 1.x that nothing calls any more. Instead, collect"),
        ("\x1b[31m", "is no hook"),
    ],
)
def test_a_name_that_is_no_hook(name: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = ran(capsys, name)
    assert (status, out, err.count("\n"), "\x1b" in err) == (2, "", 1, False)
    assert err.startswith("leyden: error: ")
    assert says in err
