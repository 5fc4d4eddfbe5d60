"""`strategy="ddp_fork"`: a session trains in forks, and has afterwards what it would have trained itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.parallel_forks import ROWS, alone, ending, in_forks, rows
from tests.together import together

from leyden import MisconfigurationException, Trainer
from leyden.runtime import forking


def test_a_session_has_afterwards_what_one_process_would_have(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (
        together(function, processes=1, folder=tmp_path / name)[0]
        for function, name in ((alone, "one"), (in_forks, "two"))
    )
    assert (one.error, two.error) == ("", "")
    alone_found, found = one.value, two.value
    torch.testing.assert_close(found["weights"], alone_found["weights"], rtol=1e-5, atol=1e-7)
    assert found["metrics"].keys() == alone_found["metrics"].keys()
    for name, (value, step) in found["metrics"].items():
        assert (pytest.approx(alone_found["metrics"][name][0], rel=1e-5), alone_found["metrics"][name][1]) == (
            value,
            step,
        )
    for name in ("progress", "state", "log_dir"):
        assert found[name] == alone_found[name]
    assert found["best"][0] == alone_found["best"][0] == "saved/epoch=1.ckpt"
    assert found["best"][1] == pytest.approx(alone_found["best"][1], rel=1e-5)
    assert found["validated"] == [pytest.approx(alone_found["validated"][0], rel=1e-5)]
    predicted = torch.cat(found["predicted"])
    assert [len(batch) for batch in found["predicted"]] == [4] * (ROWS // 4)
    assert sorted(predicted.tolist()) == rows()[:, 0].tolist()
    assert found["place"] == (2, 0, 0, "DDPStrategy")
    assert "ModelCheckpoint write while they train" in found["refused"]
    assert (found["handlers"], found["left"]) == (True, [])
    assert "weights.ckpt" in found["files"]
    assert "logs/leyden_logs/version_0/metrics.csv" in found["files"]


@pytest.mark.parametrize(
    ("act", "raised", "note"),
    [
        ("oh dear", "ValueError: oh dear", "Raised in process 1 of 2:\nTraceback (most recent call last):"),
        ("interrupt", "KeyboardInterrupt: ", ""),
        ("kill", "ProcessFailedError: Process 1 of 2 was ended by SIGKILL; where nobody sent it, memory was full.", ""),
    ],
)
def test_what_ends_a_fork_is_raised_in_the_session(act: str, raised: str, note: str, tmp_path: Path) -> None:
    """Which has the weights as they were then."""
    (ended,) = together(ending, act, processes=1, folder=tmp_path)
    found = ended.value
    assert found is not None, ended.error
    assert found["raised"].startswith(raised)
    assert note in "\n".join(found["notes"])
    assert (found["interrupted"], found["trained"]) == (True, True)
    assert found["steps"] >= 3


def test_where_a_fork_could_not_work_it_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(trains: bool = True) -> str:
        with pytest.raises(MisconfigurationException) as caught:
            forking.check_can_fork("Trainer.fit", trains=trains)
        return str(caught.value)

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        assert refused(trains=False).startswith("Trainer.fit forks this process, but CUDA is in use in it")
        with pytest.raises(MisconfigurationException, match=r"strategy='ddp_fork'\) forks this process, but"):
            Trainer(devices=2, strategy="ddp_fork", accelerator="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(forking, "_backward_works_in_fork", lambda: False)
        assert "computed gradients in threads, which a fork does not have" in refused()
        forking.check_can_fork("Trainer.validate", trains=False)
    with monkeypatch.context() as patch:
        patch.delattr("os.fork")
        assert "this system has no fork" in refused()
    forking.check_can_fork("Trainer.fit", trains=True)  # as here, where gradients were computed in this thread alone
