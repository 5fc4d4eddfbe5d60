"""What the drawn pictures of the documentation share: text and boxes in SVG, readable on a light and a dark page."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

__all__ = ["box", "page", "text"]

# A picture brings its own background, so that it can be read whatever the page around it chose.
_STYLE = """
text { font: 13px "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #24292f; }
.prose { font-family: "DejaVu Sans", Verdana, Helvetica, Arial, sans-serif; }
.quiet { fill: #656d76; }
.strong { font-weight: bold; }
.page { fill: #ffffff; stroke: #d0d7de; }
.grey { fill: #f3f4f6; stroke: #c5ccd3; }
.blue { fill: #e3effc; stroke: #8fbcea; }
.green { fill: #e2f3e4; stroke: #8cc793; }
.amber { fill: #fdf1d6; stroke: #dfb660; }
.violet { fill: #efe8fb; stroke: #b79be4; }
@media (prefers-color-scheme: dark) {
  text { fill: #e2e6ea; }
  .quiet { fill: #9aa4ae; }
  .page { fill: #16191d; stroke: #3a4149; }
  .grey { fill: #22272d; stroke: #4b545e; }
  .blue { fill: #172b42; stroke: #3d6b9e; }
  .green { fill: #18321d; stroke: #3f7f4a; }
  .amber { fill: #3b2e12; stroke: #8f7330; }
  .violet { fill: #2c2142; stroke: #6c53a0; }
}
"""


def text(x: float, y: float, words: str, *classes: str, end: bool = False) -> str:
    """Return a line of text that begins, or ends, at `x`, on the line `y`."""
    kind = f' class="{" ".join(classes)}"' if classes else ""
    anchor = ' text-anchor="end"' if end else ""
    return f'<text x="{x:g}" y="{y:g}"{kind}{anchor}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    """Return a box with round corners in one of the colours of the style."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" class="{colour}"/>'


def page(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """Return a whole picture; who cannot see it is told its title."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img">'
    whole = [head, f"<title>{escape(title)}</title>", f"<style>{_STYLE}</style>"]
    return "\n".join([*whole, box(0.5, 0.5, width - 1, height - 1, "page"), *parts, "</svg>", ""])
