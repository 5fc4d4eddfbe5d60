"""Links of pages lead somewhere: files, headings and pictures of this repository. What is outside is listed here."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from tests.pages import PAGES, ROOT, headings_of, name_of, prose_of

# Nothing is fetched: whether these are still there is for a person to see, before a release.
OUTSIDE = {
    "https://arxiv.org/abs/1803.03635",
    "https://arxiv.org/abs/1910.02054",
    "https://developer.nvidia.com/blog/massively-scale-deep-learning-training-nccl-2-4/",
    "https://docs.pypi.org/trusted-publishers/",
    "https://docs.python.org/3/library/fnmatch.html",
    "https://docs.pytorch.org/docs/stable/distributed.checkpoint.html",
    "https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html",
    "https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html",
    "https://docs.pytorch.org/docs/stable/nn.html#torch.nn.utils.prune.BasePruningMethod",
    "https://docs.pytorch.org/docs/stable/optim.html#weight-averaging-swa-and-ema",
    "https://doi.org/10.1016/j.jpdc.2008.09.002",
    "https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md",
    "https://github.com/pytorch/ao",
    "https://pypi.org/project/leyden/",
    "https://twine.readthedocs.io",
    "https://www.tensorflow.org/tensorboard",
}
PICTURES = {path for path in (ROOT / "docs" / "pictures").iterdir() if path.suffix in (".svg", ".png")}


def targets_of(page: Path) -> list[str]:
    """Return where the links of a page lead, and which pictures it shows."""
    text = prose_of(page)
    found = re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", text)
    return [*found, *re.findall(r"^\s*`{3,}\{(?:image|figure)\} (\S+)", text, flags=re.MULTILINE)]


LINKS = [(page, target) for page in PAGES for target in targets_of(page)]


@cache
def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page: its headings as GitHub writes them and as docutils does, and its own."""
    found: set[str] = set()
    for _, heading in headings_of(page):
        plain = re.sub(r"\{[^}]*\}|[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while anchor in found:
            number += 1
            anchor = f"{slug}-{number}"
        found.add(anchor)
        if page.is_relative_to(ROOT / "docs"):
            found.add(re.sub(r"[^a-z0-9]+", "-", plain).strip("-"))
    return found | set(re.findall(r"^\((\S+)\)=$", prose_of(page), flags=re.MULTILINE))


def test_every_link_reaches_a_file_or_a_heading() -> None:
    lost = []
    for page, target in LINKS:
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / unquote(path)).resolve() if path else page
        if not to.is_relative_to(ROOT) or not to.exists() or (anchor and anchor not in anchors_of(to)):
            lost.append(f"{name_of(page)}: {target}")
    assert lost == []
    assert any("#" in target for _, target in LINKS)


def test_a_file_that_is_named_in_prose_is_there() -> None:
    named = {
        (page, path)
        for page in PAGES
        for path in re.findall(r"`((?:tests|benchmarks|examples|docs|packages|\.ci)/[\w./*-]+)`", prose_of(page))
    }
    assert [
        f"{name_of(page)}: {path}" for page, path in named if not any(ROOT.glob(path)) and "_build" not in path
    ] == []
    drawing = (
        (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("```text\n")[2].partition("```")[0]
    )
    files = re.findall(r"[\w/]+\.py", drawing)
    assert files
    assert [path for path in files if not (ROOT / "packages" / "core" / "src" / "leyden" / path).exists()] == []


def test_what_is_outside_is_listed() -> None:
    assert {target for _, target in LINKS if "://" in target} == OUTSIDE


def test_the_readme_of_a_distribution_has_no_link_into_the_repository() -> None:
    """On PyPI there is nothing beside it."""
    of_packages = [(page, target) for page, target in LINKS if page.is_relative_to(ROOT / "packages")]
    assert [target for _, target in of_packages if "://" not in target] == []


def test_every_picture_is_shown() -> None:
    shown = {(page.parent / target).resolve() for page, target in LINKS if "://" not in target}
    assert [path.name for path in sorted(PICTURES - shown)] == []
