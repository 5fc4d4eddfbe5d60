"""The pages that are for reading, and the blocks of code in them: what the tests of pages share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

__all__ = ["PAGES", "ROOT", "Block", "blocks_of", "headings_of", "name_of", "prose_of", "python_with_output"]

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted(ROOT.glob("packages/*/README.md")),
    *sorted(ROOT.glob("packages/*/CHANGELOG.md")),
    *sorted(page for page in ROOT.glob("docs/**/*.md") if "_build" not in page.parts),
]


@dataclass(frozen=True)
class Block:
    """A fenced block: what stands behind its opening fence, its text, and the lines of its page with its fences."""

    page: Path
    line: int
    end: int
    info: str
    text: str

    @property
    def place(self) -> str:
        """The page and the line, as editors know them."""
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    """Return the page's path from the repository's root."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> Iterator[Block]:
    """Find the fenced blocks of a page; a fence is closed by one that is as long."""
    fence, info, begin, text = "", "", 0, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        marks = re.match(r"\s*(`{3,})(.*)", line)
        if fence and line.strip() == fence:
            yield Block(page, begin, number, info, dedent("\n".join(text)))
            fence = ""
        elif fence:
            text.append(line)
        elif marks:
            fence, info, begin, text = marks[1], marks[2].strip(), number, []
    assert not fence, f"{name_of(page)}:{begin}: this block has no end"


def prose_of(page: Path) -> str:
    """Return a page without the insides of its blocks, whose first lines stay."""
    inside = {line for block in blocks_of(page) for line in range(block.line + 1, block.end)}
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), start=1)
    return "\n".join("" if number in inside else line for number, line in lines)


def headings_of(page: Path) -> list[tuple[int, str]]:
    """Return the headings of a page with their levels."""
    return [(len(one[1]), one[2]) for one in re.finditer(r"^(#+) (.*)$", prose_of(page), flags=re.MULTILINE)]


def python_with_output(page: Path) -> list[tuple[Block, str | None]]:
    """Return the Python blocks of a page in their order, each with the text that is shown as printed by it, if any.

    That is a block of ``text`` with nothing but empty lines between the two.
    """
    blocks = list(blocks_of(page))
    lines = page.read_text(encoding="utf-8").splitlines()
    found: list[tuple[Block, str | None]] = []
    for number, block in enumerate(blocks):
        if block.info != "python":
            continue
        shown = None
        if number + 1 < len(blocks) and blocks[number + 1].info == "text":
            between = lines[block.end : blocks[number + 1].line - 1]
            shown = None if any(line.strip() for line in between) else blocks[number + 1].text
        found.append((block, shown))
    return found
