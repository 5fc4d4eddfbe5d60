"""``leyden new``: what it writes, what it says, and what it leaves alone."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from leyden.cli import main
from leyden.cli.new import files_of
from leyden.cli.new.names import choose_names

FILES = [
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
    "src/leyden_gpu_watch/__init__.py",
    "src/leyden_gpu_watch/gpu_watch.py",
    "src/leyden_gpu_watch/factory.py",
    "src/leyden_gpu_watch/py.typed",
    "tests/test_gpu_watch.py",
]


def test_it_writes_a_folder_and_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "callbacks-gpu-watch"]) == 0
    folder = tmp_path / "callbacks-gpu-watch"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == sorted(FILES)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Made callbacks-gpu-watch, the distribution leyden-callbacks-gpu-watch:"
    assert [line.strip() for line in said[1:9]] == FILES
    assert [line.strip() for line in said[10:]] == [
        "Next:",
        "cd callbacks-gpu-watch",
        'pip install -e ".[dev]"',
        "leyden callbacks",
        "pytest",
    ]


def test_what_is_declared_is_what_is_written() -> None:
    names = choose_names("callbacks-gpu", class_name="Watch", distribution="acme-gpu", package="acme_gpu")
    texts = files_of(names)
    project = tomllib.loads(texts["pyproject.toml"])
    about = project["project"]
    assert (about["name"], about["dependencies"]) == ("acme-gpu", ["leyden>=0.1,<0.2"])
    assert about["entry-points"] == {
        "leyden.callbacks_factory": {"gpu": "acme_gpu.factory:make_callbacks"},
        "leyden.callbacks": {"Watch": "acme_gpu:Watch"},
    }
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["src/acme_gpu"]
    assert "class Watch(Callback):" in texts["src/acme_gpu/watch.py"]
    assert [path for path, text in texts.items() if "$" in text] == []


def test_every_template_is_used() -> None:
    folder = resources.files("leyden.cli.new") / "templates"
    texts = files_of(choose_names("callbacks-acme"))
    assert len(list(folder.iterdir())) == len([text for text in texts.values() if text])


@pytest.mark.parametrize("class_name", ["X", "TheNormOfTheGradientsOfEveryOptimizer"])
def test_the_code_passes_ruff_whatever_the_names(class_name: str, tmp_path: Path) -> None:
    assert main(["new", "callbacks-acme", "--class", class_name]) == 0
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache"],
            cwd=tmp_path / "callbacks-acme",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_json_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "callbacks-gpu-watch", "--dir", str(tmp_path / "deep" / "down"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    folder = tmp_path / "deep" / "down" / "callbacks-gpu-watch"
    assert (said["folder"], said["files"], said["class_name"]) == (str(folder), FILES, "GpuWatch")
    assert (folder / "pyproject.toml").is_file()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "callbacks-acme").mkdir()
    (tmp_path / "callbacks-lost").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("mine")
    for arguments, told in (
        (["callbacks-acme"], "leyden new: callbacks-acme is there already, and nothing was written."),
        (["callbacks-lost"], "leyden new: callbacks-lost is there already, and nothing was written."),
        (["callbacks-new", "--dir", "file"], "leyden new --dir file: this is no folder."),
        (["acme"], "leyden new 'acme': expected callbacks-NAME"),
    ):
        assert main(["new", *arguments]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"leyden: error: {told}")
        assert err.count("\n") == 1
    assert list((tmp_path / "callbacks-acme").iterdir()) == []
    assert (tmp_path / "file").read_text() == "mine"


def test_an_attempt_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = Path.write_text

    def full(self: Path, text: str, encoding: str) -> int:
        if self.name == "factory.py":
            raise OSError(28, "No space left on device")
        return write(self, text, encoding=encoding)

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["new", "callbacks-acme"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
