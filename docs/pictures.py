"""Makes the documentation's pictures of terminals: ``python docs/pictures.py`` trains on one and draws what it shows.

Each training runs in a process of its own whose outputs are a pseudo-terminal; when it sets the window's title, what is
on the screen then becomes an SVG in ``docs/pictures/``.
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import pyte

COLUMNS, ROWS = 100, 24
NO_BREAK = "\N{NO-BREAK SPACE}"  # spaces in a row are one in SVG
_COLOURS = {
    "default": "#d5d9e0", "black": "#3b4048", "red": "#e06c75", "green": "#98c379", "brown": "#e5c07b",
    "blue": "#61afef", "magenta": "#c678dd", "cyan": "#56b6c2", "white": "#d5d9e0", "brightblack": "#7f848e",
}  # fmt: skip
_CELL, _LINE, _MARGIN = 8.4, 19, 12


def record(scene: str) -> list[list[Any]]:
    """Run a scene on a pseudo-terminal; return the cells of each line when it asks for its picture."""
    master, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LEYDEN_CALLBACKS": "off"}
    environment |= {"COLUMNS": str(COLUMNS), "LINES": str(ROWS)}
    command = [sys.executable, "-W", "ignore", __file__, scene]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=subprocess.DEVNULL, env=environment)
    os.close(slave)
    screen = pyte.Screen(COLUMNS, ROWS)
    stream, seen = pyte.ByteStream(screen), b""
    while b"\x1b]2;picture\x07" not in seen:
        data = os.read(master, 65536)
        seen += data
        stream.feed(data.replace(b"\x1b[2m", b"\x1b[90m"))  # pyte knows no dim text
    process.kill()
    process.wait()
    os.close(master)
    lines = [[screen.buffer[row][column] for column in range(COLUMNS)] for row in range(ROWS)]
    while lines and not any(cell.data.strip() for cell in lines[-1]):
        lines.pop()
    return lines


def draw(lines: list[list[Any]]) -> str:
    """Return the lines of a terminal as SVG; each run of one style is as wide as its cells, whatever the font."""
    width, height = COLUMNS * _CELL + 2 * _MARGIN, len(lines) * _LINE + 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">',
        f'<rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="#282c34"/>',
        '<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14">',
    ]
    for row, cells in enumerate(lines):
        column = 0
        for style, run in groupby(cells, key=lambda cell: (cell.fg, cell.bold, cell.italics, cell.underscore)):
            text = "".join(cell.data for cell in run)
            if text.strip():
                place = f'x="{_MARGIN + column * _CELL:.1f}" y="{_MARGIN + row * _LINE + 14}"'
                size = f'textLength="{len(text) * _CELL:.1f}" lengthAdjust="spacingAndGlyphs"'
                parts.append(f"<text {place} {size} {_style(*style)}>{escape(text).replace(' ', NO_BREAK)}</text>")
            column += len(text)
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _style(colour: str, bold: bool, italics: bool, underscore: bool) -> str:
    style = f'fill="{_COLOURS.get(colour, f"#{colour}")}"'
    style += ' font-weight="bold"' if bold else ""
    style += ' font-style="italic"' if italics else ""
    return style + (' text-decoration="underline"' if underscore else "")


def play(scene: str) -> None:
    """Train what a picture is of, and ask for it."""
    import torch
    from torch import Tensor, nn

    from leyden import Callback, LightningModule, Trainer
    from leyden.callbacks import RichModelSummary, RichProgressBar, TQDMProgressBar

    class Digits(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten())
            self.head = nn.Linear(16 * 36, 10)
            self.example_input_array = torch.zeros(32, 1, 8, 8)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.head(self.encoder(images))
            return logits

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            time.sleep(0.01)
            loss: Tensor = self(batch).square().mean()
            self.log("loss", loss, prog_bar=True)
            return loss

        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            time.sleep(0.02)
            self.log("val_loss", self(batch).square().mean(), prog_bar=True)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    class Picture(Callback):
        def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
            if scene.endswith("bar") and trainer.current_epoch == 1 and args[3] == 70:
                take()

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 1 and scene.endswith("bar"):
                trainer.print("learning rate halved")
            elif scene.endswith("summary"):
                take()

    def take() -> None:
        os.write(1, b"\x1b]2;picture\x07")
        time.sleep(60)

    shown = {
        "tqdm_bar": TQDMProgressBar(leave=True),
        "rich_bar": RichProgressBar(leave=True),
        "rich_summary": RichModelSummary(max_depth=2),
    }[scene]
    batches = [torch.randn(32, 1, 8, 8) for _ in range(80)]
    loader: Any = torch.utils.data.DataLoader(torch.cat(batches), batch_size=32)  # type: ignore[arg-type]
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=False, num_sanity_val_steps=0, callbacks=[shown, Picture()]
    )
    trainer.fit(Digits(), loader, loader)


def main() -> None:
    """Make all pictures, or be the process that one is taken of."""
    if len(sys.argv) > 1:
        play(sys.argv[1])
        return
    folder = Path(__file__).parent / "pictures"
    folder.mkdir(exist_ok=True)
    for scene in ("tqdm_bar", "rich_bar", "rich_summary"):
        (folder / f"{scene}.svg").write_text(draw(record(scene)), encoding="utf-8")


if __name__ == "__main__":
    main()
