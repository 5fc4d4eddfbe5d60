"""Building a module again from a checkpoint."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from leyden import LightningModule, MisconfigurationException, Trainer
from leyden.hparams import AttributeDict
from leyden.state import storage
from leyden.testing.models import BoringModule


class Model(LightningModule):
    def __init__(self, width: int, lr: float = 0.1, **extra: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(2, width)


class Strict(LightningModule):
    def __init__(self, width: int = 2, /, lr: float = 0.1, *sizes: int, kind: str = "a") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.received = (width, lr, sizes, kind)


class Configured(LightningModule):
    def __init__(self, cfg: Any, other: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters(cfg)
        self.cfg, self.other = cfg, other


def written(module: LightningModule, path: Path, **changes: Any) -> Path:
    checkpoint = {"state_dict": module.state_dict(), **module.checkpoint_hparams(), **changes}
    storage.save({key: value for key, value in checkpoint.items() if value is not ...}, path)
    return path


def test_a_module_comes_back_with_its_arguments_and_weights(tmp_path: Path) -> None:
    module = Model(3, lr=0.5, more="x")
    loaded = Model.load_from_checkpoint(written(module, tmp_path / "a.ckpt"))
    assert loaded.hparams == {"width": 3, "lr": 0.5, "more": "x"}
    assert torch.equal(loaded.layer.weight, module.layer.weight)
    assert loaded._trainer is None


def test_overrides_replace_what_was_saved(tmp_path: Path) -> None:
    loaded = Model.load_from_checkpoint(written(Model(3), tmp_path / "a.ckpt"), lr=0.25, new=1)
    assert loaded.hparams == {"width": 3, "lr": 0.25, "new": 1}


def test_positional_and_collected_arguments_come_back(tmp_path: Path) -> None:
    loaded = Strict.load_from_checkpoint(written(Strict(5, 0.5, 7, 8, kind="b"), tmp_path / "a.ckpt"))
    assert loaded.received == (5, 0.5, (7, 8), "b")
    assert Strict.load_from_checkpoint(written(Strict(), tmp_path / "b.ckpt"), lr=2.0).received == (2, 2.0, (), "a")


def test_what_the_signature_does_not_take_stays_out_unless_it_is_given(tmp_path: Path) -> None:
    path = written(Strict(), tmp_path / "a.ckpt", hyper_parameters={"kind": "b", "gone": 1})
    assert Strict.load_from_checkpoint(path).received == (2, 0.1, (), "b")
    with pytest.raises(MisconfigurationException, match=r"got 'knd', which Strict.__init__ does not take.*mean 'kind'"):
        Strict.load_from_checkpoint(path, knd="c")


def test_a_missing_argument_is_named_with_the_call_that_gives_it(tmp_path: Path) -> None:
    path = written(Model(3), tmp_path / "a.ckpt", hyper_parameters=...)
    with pytest.raises(MisconfigurationException, match=r"needs width.*there are none.*\(path, width=\.\.\.\)"):
        Model.load_from_checkpoint(path)
    assert Model.load_from_checkpoint(path, width=3).hparams.width == 3


@pytest.mark.parametrize("cfg", [{"lr": 0.5, "width": 3}, Namespace(lr=0.5, width=3), AttributeDict(lr=0.5, width=3)])
def test_a_config_comes_back_under_its_name(cfg: Any, tmp_path: Path) -> None:
    path = written(Configured(cfg), tmp_path / "a.ckpt")
    loaded = Configured.load_from_checkpoint(path, width=4, other=1)
    values = vars(loaded.cfg) if isinstance(cfg, Namespace) else loaded.cfg
    assert isinstance(loaded.cfg, Namespace if isinstance(cfg, Namespace) else AttributeDict)
    assert values == loaded.hparams == {"lr": 0.5, "width": 4}
    assert loaded.other == 1


@dataclass
class Settings:
    lr: float = 0.1


class WithSettings(LightningModule):
    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.settings = settings


def test_a_declared_dataclass_comes_back_from_a_safe_load(tmp_path: Path) -> None:
    loaded = WithSettings.load_from_checkpoint(written(WithSettings(Settings(0.5)), tmp_path / "a.ckpt"))
    assert loaded.settings == loaded.hparams.settings == Settings(0.5)


def test_a_value_left_out_of_the_checkpoint_is_given_again(tmp_path: Path) -> None:
    class Composed(LightningModule):
        def __init__(self, net: nn.Module, lr: float) -> None:
            super().__init__()
            self.save_hyperparameters(ignore=["net"])
            self.net = net

    net = nn.Linear(2, 2)
    path = written(Composed(net, 0.5), tmp_path / "a.ckpt")
    with pytest.raises(MisconfigurationException, match=r"needs net.*have \(lr\)"):
        Composed.load_from_checkpoint(path)
    loaded = Composed.load_from_checkpoint(path, net=nn.Linear(2, 2))
    assert torch.equal(loaded.net.weight, net.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["hparams.yaml", "hparams.json", "json-in.yaml"])
def test_a_file_of_hyperparameters_replaces_the_checkpoints(name: str, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    file = tmp_path / name
    file.write_text("width: 3\nlr: 0.75\n" if name == "hparams.yaml" else json.dumps({"width": 3, "lr": 0.75}))
    path = written(Model(3, lr=0.5, more=1), tmp_path / "a.ckpt")
    assert Model.load_from_checkpoint(path, hparams_file=file).hparams == {"width": 3, "lr": 0.75}
    assert Model.load_from_checkpoint(path, hparams_file=str(file), lr=1.0).hparams == {"width": 3, "lr": 1.0}


def test_a_broken_file_of_hyperparameters_is_named(tmp_path: Path) -> None:
    path = written(Model(3), tmp_path / "a.ckpt")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(MisconfigurationException, match=r"list.json' holds a list; expected names"):
        Model.load_from_checkpoint(path, hparams_file=tmp_path / "list.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(MisconfigurationException, match=r"broken.json' is no JSON"):
        Model.load_from_checkpoint(path, hparams_file=tmp_path / "broken.json")
    with pytest.raises(FileNotFoundError):
        Model.load_from_checkpoint(path, hparams_file=tmp_path / "none.json")


def test_yaml_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "hparams.yaml").write_text("width: 3")
    with pytest.raises(ImportError, match="pip install pyyaml"):
        Model.load_from_checkpoint(written(Model(3), tmp_path / "a.ckpt"), hparams_file=tmp_path / "hparams.yaml")


def test_weights_must_fit_unless_said_otherwise(tmp_path: Path) -> None:
    module = Model(3)
    weights = {"layer.weight": module.layer.weight.detach(), "stranger": torch.zeros(1)}
    path = written(module, tmp_path / "a.ckpt", state_dict=weights)
    with pytest.raises(RuntimeError, match=r"Missing key.*layer\.bias") as raised:
        Model.load_from_checkpoint(path)
    assert any("a.ckpt" in note and "strict=False" in note for note in raised.value.__notes__)
    with pytest.warns(UserWarning, match="weights of Model") as warned:
        loaded = Model.load_from_checkpoint(path, strict=False)
    assert [str(warning.message) for warning in warned] == [
        f"the checkpoint '{path}' lacks weights of Model: layer.bias.",
        f"the checkpoint '{path}' has unknown weights of Model: stranger.",
    ]
    assert torch.equal(loaded.layer.weight, module.layer.weight)


def test_the_modules_own_strict_loading_is_the_default(tmp_path: Path) -> None:
    class Lenient(Model):
        strict_loading = False

    path = written(Lenient(3), tmp_path / "a.ckpt", state_dict={})
    with pytest.warns(UserWarning, match="lacks weights of .*Lenient: layer.weight, layer.bias"):
        Lenient.load_from_checkpoint(path)
    with pytest.raises(RuntimeError, match=r"Missing key.*layer\.weight"):
        Lenient.load_from_checkpoint(path, strict=True)


def test_on_load_checkpoint_comes_before_the_weights_and_may_change_them(tmp_path: Path) -> None:
    class Renaming(Model):
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            weights: Mapping[str, Any] = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name.removeprefix("old."): value for name, value in weights.items()}

    module = Renaming(3)
    old = {f"old.{name}": value for name, value in module.state_dict().items()}
    loaded = Renaming.load_from_checkpoint(written(module, tmp_path / "a.ckpt", state_dict=old))
    assert torch.equal(loaded.layer.bias, module.layer.bias)


def test_layers_of_configure_model_are_there_before_the_weights(tmp_path: Path) -> None:
    class Late(LightningModule):
        layer: nn.Linear | None = None

        def configure_model(self) -> None:
            if self.layer is None:
                self.layer = nn.Linear(2, 2)

    module = Late()
    module.configure_model()
    loaded = Late.load_from_checkpoint(written(module, tmp_path / "a.ckpt"))
    assert loaded.state_dict().keys() == module.state_dict().keys() == {"layer.weight", "layer.bias"}


def test_the_module_goes_where_the_weights_are_mapped(tmp_path: Path) -> None:
    path = written(Model(3), tmp_path / "a.ckpt")
    assert Model.load_from_checkpoint(path, map_location="cpu").device == torch.device("cpu")
    meta = Model.load_from_checkpoint(path, map_location=torch.device("meta"))
    assert {parameter.device for parameter in meta.parameters()} == {torch.device("meta")}


def test_an_open_file_is_as_good_as_a_path(tmp_path: Path) -> None:
    path = written(Model(3), tmp_path / "a.ckpt")
    with path.open("rb") as file:
        assert Model.load_from_checkpoint(file).hparams.width == 3
    assert Model.load_from_checkpoint(str(path)).hparams.width == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "holds a list; expected a checkpoint"),
        ({"layer.weight": 1}, r"no 'state_dict'.*it holds: layer.weight.*load_state_dict\(torch.load\(path\)\)"),
        ({}, "it holds: nothing"),
    ],
)
def test_what_is_no_checkpoint_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    storage.save(content, tmp_path / "a.ckpt")
    with pytest.raises(MisconfigurationException, match=message):
        Model.load_from_checkpoint(tmp_path / "a.ckpt")


class Custom:
    """Something only pickle can load."""


def test_only_a_trusted_file_may_run_code(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": Model(3).state_dict(), "hyper_parameters": {"width": 3, "x": Custom()}}, tmp_path / "a.ckpt"
    )
    with pytest.raises(MisconfigurationException, match="weights_only=False"):
        Model.load_from_checkpoint(tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match="'x' of Model stays out of checkpoints"):
        loaded = Model.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    assert isinstance(loaded.hparams.x, Custom)


def test_an_instance_refuses_because_it_would_stay_as_it_is(tmp_path: Path) -> None:
    module = Model(3)
    with pytest.raises(TypeError, match=r"call it on the class, Model.load_from_checkpoint\(...\)"):
        module.load_from_checkpoint(written(module, tmp_path / "a.ckpt"))


class Trained(BoringModule):
    def __init__(self, lr: float = 0.1, widths: tuple[int, int] = (4, 2)) -> None:
        super().__init__(widths[0], widths[1])
        self.save_hyperparameters()


def test_a_training_round_trip(tmp_path: Path) -> None:
    module = Trained(lr=0.5)
    trainer = Trainer(max_epochs=1, discover_callbacks=False)
    trainer.fit(module)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = Trained.load_from_checkpoint(tmp_path / "a.ckpt", lr=0.25)
    assert loaded.hparams == {"lr": 0.25, "widths": (4, 2)}
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), module.parameters(), strict=True))
    Trainer(max_epochs=1, discover_callbacks=False).fit(loaded)
    assert not torch.equal(loaded.layer.weight, module.layer.weight)


def test_the_loggers_file_of_hyperparameters_can_be_loaded_with(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, discover_callbacks=False)
    trainer.fit(Trained(lr=0.5, widths=(4, 3)))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    file = next(tmp_path.rglob("hparams.yaml"))
    loaded = Trained.load_from_checkpoint(tmp_path / "a.ckpt", hparams_file=file)
    assert loaded.hparams.lr == 0.5
    assert list(loaded.hparams.widths) == [4, 3]


def test_tensors_of_a_device_that_is_not_here_go_to_the_cpu() -> None:
    from leyden.module_loading import _where_there_is_one

    untyped = torch.zeros(1).untyped_storage()
    beyond = f"cuda:{torch.cuda.device_count()}"
    assert _where_there_is_one(untyped, beyond) is untyped
    assert _where_there_is_one(untyped, "cpu") is None
