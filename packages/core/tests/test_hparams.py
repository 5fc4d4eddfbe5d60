"""What `save_hyperparameters` takes, from where, and what it refuses."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from argparse import Namespace
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from leyden.errors import MisconfigurationException
from leyden.hparams import AttributeDict, HyperparametersMixin
from leyden.module import LightningModule


class Plain(HyperparametersMixin):
    def __init__(self, lr: float = 0.1, width: int = 32, *, name: str = "a") -> None:
        self.save_hyperparameters()


def test_all_arguments_are_saved_given_or_not() -> None:
    assert Plain(0.5, name="b").hparams == {"lr": 0.5, "width": 32, "name": "b"}


def test_hparams_are_attributes_too_and_each_instance_has_its_own() -> None:
    one, other = Plain(0.5), Plain()
    one.hparams.lr = 0.25
    assert (one.hparams["lr"], other.hparams.lr) == (0.25, 0.1)


def test_hparams_without_saving_are_empty_and_kept() -> None:
    class Nothing(HyperparametersMixin):
        pass

    nothing = Nothing()
    nothing.hparams.late = 1
    assert nothing.hparams == {"late": 1}
    assert nothing.hparams_initial == {}


def test_setting_them_says_what_to_call() -> None:
    with pytest.raises(AttributeError, match=r"Plain\.hparams = \.\.\. cannot be set.*save_hyperparameters\(hparams\)"):
        Plain().hparams = Namespace(lr=0.5)  # type: ignore[assignment]
    with pytest.raises(AttributeError, match=r"LightningModule\.hparams = "):  # torch's own __setattr__ lets it through
        LightningModule().hparams = {"lr": 0.5}  # type: ignore[assignment]


class Named(HyperparametersMixin):
    def __init__(self, lr: float, width: int, name: str, *what: Any) -> None:
        values = {"lr": lr, "width": width, "name": name}
        self.save_hyperparameters(*(values[item[1:]] if str(item).startswith("=") else item for item in what))


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (("lr",), {"lr": 0.5}),
        (("lr", "name"), {"lr": 0.5, "name": "abc"}),
        (("=lr", "=width"), {"lr": 0.5, "width": 7}),
        (("=lr", "width"), {"lr": 0.5, "width": 7}),
    ],
)
def test_arguments_by_name_and_by_value(what: tuple[str, ...], expected: dict[str, Any]) -> None:
    assert Named(0.5, 7, "abc", *what).hparams == expected


def test_a_name_that_is_no_argument_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        MisconfigurationException, match=r"'widht', which is no argument.*lr, width, name.*mean 'width'"
    ):
        Named(0.5, 7, "abc", "widht")


def test_a_value_that_is_no_argument_is_refused() -> None:
    class Model(HyperparametersMixin):
        def __init__(self, lr: float) -> None:
            self.save_hyperparameters(object())

    with pytest.raises(MisconfigurationException, match=r"\(object\), which is no argument"):
        Model(0.1)


@pytest.mark.parametrize("ignore", ["lr", ["lr"], ("lr", "nothing of this name")])
def test_ignored_names_are_not_saved(ignore: Any) -> None:
    class Model(HyperparametersMixin):
        def __init__(self, lr: float = 0.1, width: int = 3) -> None:
            self.save_hyperparameters(ignore=ignore)

    assert Model().hparams == {"width": 3}


def test_a_childs_ignore_reaches_what_the_parent_saved() -> None:
    class Child(Plain):
        def __init__(self, lr: float, extra: int) -> None:
            super().__init__(lr)
            self.save_hyperparameters(ignore="width")

    assert Child(0.5, 1).hparams == {"lr": 0.5, "name": "a", "extra": 1}


@pytest.mark.parametrize("make", [dict, lambda **kw: AttributeDict(kw), lambda **kw: Namespace(**kw)])
def test_one_dict_or_namespace_gives_its_entries_and_its_name(make: Callable[..., Any]) -> None:
    class Model(HyperparametersMixin):
        def __init__(self, first: int, cfg: Any) -> None:
            self.save_hyperparameters(cfg)

    model = Model(1, make(lr=0.5, width=3))
    assert model.hparams == {"lr": 0.5, "width": 3}
    assert model._hparams_name == "cfg"


def test_a_dict_that_is_no_argument_may_be_saved_anywhere() -> None:
    plain = Plain()
    plain.save_hyperparameters({"later": 1})
    assert plain.hparams == {"lr": 0.1, "width": 32, "name": "a", "later": 1}


def test_a_child_that_saves_sees_its_own_arguments_and_a_saving_parent_both() -> None:
    class Child(Plain):
        def __init__(self, depth: int, lr: float = 9.0) -> None:
            super().__init__(lr=lr / 2, width=4)

    assert Child(3).hparams == {"lr": 9.0, "width": 4, "name": "a", "depth": 3}


def test_three_generations_with_keywords_handed_on() -> None:
    class Middle(Plain):
        def __init__(self, *, middle: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    class Last(Middle):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    assert Last(middle=1, lr=0.5).hparams == {"lr": 0.5, "width": 32, "name": "a", "middle": 1}


def test_arguments_handed_on_by_position_have_the_parents_names() -> None:
    class Child(Plain):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    assert Child(0.5, 8, name="b").hparams == {"lr": 0.5, "width": 8, "name": "b"}


def test_arguments_without_a_name_are_saved_as_one_tuple() -> None:
    class Model(HyperparametersMixin):
        def __init__(self, first: int, *layers: int, last: int = 0) -> None:
            self.save_hyperparameters()

    assert Model(1, 2, 3).hparams == {"first": 1, "layers": (2, 3), "last": 0}
    assert Model(1).hparams == {"first": 1, "last": 0}


def test_self_may_have_another_name_and_be_held_by_a_closure() -> None:
    class Model(HyperparametersMixin):
        def __init__(this, lr: float) -> None:
            this.later: Callable[[], AttributeDict] = lambda: this.hparams
            this.save_hyperparameters()

    assert Model(0.5).later() == {"lr": 0.5}


def test_a_dataclass_saves_its_fields() -> None:
    @dataclass
    class Model(HyperparametersMixin):
        lr: float
        sizes: list[int] = field(default_factory=lambda: [1, 2])
        scale: InitVar[int] = 3
        derived: int = field(init=False, default=0)

        def __post_init__(self, scale: int) -> None:
            self.save_hyperparameters()

    assert Model(0.5).hparams == {"lr": 0.5, "sizes": [1, 2], "scale": 3}


def test_a_dataclass_module_may_have_its_fields_before_super_init() -> None:
    @dataclass(eq=False)
    class Model(LightningModule):
        width: int = 3

        def __post_init__(self) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = nn.Linear(2, self.width)

    assert Model(5).hparams == {"width": 5}
    assert [tuple(p.shape) for p in Model(5).parameters()] == [(5, 2), (5,)]


@pytest.mark.parametrize("wraps", [True, False])
def test_a_decorated_init_is_seen_through(wraps: bool) -> None:
    def decorate(init: Callable[..., None]) -> Callable[..., None]:
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **kwargs)

        return functools.wraps(init)(wrapper) if wraps else wrapper

    class Model(HyperparametersMixin):
        @decorate
        def __init__(self, lr: float, width: int = 3) -> None:
            self.save_hyperparameters()

    assert Model(0.5).hparams == {"lr": 0.5, "width": 3}


def test_a_method_called_in_init_may_save() -> None:
    class Model(HyperparametersMixin):
        def __init__(self, lr: float) -> None:
            self.build(local=1)

        def build(self, local: int) -> None:
            self.save_hyperparameters()

    assert Model(0.5).hparams == {"lr": 0.5}


def test_another_objects_running_init_does_not_count() -> None:
    class Outer:
        def __init__(self, outer: int) -> None:
            self.inner = Plain()

    assert Outer(1).inner.hparams == {"lr": 0.1, "width": 32, "name": "a"}


def test_saving_outside_of_init_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match=r"Plain.save_hyperparameters was called where no __init__"):
        Plain().save_hyperparameters()


def test_a_frame_says_whose_arguments_to_take() -> None:
    def configure(target: Plain, depth: int, kind: str = "b") -> None:
        frame = inspect.currentframe()
        target.save_hyperparameters("depth", "kind", frame=frame)

    class Model(HyperparametersMixin):
        def __init__(self, lr: float) -> None:
            self._save(inspect.currentframe())

        def _save(self, frame: Any) -> None:
            self.save_hyperparameters(frame=frame)

    plain = Plain()
    configure(plain, 4)
    assert plain.hparams == {"lr": 0.1, "width": 32, "name": "a", "depth": 4, "kind": "b"}
    assert Model(0.5).hparams == {"lr": 0.5}


def test_saving_twice_adds_up() -> None:
    class Model(HyperparametersMixin):
        def __init__(self, lr: float, width: int) -> None:
            self.save_hyperparameters("lr")
            self.save_hyperparameters("width", logger=False)

    model = Model(0.5, 3)
    assert model.hparams == model.hparams_initial == {"lr": 0.5, "width": 3}
    assert model._log_hyperparams is False


def test_initial_hparams_stay_as_they_were() -> None:
    class Model(HyperparametersMixin):
        def __init__(self, sizes: list[int]) -> None:
            self.save_hyperparameters()

    model = Model([1])
    model.hparams.sizes.append(2)
    model.hparams.more = 3
    model.hparams_initial["sizes"].append(9)
    assert model.hparams == {"sizes": [1, 2], "more": 3}
    assert model.hparams_initial == {"sizes": [1]}


def test_an_uncopyable_value_is_shared_in_the_initial_hparams() -> None:
    class Stubborn:
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("not me")

    class Model(HyperparametersMixin):
        def __init__(self, thing: Any) -> None:
            self.save_hyperparameters()

    thing = Stubborn()
    with pytest.warns(UserWarning, match="'thing' of .*Model stays out of checkpoints"):
        model = Model(thing)
    assert model.hparams_initial.thing is thing


def test_what_cannot_be_saved_is_named_at_once_and_once() -> None:
    class Model(LightningModule):
        def __init__(self, net: nn.Module, loss: Any, lr: float = 0.1) -> None:
            super().__init__()
            self.save_hyperparameters()

    with pytest.warns(UserWarning, match="stays out of checkpoints") as warned:
        model = Model(nn.Linear(2, 2), torch.nn.functional.mse_loss)
    assert len(warned) == 2
    assert "'net'" in str(warned[0].message)
    assert "nn.Module" in str(warned[0].message)
    assert "hparams['loss'] is a" in str(warned[1].message)
    assert "ignore=['loss']" in str(warned[1].message)
    assert model.checkpoint_hparams() == {"hyper_parameters": {"lr": 0.1}, "hparams_name": "kwargs"}


def test_saving_before_super_init_works() -> None:
    class Model(LightningModule):
        def __init__(self, width: int = 3) -> None:
            self.save_hyperparameters()
            super().__init__()
            self.layer = nn.Linear(2, width)

    assert Model().hparams == {"width": 3}


def test_no_frame_is_kept_alive() -> None:
    class Model(HyperparametersMixin):
        def __init__(self, lr: float) -> None:
            self.save_hyperparameters()

    frames = [value for value in vars(Model(0.1)).values() if inspect.isframe(value)]
    assert frames == []


@given(st.dictionaries(st.text(min_size=1).filter(lambda key: not hasattr(dict, key)), st.integers()))
def test_attribute_dict_is_a_dict_by_other_means(values: dict[str, int]) -> None:
    built = AttributeDict()
    for key, value in values.items():
        setattr(built, key, value)
    assert built == values
    assert {key: getattr(built, key) for key in values} == values
    assert copy.deepcopy(built) == pickle.loads(pickle.dumps(built)) == values


def test_attribute_dict_names_what_is_not_there() -> None:
    values = AttributeDict(width=1)
    with pytest.raises(AttributeError, match=r"no 'widht' here; there are: width. Did you mean 'width'\?"):
        _ = values.widht
    with pytest.raises(AttributeError, match="no 'x' to delete"):
        del values.x
    del values.width
    assert values == {}
    assert not hasattr(values, "width")


def test_attribute_dict_shows_a_line_per_value() -> None:
    assert repr(AttributeDict(lr=0.1, width=3)) == "'lr':    0.1\n'width': 3"
