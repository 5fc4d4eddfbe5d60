"""`leyden checkpoint`: what it prints of files, and what it exits with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden import Callback, Trainer
from leyden.cli import main
from leyden.state.storage import load
from leyden.testing import BoringModule


class Counter(Callback):
    state_version = 3

    def state_dict(self) -> dict[str, Any]:
        return {"count": 1, "best": torch.zeros(3)}


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, discover_callbacks=False, callbacks=[Counter()])
    trainer.fit(BoringModule(batches={"train": 3}))
    trainer.save_checkpoint(tmp_path / "run" / "a.ckpt")
    return tmp_path / "run" / "a.ckpt"


def ran(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_show_prints_keys_weights_callbacks_progress_and_versions(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = ran(capsys, "checkpoint", "show", path)
    assert (status, err) == (0, "")
    lines = ["".join(line.split()) for line in out.splitlines()]
    assert lines[0].startswith(f"{path}:writtenbyLeyden0")
    assert lines[0].endswith(",formatversion1")
    assert lines[1] == "epoch1,globalstep3"
    assert "batches_seen=3" in lines[2]
    assert "│layer.weight│2×4│float32│32B│" in lines
    assert "CallbackCounter,version3:count,best" in lines
    assert "│state_dict│OrderedDict│2│40B│" in lines


def test_show_as_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = ran(capsys, "checkpoint", "show", "--json", path)
    shown = json.loads(out)
    assert status == 0
    assert (shown["epoch"], shown["global_step"], shown["format_version"]) == (1, 3, 1)
    assert shown["weights"][0] == {"name": "layer.weight", "shape": [2, 4], "dtype": "float32", "bytes": 32}
    assert shown["callbacks"] == [{"key": "Counter", "version": 3, "holds": ["count", "best"]}]
    assert shown["progress"]["batches_seen"] == 3
    callbacks = next(entry for entry in shown["entries"] if entry["key"] == "callbacks")
    assert (callbacks["tensors"], callbacks["bytes"]) == (1, 12)


def test_show_of_a_foreign_file_and_of_names_that_would_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"\x1b[31mred": torch.ones(1_000_000), "pytorch-lightning_version": "1.4.9"}, tmp_path / "a.ckpt")
    status, out, _ = ran(capsys, "checkpoint", "show", tmp_path / "a.ckpt")
    assert (status, "\x1b" in out, "�[31mred" in out) == (0, False, True)
    assert "written by Lightning 1.4.9\n" in out
    assert "4.0 MB" in out


class Bomb:
    """Leaves a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def test_show_executes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}, "bomb": Bomb()}, tmp_path / "a.ckpt")
    status, out, err = ran(capsys, "checkpoint", "show", tmp_path / "a.ckpt")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("leyden: error: ")
    assert "a.ckpt" in err
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["checkpoint", "show", "absent.ckpt"], "there is no such file"),
        (["checkpoint", "show", "."], "is a folder"),
        (["checkpoint", "verify", "absent.ckpt"], "there is no such file"),
        (["checkpoint", "verify", "."], "without a *.ckpt file"),
        (["checkpoint", "show", "list.pt"], "holds a list"),
    ],
)
def test_errors_are_one_line_and_exit_with_2(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save([1], "list.pt")
    status, out, err = ran(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_verify_says_which_are_whole(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = path.parent
    content = path.read_bytes()
    (folder / "deeper").mkdir()
    cut, flipped = folder / "deeper" / "cut.ckpt", folder / "flipped.ckpt"
    cut.write_bytes(content[: len(content) // 2])
    at = content.index(load(path)["state_dict"]["layer.weight"].numpy().tobytes())
    flipped.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    (folder / "notes.txt").write_text("not a checkpoint")
    assert ran(capsys, "checkpoint", "verify", path) == (0, f"whole   {path}\n", "")
    status, out, _ = ran(capsys, "checkpoint", "verify", folder)
    whole, *broken = out.splitlines()
    assert (status, whole) == (1, f"whole   {path}")
    assert [line.split()[0] for line in broken] == ["broken", "broken"]
    assert "cut.ckpt" in broken[0]
    assert "flipped.ckpt" in broken[1]
    status, out, _ = ran(capsys, "checkpoint", "verify", folder, "--json")
    assert status == 1
    assert [(Path(one["path"]).name, one["whole"]) for one in json.loads(out)] == [
        ("a.ckpt", True), ("cut.ckpt", False), ("flipped.ckpt", False),
    ]  # fmt: skip


def test_verify_reads_on_behind_a_link_that_leads_nowhere(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path.parent / "0-dead.ckpt").symlink_to("gone")
    status, out, err = ran(capsys, "checkpoint", "verify", path.parent)
    assert (status, err) == (1, "")
    assert [line.split()[0] for line in out.splitlines()] == ["broken", "whole"]
