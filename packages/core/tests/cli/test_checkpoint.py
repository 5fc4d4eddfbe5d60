"""`leyden checkpoint`: what it prints of files, and what it exits with."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
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


def as_archive(content: Any, path: Path) -> None:
    torch.save(content, path)


def as_older_file(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def as_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [as_archive, as_older_file, as_pickle])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_file_that_would_run_code_runs_nothing(
    write: Callable[[Any, Path], None], options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.ckpt"
    write({"state_dict": {}, "bomb": Bomb()}, path)
    status, out, err = ran(capsys, "checkpoint", "show", path, *options)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("leyden: error: ")
    assert str(path) in err
    status, out, err = ran(capsys, "checkpoint", "verify", path, *options)
    assert (status, err) == (0 if write is as_archive else 1, "")  # an archive is compared with its checksums alone
    assert str(path) in out
    assert not Path("ran").exists()


def test_show_reads_what_older_versions_of_torch_wrote(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    as_older_file(load(path), path)
    assert ran(capsys, "checkpoint", "verify", path) == (0, f"whole   {path}\n", "")
    status, out, _ = ran(capsys, "checkpoint", "show", path)
    assert (status, "epoch 1, global step 3" in out) == (0, True)


def test_show_is_brief_where_lists_share_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In full it would be text of 2 to the power of 60 numbers."""
    value: list[Any] = [1]
    for _ in range(60):
        value = [value, value]
    torch.save({"epoch": value, "hyper_parameters": {"x": value}}, tmp_path / "a.ckpt")
    for options in ([], ["--json"]):
        status, out, err = ran(capsys, "checkpoint", "show", tmp_path / "a.ckpt", *options)
        assert (status, err, len(out) < 3000) == (0, "", True)


def script(path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))  # type: ignore[no-untyped-call]


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", "b")


def compressed(path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as file:
        records = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in records.items():
            file.writestr(name, content)


def pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize(
    "write",
    [Path.touch, Path.mkdir, script, archive, compressed, pipe, lambda path: path.write_bytes(b"\x80\x02}\x94." * 99)],
)
def test_files_of_other_kinds_are_one_line(
    write: Callable[[Path], object], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = path.with_name("foreign.ckpt")
    write(foreign)
    status, out, err = ran(capsys, "checkpoint", "show", foreign)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert str(foreign) in err
    status, out, err = ran(capsys, "checkpoint", "verify", "--json", path.parent)
    whole, broken = json.loads(out)
    assert (status, err, whole) == (1, "", {"path": str(path), "whole": True, "problem": None})
    assert (broken["path"], broken["whole"], str(foreign) in broken["problem"]) == (str(foreign), False, True)


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


def test_urls_can_be_looked_into(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = path.read_bytes()
    memory = fsspec.filesystem("memory")
    memory.pipe({"/looked/a.ckpt": content, "/looked/deeper/cut.ckpt": content[:999], "/looked/notes.txt": b"text"})
    status, out, _ = ran(capsys, "checkpoint", "show", "memory://looked/a.ckpt")
    assert (status, "epoch 1, global step 3" in out) == (0, True)
    assert ran(capsys, "checkpoint", "verify", "memory://looked/a.ckpt") == (0, "whole   memory://looked/a.ckpt\n", "")
    status, out, err = ran(capsys, "checkpoint", "verify", "memory://looked")
    whole, broken = out.splitlines()
    assert (status, err, whole) == (1, "", "whole   memory://looked/a.ckpt")
    assert broken.startswith("broken  'memory://looked/deeper/cut.ckpt' is no whole checkpoint")
    assert ran(capsys, "checkpoint", "verify", "memory://looked/none.ckpt")[0] == 2
    assert ran(capsys, "checkpoint", "verify", f"file://{path.parent}") == (0, f"whole   {path}\n", "")
    memory.rm("/looked", recursive=True)


def test_names_of_files_cannot_steer_a_terminal(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.rename(path.with_name("new\nline\x1b[31m\udcff.ckpt"))
    assert ran(capsys, "checkpoint", "verify", path.parent) == (0, f"whole   {path.parent}/new�line�[31m�.ckpt\n", "")
