"""As a platform engineer would: monitoring is put into an image, and a training that knows nothing of it is watched.

The wheels are installed into a clean environment, with a ``leyden.toml``, a third party's factory that is broken and a
third party's callback that raises. The script is a user's, and the same in every run.
"""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.clean_environments import Environment, attempt, run

SCRIPT = """
import torch, leyden
from torch.utils.data import DataLoader, TensorDataset

class Line(leyden.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def loss(self, batch):
        (x,) = batch
        return (self.layer(x) - x.sum(1, keepdim=True)).pow(2).mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

leyden.seed_everything(1, verbose=False)
data = TensorDataset(torch.randn(16, 4))
model = Line()
trainer = leyden.Trainer(max_epochs=3, accelerator="cpu", log_every_n_steps=1)
trainer.fit(model, DataLoader(data, batch_size=4, shuffle=True), DataLoader(data, batch_size=8))
print("weights:", model.layer.weight.tolist(), model.layer.bias.tolist(), torch.rand(1).item())
"""

CONFIGURATION = """\
[discovery]
deny = ["ThroughputMonitor"]

[callbacks.ModelSummary]
enabled = false

[callbacks.LearningRateMonitor]
logging_interval = "epoch"

[callbacks.ModelCheckpoint]
monitor = "val_loss"
filename = "best"
save_last = true

[callbacks.Heartbeat]
path = "alive"
when = ["fit"]

[callbacks.Timer]
duration = "00:12:00:00"
"""

BROKEN = "def make():\n    raise RuntimeError('no licence')\n"
RAISES = """
from leyden import Callback

class Watch(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        raise OSError("the collector is down")

def make():
    return [Watch()]
"""


def third_party(environment: Environment, name: str, version: str, code: str) -> None:
    """Install a distribution of somebody else's with a factory ``make``."""
    site = environment.site_packages
    (site / f"{name}.py").write_text(code, encoding="utf-8")
    about = site / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(f"[leyden.callbacks_factory]\n{name} = {name}:make\n", encoding="utf-8")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Environment:
    """The image that the platform engineer built."""
    uses = ("nvidia-ml-py", "psutil", "rich", "tensorboard", "tqdm")
    environment = Environment(tmp_path_factory.mktemp("image"), wheels, *uses)
    environment.install("leyden[all]")
    third_party(environment, "acme_licence", "1.2", BROKEN)
    third_party(environment, "acme_watch", "3.0", RAISES)
    (environment.folder / "leyden.toml").write_text(CONFIGURATION, encoding="utf-8")
    return environment


def train(image: Environment, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the user's script in a folder of its own, by default as the image has it."""
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(SCRIPT, encoding="utf-8")
    settings = {"LEYDEN_CONFIG": str(image.folder / "leyden.toml"), "OMP_NUM_THREADS": "1"} | variables
    return attempt(image.python, "train.py", cwd=folder, **settings)


def weights(printed: str) -> str:
    (line,) = (line for line in printed.splitlines() if line.startswith("weights:"))
    return line


def lines_with(text: str, word: str) -> list[str]:
    return [line for line in text.splitlines() if word in line]


def test_a_training_is_watched_and_not_changed(image: Environment, tmp_path: Path) -> None:
    plain = train(image, tmp_path / "plain", LEYDEN_CALLBACKS="off")
    assert plain.returncode == 0, plain.stderr
    assert "acme" not in plain.stderr
    watched = train(image, tmp_path / "watched")
    assert watched.returncode == 0, watched.stderr
    assert weights(watched.stdout) == weights(plain.stdout)

    # What was watched: files and rows.
    assert not list((tmp_path / "plain").rglob("*.ckpt"))
    found = sorted(path.name for path in (tmp_path / "watched").rglob("*.ckpt"))
    assert found == ["best.ckpt", "last.ckpt"]
    assert json.loads((tmp_path / "watched" / "alive").read_text())["step"] == 12
    (metrics,) = (tmp_path / "watched").rglob("metrics.csv")
    with metrics.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["lr-SGD"]) for row in rows if row.get("lr-SGD")] == [0.1, 0.05, 0.025]
    assert sum(bool(row.get("val_loss")) for row in rows) == 3
    assert not [name for name in rows[0] if "throughput" in name or "samples_per_sec" in name]

    # What was said: one line each, with who it is; the traceback in the log; the bar, in lines since this is a pipe.
    (broken,) = lines_with(watched.stderr, "acme_licence 1.2")
    assert broken.endswith(
        "The callbacks of acme_licence 1.2 are left out: its entry point `acme_licence = acme_licence:make` in the "
        "group leyden.callbacks_factory failed with RuntimeError: no licence"
    )
    assert len(lines_with(watched.stderr, "UserWarning: The callback Watch of acme_watch 3.0 raised OSError")) == 1
    assert len(lines_with(watched.stderr, "OSError: the collector is down")) >= 2
    assert len(lines_with(watched.stderr, 'raise OSError("the collector is down")')) == 1
    assert [line for line in (watched.stdout + watched.stderr).splitlines() if line.lower().startswith("epoch 2")]


def test_what_is_attached_here_and_why_not_can_be_asked(image: Environment, tmp_path: Path) -> None:
    leyden = image.python.parent / "leyden"
    config = str(image.folder / "leyden.toml")
    done = attempt(leyden, "callbacks", "--json", cwd=tmp_path, LEYDEN_CONFIG=config)
    assert done.returncode == 0, done.stderr
    shown: Any = json.dumps(json.loads(done.stdout))
    for told in ("Heartbeat", "Timer", f"{config}:4", "ThroughputMonitor", f"{config}:2", "no licence"):
        assert told in shown, told
    doctor = attempt(leyden, "doctor", cwd=tmp_path, LEYDEN_CONFIG=config)
    assert doctor.returncode == 1
    assert "acme_licence" in doctor.stdout
    assert "no licence" in doctor.stdout


def test_a_mistake_in_the_configuration_ends_the_script_before_it_trains(image: Environment, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text(CONFIGURATION.replace("duration", "durations"), encoding="utf-8")
    done = train(image, tmp_path / "run", LEYDEN_CONFIG=str(tmp_path / "wrong.toml"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"leyden.errors.MisconfigurationException: {tmp_path / 'wrong.toml'}:20: Timer has no argument 'durations'; it "
        "has duration, interval, verbose. Did you mean 'duration'?"
    )
    assert "weights:" not in done.stdout
    assert not [path for path in (tmp_path / "run").iterdir() if path.name != "train.py"]


def test_an_environment_may_be_strict(image: Environment, tmp_path: Path) -> None:
    (tmp_path / "strict.toml").write_text("[discovery]\nstrict = true\n", encoding="utf-8")
    done = train(image, tmp_path / "run", LEYDEN_CONFIG=str(tmp_path / "strict.toml"))
    assert done.returncode == 1
    assert "The callbacks of acme_licence 1.2 are left out" in done.stderr


def test_one_variable_narrows_it_for_one_run(image: Environment, tmp_path: Path) -> None:
    code = "import leyden; print(*sorted(type(one).__name__ for one in leyden.Trainer(accelerator='cpu').callbacks))"
    config = str(image.folder / "leyden.toml")
    for value, expected in {
        "only:Heartbeat,checkpoint": "Heartbeat ModelCheckpoint",
        "without:acme-licence,acme-watch,monitoring,Heartbeat": "ModelCheckpoint Timer",
    }.items():
        shown = run(image.python, "-c", code, cwd=tmp_path, LEYDEN_CALLBACKS=value, LEYDEN_CONFIG=config)
        assert shown.split() == expected.split()
