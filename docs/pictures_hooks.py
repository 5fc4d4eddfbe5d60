"""Draws the picture of `hooks.md` from a recorded run: ``python docs/pictures_hooks.py``.

A fit of two epochs is recorded. A hook that ends in ``_start`` and the one that ends in ``_end`` are the head and the
foot of a box, with all that was called between them inside. What is repeated is drawn once, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from drawing import box, page, text

from leyden import Callback, Trainer
from leyden.hooks.contract import HOOKS
from leyden.testing import BoringModule, HookRecorder

PICTURE = Path(__file__).parent / "pictures" / "hooks.svg"
WIDTH, MARGIN, INDENT, LINE = 760, 14, 14, 23
COLOURS = {"setup": "grey", "on_sanity_check": "violet", "on_validation": "green", "on_train_epoch": "blue"}
COLOURS |= {"on_train_batch": "amber"}
REPEATED = {"on_train_epoch": "each epoch", "on_train_batch": "each batch", "on_validation_batch": "each batch"}
REMARKS = {  # by what is called and what it is called in
    ("on_sanity_check", "on_fit"): "once, not where a run is resumed",
    ("on_validation", "on_train_epoch"): "where it is due, also between batches",
    ("on_before_zero_grad", "on_train_batch"): "where an accumulation window begins",
    ("on_before_optimizer_step", "on_train_batch"): "where it ends",
}


@dataclass
class Called:
    """A hook, or a step of the training itself; where something was called until its end, that and the end."""

    name: str
    inside: list[Called] = field(default_factory=list)
    end: str = ""
    times: int = 1

    @property
    def kind(self) -> str:
        return self.name.removesuffix("_start")

    def same_as(self, other: Called) -> bool:
        return self.name == other.name and str(self.inside) == str(other.inside)


def record() -> list[str]:
    """Return the names of what a fit of two epochs of two batches calls, the steps of the training among them."""
    recorder = HookRecorder()

    class Recorded(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            recorder.events.append("optimizer.step()")
            return super().step(closure)

    class Net(BoringModule):
        def configure_optimizers(self) -> Any:
            return Recorded(self.parameters(), lr=0.1)

    steps = ("training_step", "validation_step", "backward", "configure_optimizers")
    callback: Callback = recorder.callback("callback")
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=False, callbacks=callback, discover_callbacks=False,
        num_sanity_val_steps=2,
    )  # fmt: skip
    trainer.fit(recorder.module(Net, also=steps, batches={"val": 2}))
    calls = [event.partition("(")[0] for event in recorder.events]
    names = [call.removeprefix("callback.") for call in calls if not call.startswith("module.on_")]
    return [name.removeprefix("module.") for name in names if name not in ("module.setup", "module.teardown")]


def nest(names: list[str]) -> list[Called]:
    """Put what was called between a start and its end inside of it; fold what follows its like."""
    outermost = Called("")
    open_ones = [outermost]
    for name in names:
        stands_open = open_ones[-1]
        if name == "teardown" or (name.endswith("_end") and name == f"{stands_open.kind}_end"):
            stands_open.end = name
            open_ones.pop()
            before = open_ones[-1].inside[-2:-1]
            if before and before[0].same_as(stands_open):
                before[0].times += 1
                open_ones[-1].inside.pop()
            continue
        made = Called(name)
        stands_open.inside.append(made)
        if name == "setup" or name.endswith("_start"):
            open_ones.append(made)
    assert open_ones == [outermost], f"not ended: {[one.name for one in open_ones]}"
    return outermost.inside


class Drawing:
    """The boxes, from the top down."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.y: float = MARGIN

    def line(self, x: float, right: float, name: str, remark: str = "") -> None:
        hook = HOOKS.get(name)
        is_hook = hook is not None and hook.callbacks
        arguments = f"({', '.join(hook.arguments)})" if hook is not None and is_hook else ""
        self.parts.append(text(x, self.y + 16, name + arguments, *([] if is_hook else ["strong"])))
        if remark:
            self.parts.append(text(right, self.y + 16, remark, "prose", "quiet", end=True))
        self.y += LINE

    def called(self, one: Called, within: str, x: float, right: float, seen: list[Called]) -> None:
        """Draw a line, or a box with what is inside; `seen` are the boxes that were drawn so far."""
        remark = REPEATED[one.kind] if one.times > 1 else REMARKS.get((one.kind, within), "")
        if not one.end:
            self.line(x, right, one.name, remark)
            return
        place, top = len(self.parts), self.y + 3
        self.y += 6
        shown = next((other for other in seen if other.same_as(one)), None)
        self.line(x + INDENT, right - INDENT, one.name, remark)
        if shown is None:
            seen.append(one)
            for inner in one.inside:
                self.called(inner, one.kind, x + INDENT, right - INDENT, seen)
        else:
            self.line(x + INDENT, right - INDENT, "…", "as above")
        self.line(x + INDENT, right - INDENT, one.end)
        self.y += 3
        self.parts.insert(place, box(x, top, right - x, self.y - top, COLOURS.get(one.kind, "grey")))
        self.y += 3


def draw() -> str:
    """Return the picture."""
    drawing = Drawing()
    seen: list[Called] = []
    for one in nest(record()):
        drawing.called(one, "", MARGIN, WIDTH - MARGIN, seen)
    return page(WIDTH, drawing.y + MARGIN, "The hooks of a fit, one within another", drawing.parts)


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
