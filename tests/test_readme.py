"""What the READMEs and the site show runs as it stands, and the README's table of hooks is the contract's."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md")), *sorted(ROOT.glob("docs/*.md"))]


def python_of(page: Path) -> str:
    """Return the Python of a page as one script, each line at its place in the page, so that errors name it."""
    script: list[str] = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = line.startswith("```")
        script.append("" if fence or not inside else line)
        inside = line == "```python" if fence else inside
    return "\n".join(script)


def site() -> ModuleType:
    """Import the site's extension."""
    spec = importlib.util.spec_from_file_location("leyden_site", ROOT / "docs" / "_ext" / "leyden_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "page", [page for page in PAGES if python_of(page).strip()], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_python_of_a_page_runs(page: Path) -> None:
    names: dict[str, object] = {"__name__": "__page__"}
    exec(compile(python_of(page), page, "exec"), names)
    assert "leyden" in names or "Trainer" in names


def test_the_readme_shows_the_hooks_of_the_contract() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- hooks: .* -->\n(.*)<!-- end of hooks -->", readme, flags=re.DOTALL)
    assert table.strip() == site().table_of_order(short=True), "python docs/_ext/leyden_site.py prints it"


def test_every_link_to_a_file_reaches_one() -> None:
    links = [
        (page, target)
        for page in [*PAGES, ROOT / "CONTRIBUTING.md"]
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if "://" not in target
    ]
    assert [target for page, target in links if not (page.parent / target).exists()] == []
    assert links


def test_every_package_has_the_licence_of_the_repository() -> None:
    licence = (ROOT / "LICENSE").read_bytes()
    assert [path.read_bytes() for path in ROOT.glob("packages/*/LICENSE")] == [licence] * 5


def test_the_ci_script_runs_the_commands_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    for command in ("lint", "types", "docs", "test"):
        assert f"hatch run {command}" in script.read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", script], check=True)
