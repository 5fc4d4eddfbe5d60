"""Checkpoints that several processes keep: rotation, names, background, and saves that are stopped half-way."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parallel_saves import (
    Unmade,
    cut,
    cut_and_resume,
    go_on,
    keep_in_turns,
    killed_in_turn,
    resume,
    save_unless,
    save_where_it_is_refused,
    unmade,
)
from tests.parallel_state import Drawing
from tests.together import together

from leyden import Trainer
from leyden.callbacks import ModelCheckpoint
from leyden.cli import main
from leyden.errors import MisconfigurationException
from leyden.state import placing, storage
from leyden.state.folders import read_parts


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `keep_in_turns` keeps, checked against what each process saw."""
    folder = tmp_path_factory.mktemp("kept")
    first, second = together(keep_in_turns, str(folder))
    assert not first.error + second.error
    for ways in (first.value, second.value):
        waiting, beside, file = ways
        torch.testing.assert_close(waiting["weights"], beside["weights"], rtol=0, atol=0)
        assert waiting["last"] == beside["last"] == file["last"] == "last.ckpt"
        assert waiting["kept"] == beside["kept"]
    return folder


@pytest.mark.parametrize("way", ["waiting", "asynchronous"])
def test_folders_are_ranked_and_rotated_as_files_are(kept: Path, way: str) -> None:
    names = sorted(os.listdir(kept / way))
    assert len(names) == 3
    assert names[-1] == "last.ckpt"
    assert all(sorted(os.listdir(kept / way / name)) == FILES for name in names)
    assert (kept / way / "last.ckpt").is_symlink() == (way == "asynchronous")


FILES = [".metadata", "__0_0.distcp", "__1_0.distcp", "run.pt"]


