"""What an examination found: facts to read, problems with their fixes, and notes that are no trouble."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Problem", "Section"]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and what mends it."""

    problem: str
    fix: str


@dataclass(slots=True)
class Section:
    """One part of the report.

    Example:
        >>> section = Section("Folder")
        >>> section.fact("free", "3.1 GB")
        >>> section.trouble("/runs cannot be written to.", "Set Trainer(default_root_dir=...).")
        >>> section.facts, [one.fix for one in section.problems]
        ([('free', '3.1 GB')], ['Set Trainer(default_root_dir=...).'])
    """

    title: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fact(self, name: str, value: object) -> None:
        self.facts.append((name, str(value)))

    def trouble(self, problem: str, fix: str) -> None:
        self.problems.append(Problem(problem, fix))

    def note(self, text: str) -> None:
        self.notes.append(text)
