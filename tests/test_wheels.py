"""The five distributions as a user gets them: wheels, installed by pip into environments that hold torch alone."""

from __future__ import annotations

import json
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from tests.clean_environments import PACKAGES, Environment, run, with_requirements

FAMILIES = {
    "checkpoint": ["ModelCheckpoint"],
    "monitoring": ["TQDMProgressBar", "ModelSummary", "LearningRateMonitor", "ThroughputMonitor"],
    "finetune": [],
    "optim": [],
}
USES = {
    "checkpoint": [],
    "monitoring": ["nvidia-ml-py", "psutil", "rich", "tensorboard", "tqdm"],
    "finetune": [],
    "optim": [],
}
"""What a family requires beside the core."""
ONE_OF = {
    "checkpoint": "ModelCheckpoint",
    "monitoring": "LearningRateMonitor",
    "finetune": "BackboneFinetuning",
    "optim": "EarlyStopping",
}

TRAIN = """
import warnings
import torch, leyden

class Line(leyden.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
    def training_step(self, batch, batch_idx):
        loss = (self.layer(batch) - batch.sum(1, keepdim=True)).pow(2).mean()
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

leyden.seed_everything(1, verbose=False)
model = Line()
before = model.layer.weight.detach().clone()
trainer = leyden.Trainer(max_epochs=2, accelerator="cpu", enable_progress_bar=False, log_every_n_steps=1)
trainer.fit(model, torch.utils.data.DataLoader(torch.randn(8, 4), batch_size=2))
assert trainer.global_step == 8, trainer.global_step
assert not torch.equal(before, model.layer.weight)
print("callbacks:", *(type(callback).__name__ for callback in trainer.callbacks))
"""

ALSO = {
    "monitoring": """
from leyden.loggers import TensorBoardLogger
import torch
logger = TensorBoardLogger("logs", log_graph=True)
logger.log_hyperparams({"lr": 0.1}, {"accuracy": 0.9})
logger.log_graph(torch.nn.Linear(2, 1), torch.ones(1, 2))
logger.experiment.add_histogram("weights", torch.arange(9.0), 1)
logger.experiment.add_image("picture", torch.zeros(3, 4, 4), 1)
logger.finalize("success")
"""
}
"""What else a family does with nothing but what it requires."""


def wheel(wheels: Path, name: str) -> zipfile.ZipFile:
    """Open the wheel of a distribution."""
    (path,) = wheels.glob(f"{name.replace('-', '_')}-0.*.whl")
    return zipfile.ZipFile(path)


def metadata(wheels: Path, name: str) -> Message:
    """Return the metadata that the wheel of a distribution carries."""
    with wheel(wheels, name) as archive:
        (path,) = (path for path in archive.namelist() if path.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(path).decode())


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Environment:
    """An environment with the core alone."""
    environment = Environment(tmp_path_factory.mktemp("core"), wheels)
    environment.install("leyden")
    return environment


def test_every_distribution_has_a_typed_licensed_wheel(wheels: Path) -> None:
    names = ["leyden", *(f"leyden-callbacks-{family}" for family in FAMILIES)]
    assert len(list(wheels.iterdir())) == len(names) == len(list(PACKAGES.iterdir()))
    for name in names:
        package = name.replace("-callbacks-", "_")
        about = metadata(wheels, name)
        assert (about["Name"], about["Version"], about["License-Expression"]) == (name, "0.1.0", "Apache-2.0")
        assert str(about.get_payload()).startswith(f"# {name}\n")
        with wheel(wheels, name) as archive:
            files = archive.namelist()
            assert f"{package}/py.typed" in files
            assert {path.split("/")[0] for path in files} == {package, f"{name.replace('-', '_')}-0.1.0.dist-info"}
            licence = next(path for path in files if path.endswith("licenses/LICENSE"))
            assert archive.read(licence) == (PACKAGES.parent / "LICENSE").read_bytes()


def test_the_core_requires_torch_alone(wheels: Path) -> None:
    requirements = [Requirement(text) for text in metadata(wheels, "leyden").get_all("Requires-Dist", [])]
    assert [str(requirement) for requirement in requirements if requirement.marker is None] == ["torch>=2.10"]
    assert metadata(wheels, "leyden").get_all("Provides-Extra") == ["all", *sorted(FAMILIES)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_requires_the_core_and_what_it_uses(wheels: Path, family: str) -> None:
    about = metadata(wheels, f"leyden-callbacks-{family}")
    requirements = [Requirement(text) for text in about.get_all("Requires-Dist", [])]
    assert requirements[0] == Requirement("leyden>=0.1,<0.2")
    assert [one.name for one in requirements[1:] if one.marker is None] == USES[family]
    with wheel(wheels, f"leyden-callbacks-{family}") as archive:
        (path,) = (path for path in archive.namelist() if path.endswith(".dist-info/entry_points.txt"))
        factory = f"{family} = leyden_{family}.factory:make_callbacks"
        assert archive.read(path).decode().split("\n", 1) == ["[leyden.callbacks_factory]", f"{factory}\n"]


def test_the_core_alone_trains(core: Environment) -> None:
    installed = core.run("from importlib.metadata import distributions as d; print(*sorted(x.name for x in d()))")
    assert installed.split() == sorted(["leyden", *(one.name for one in with_requirements("torch"))])
    assert core.run(TRAIN).splitlines()[-1].strip() == "callbacks:"


def test_a_missing_family_is_named_with_its_installation(core: Environment) -> None:
    attempt = "try:\n    from leyden.callbacks import {}\nexcept ImportError as error:\n    print(error)\n"
    printed = core.run("".join(attempt.format(name) for name in ONE_OF.values()))
    assert printed.splitlines() == [
        f"{name} is in the distribution leyden-callbacks-{family}, which is not installed here. "
        f"To install it: pip install leyden-callbacks-{family}"
        for family, name in ONE_OF.items()
    ]


def test_the_command_of_the_core_alone(core: Environment) -> None:
    def command(*arguments: str) -> Any:
        return json.loads(run(core.folder / "bin" / "leyden", *arguments, "--json", cwd=core.folder))

    assert command("hooks", "on_fit_end")["arguments"] == {"callbacks": ["trainer", "pl_module"], "module": []}
    shown = command("callbacks")
    assert {one["distribution"]: one["version"] for one in shown["installed"]} == {
        f"leyden-callbacks-{family}": None for family in FAMILIES
    }
    assert (shown["attached"], shown["left_out"], shown["broken"], shown["warnings"]) == ([], [], [], [])
    examined = command("doctor")
    assert examined["healthy"], examined
    facts = {fact["name"]: fact["value"] for fact in examined["sections"][0]["facts"]}
    assert (list(facts), facts["leyden"]) == (["python", "torch", "leyden"], "0.1.0")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_core_trains_with_one_family(tmp_path: Path, wheels: Path, family: str) -> None:
    environment = Environment(tmp_path / "environment", wheels, *USES[family])
    environment.install(f"leyden[{family}]")
    shown = environment.run(
        f"{TRAIN}\nfrom leyden.callbacks import {ONE_OF[family]} as one\nprint('module:', one.__module__.split('.')[0])"
    )
    environment.run(ALSO.get(family, ""))
    attached = [name for name in FAMILIES[family] if name != "TQDMProgressBar"]  # TRAIN switches the bar off
    assert shown.splitlines()[-2].split() == ["callbacks:", *attached]
    assert shown.splitlines()[-1] == f"module: leyden_{family}"