def test_a_folder_is_read_wherever_a_checkpoint_is(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = kept / "waiting" / "last.ckpt"
    whole = storage.load(last)
    module = Drawing.load_from_checkpoint(last)
    assert {name: weight.shape for name, weight in module.state_dict().items()} == {
        name: weight.shape for name, weight in whole["state_dict"].items()
    }
    assert main(["checkpoint", "verify", str(kept)]) == 0
    assert capsys.readouterr().out.count("whole   ") == 9
    assert main(["checkpoint", "show", str(last)]) == 0
    shown = capsys.readouterr().out
    assert "net.0.weight" in shown
    assert "epoch 2, global step 18" in shown


def test_one_file_is_made_of_a_folder(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    last, one = str(kept / "waiting" / "last.ckpt"), str(tmp_path / "one.ckpt")
    assert main(["checkpoint", "consolidate", last, "-o", one]) == 0
    assert capsys.readouterr().out == f"wrote {one}\n"
    made, shared = torch.load(one), storage.load(last)
    assert made.keys() == shared.keys()
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "gradients"):
        torch.testing.assert_close(made[part], shared[part], rtol=0, atol=0)
    for wrong, told in (
        ([one], "there is one file already; expected a folder with a run.pt."),
        ([str(tmp_path / "none")], "there is no such folder; expected a folder"),
        ([str(tmp_path)], "there is no checkpoint of several processes in it; expected"),
        ([last, "-o", one], "is there already; name another file with -o"),
    ):
        assert main(["checkpoint", "consolidate", *wrong]) == 2
        assert told in capsys.readouterr().err
    shutil.copytree(last, tmp_path / "here.ckpt")
    monkeypatch.chdir(tmp_path / "here.ckpt")
    assert main(["checkpoint", "consolidate", "."]) == 0
    storage.verify(tmp_path / "here-whole.ckpt")


def test_runs_go_on_by_name_from_folders_and_files(kept: Path) -> None:
    runs = [("sharded", str(kept / way), name) for way in ("waiting", "asynchronous") for name in ("last", "auto")]
    runs.append(("ddp", str(kept / "waiting"), "auto"))
    for ended in together(go_on, runs):
        assert not ended.error, ended.error
        straight, *others = ended.value
        for other in others[:-2]:
            torch.testing.assert_close(other["weights"], straight["weights"], rtol=0, atol=0)
        assert all(one["steps"] == 24 for one in ended.value)
        assert all(".ckpt" in one["from"] for one in ended.value)


def test_layers_without_memory_take_that_of_the_checkpoint(tmp_path: Path) -> None:
    for ended in together(unmade, str(tmp_path)):
        assert not ended.error, ended.error
        before, after = ended.value
        for part in ("weights", "optimizer"):
            torch.testing.assert_close(after[part], before[part], rtol=0, atol=0)
    module = Unmade.load_from_checkpoint(tmp_path / "unmade.ckpt")
    torch.testing.assert_close(dict(module.state_dict()), ended.value[0]["weights"], rtol=0, atol=0)


def test_states_of_optimizers_are_read_by_share(kept: Path) -> None:
    folder = kept / "waiting" / "last.ckpt"
    whole = storage.load(folder)["optimizer_states"][0]
    later = storage.load(folder, unread="optimizer_states")
    assert not any(weight.is_meta for weight in later["state_dict"].values())
    [unread] = later["optimizer_states"]
    assert all(one["exp_avg"].is_meta and one["exp_avg_sq"].is_meta for one in unread["state"].values())
    torch.testing.assert_close(read_parts(torch.optim.Adam(Drawing().parameters()), unread), whole, rtol=0, atol=0)


def test_a_damaged_folder_is_told_of_and_passed_over(kept: Path, tmp_path: Path) -> None:
    for name, damage, told in (
        ("flipped", _flip_a_byte, "Bad CRC-32"),
        ("short", _cut_in_half, "its files are cut short"),
        ("missing", Path.unlink, "No such file"),
    ):
        folder = tmp_path / f"{name}.ckpt"
        shutil.copytree(kept / "waiting" / "last.ckpt", folder)
        damage(folder / "__1_0.distcp")
        for read in (storage.verify, storage.load):
            with pytest.raises(MisconfigurationException, match="is no whole checkpoint") as raised:
                read(folder)
            assert told in str(raised.value)
    shutil.copytree(kept / "waiting" / "last.ckpt", tmp_path / "whole.ckpt")
    (tmp_path / "whole.ckpt" / ".metadata").write_bytes(pickle.dumps(_Harmful()))
    storage.load(tmp_path / "whole.ckpt")  # torch's own table, a pickle, is not read
    os.utime(tmp_path / "whole.ckpt", (1, 1))  # older than the others
    (tmp_path / "last.ckpt").mkdir()  # as a copy that has just begun
    trainer = Trainer(
        accelerator="cpu", logger=False, max_epochs=3, discover_callbacks=False, callbacks=ModelCheckpoint(tmp_path)
    )
    with warnings.catch_warnings(record=True) as told_of:
        warnings.simplefilter("always")
        trainer.fit(Drawing(), ckpt_path="auto")
    assert sum("passes over" in str(one.message) for one in told_of) == 3
    assert trainer.ckpt_path == str(tmp_path / "whole.ckpt")


def _without_places(plain: dict[str, Any]) -> None:
    del plain["shared_tensors"]


def _with_a_place_too_many(plain: dict[str, Any]) -> None:
    plain["shared_tensors"].append([["epoch", "of"], next(iter(plain["shared_table"]))])


def _of_half_a_row(plain: dict[str, Any]) -> None:
    plain["shared_table"]["state_dict.net.0.weight"]["shape"] = [8.0, 4.0]


@pytest.mark.parametrize("edit", [_without_places, _with_a_place_too_many, _of_half_a_row])
def test_a_plain_part_that_does_not_fit_is_no_checkpoint(
    edit: Any, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "edited.ckpt"
    shutil.copytree(kept / "waiting" / "last.ckpt", folder)
    plain = torch.load(folder / "run.pt")
    edit(plain)
    torch.save(plain, folder / "run.pt")
    for command, code in (("verify", 1), ("show", 2), ("consolidate", 2)):
        assert main(["checkpoint", command, str(folder)]) == code
        assert "is no whole checkpoint" in "".join(capsys.readouterr())


def test_a_part_of_another_kind_is_not_read(kept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "edited.ckpt"
    shutil.copytree(kept / "waiting" / "last.ckpt", folder)
    plain = torch.load(folder / "run.pt")
    plain["shared_table"]["state_dict.net.0.weight"]["dtype"] = torch.float16
    torch.save(plain, folder / "run.pt")
    with pytest.raises(MisconfigurationException, match=r"a part of state_dict.net.0.weight is of another shape or dt"):
        storage.load(folder)
    with (folder / "__0_0.distcp").open("ab") as file:
        file.truncate(2 * os.path.getsize(folder / "__0_0.distcp") + os.path.getsize(folder / "__1_0.distcp"))
    os.unlink(folder / "__1_0.distcp")
    os.mkfifo(folder / "__1_0.distcp")
    with pytest.raises(MisconfigurationException, match="is no whole checkpoint"):
        storage.verify(folder)


class _Harmful:
    def __reduce__(self) -> Any:
        return os.abort, ()


def _flip_a_byte(file: Path) -> None:
    """Change a number of the first tensor in the file."""
    content = bytearray(file.read_bytes())
    table = torch.load(file.with_name("run.pt"))["shared_table"]
    [part] = [p for one in table.values() for p in one["parts"] if (p["file"], p["offset"]) == (file.name, 0)]
    with zipfile.ZipFile(io.BytesIO(content[: part["bytes"]])) as archive:
        [header] = [one.header_offset for one in archive.infolist() if one.filename.endswith("/data/0")]
    content[header + 30 + sum(struct.unpack("<2H", content[header + 26 : header + 30]))] ^= 1
    file.write_bytes(content)


def _cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_folder_is_replaced_where_names_cannot_be_exchanged(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "_exchange", lambda one, other: False)
    folder = tmp_path / "last.ckpt"
    shutil.copytree(kept / "waiting" / "last.ckpt", folder)
    storage.save({"epoch": 1}, folder)
    assert storage.load(folder) == {"epoch": 1}
    made = tmp_path / ".made"
    shutil.copytree(kept / "waiting" / "last.ckpt", made)
    placing.put_in_place(made, folder)
    assert os.listdir(tmp_path) == ["last.ckpt"]
    storage.verify(folder)
    with pytest.raises(FileNotFoundError):  # of what should take its place
        placing.put_in_place(tmp_path / "nothing", folder)
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")
def test_a_kill_while_one_folder_takes_the_place_of_another_loses_neither(kept: Path, tmp_path: Path) -> None:
    [ended] = together(killed_in_turn, str(kept / "waiting" / "last.ckpt"), str(tmp_path), processes=1)
    assert not ended.error, ended.error
    assert len(ended.value) > 4
    step = storage.load(kept / "waiting" / "last.ckpt")["global_step"]
    for found in ended.value:
        assert found == (step, "last.ckpt", ["last.ckpt"], ["last.ckpt"])


def test_all_save_at_sigterm_and_go_on_exactly(tmp_path: Path) -> None:
    for ended in together(cut_and_resume, ["ddp", "fsdp", "sharded"], str(tmp_path)):
        assert not ended.error, ended.error
        uncut, resumed = ended.value
        torch.testing.assert_close(resumed, uncut, rtol=0, atol=0)
    assert sorted(os.listdir(tmp_path / "sharded" / "on_exception.ckpt")) == FILES


def test_the_first_saves_alone_after_an_error_where_it_has_all_weights(tmp_path: Path) -> None:
    for kind in ("ddp", "sharded"):
        failed = together(cut, [kind], str(tmp_path), "an error")
        assert all("process 1 cannot go on" in ended.error for ended in failed)
        lost = "Nothing was saved after this error: each process has a share of the weights alone"
        assert [lost in ended.error for ended in failed] == [kind == "sharded"] * 2
        assert ("The newest checkpoint is" in failed[0].error) == (kind == "sharded")
    assert not (tmp_path / "sharded").exists()
    saved = storage.load(tmp_path / "ddp" / "on_exception.ckpt")
    assert saved["processes"] == [{"changed": [], "gone": []}, None]
    assert saved["global_step"] == 8
    first, second = together(resume, ["ddp"], str(tmp_path))
    assert not first.error + second.error
    torch.testing.assert_close(first.value[0]["weights"], second.value[0]["weights"])
    assert first.value[0]["drawn"] != second.value[0]["drawn"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_save_that_is_killed_leaves_nothing_that_is_taken_for_a_checkpoint(rank: int, tmp_path: Path) -> None:
    ended = together(save_unless, "killed", rank, str(tmp_path))
    assert ended[rank].exit_code == -9
    assert ended[1 - rank].exit_code == 1
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["epoch=0.ckpt"]
    storage.verify(tmp_path / "epoch=0.ckpt")
    storage.tidy(tmp_path)
    assert os.listdir(tmp_path) == ["epoch=0.ckpt"]


def test_a_process_that_cannot_write_stops_all_or_none(tmp_path: Path) -> None:
    for ended in together(save_where_it_is_refused, str(tmp_path)):
        assert not ended.error, ended.error
        on_a_full_disk, at_urls = ended.value
        assert [error.split(" a URL")[0] for error in at_urls] == [
            f"{name}(dirpath='memory://runs') is" for name in ("ModelCheckpoint", "OnExceptionCheckpoint")
        ]
        for rank, (written, error) in enumerate(on_a_full_disk):
            assert written == ["epoch=0.ckpt", "epoch=2.ckpt"]
            assert f"[Errno 27] cannot write '{tmp_path / f'raise-{rank}' / 'epoch=1.ckpt'}'" in error
            assert "File too large" in error
    for rank in (0, 1):
        assert sorted(os.listdir(tmp_path / f"warn-{rank}")) == ["epoch=0.ckpt", "epoch=2.ckpt"]
        assert os.listdir(tmp_path / f"raise-{rank}") == ["epoch=0.ckpt"]
