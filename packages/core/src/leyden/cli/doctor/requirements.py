"""Whether a version is in the range that a distribution requires, as far as that is sure without `packaging`."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Requirement", "parse_requirement", "satisfies"]

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;()]*)\)?\s*(?:;(.*))?$")
_CLAUSE = re.compile(r"(~=|==|!=|<=|>=|<|>)\s*v?(\d+(?:\.\d+)*)(\.\*)?$")
_RELEASE = re.compile(r"v?(\d+(?:\.\d+)*)")
_FINAL = re.compile(r"v?\d+(?:\.\d+)*(?:\+.*)?")  # neither 2.0rc1 nor 2.0.post1


@dataclass(frozen=True, slots=True)
class Requirement:
    """A line of ``Requires-Dist``: name, range such as ``>=0.1,<0.2``, and the condition under which it holds."""

    name: str
    range: str
    condition: str


def parse_requirement(text: str) -> Requirement | None:
    """Return a requirement, None for one that names no range, such as a URL.

    Example:
        >>> parse_requirement("prometheus-client>=0.20; extra == 'prometheus'")
        Requirement(name='prometheus-client', range='>=0.20', condition="extra == 'prometheus'")
    """
    match = _REQUIREMENT.match(text)
    if match is None or "@" in match[2]:
        return None
    return Requirement(match[1], match[2].strip(), (match[3] or "").strip())


def satisfies(version: str, wanted: str) -> bool | None:
    """Return whether `version` is in the range `wanted`, None where this cannot be told for sure.

    Example:
        >>> satisfies("2.13.0+cpu", ">=2.10"), satisfies("0.2.0", ">=0.1,<0.2"), satisfies("1!2.0", ">=1")
        (True, False, None)
    """
    found = _RELEASE.match(version)
    if found is None or "!" in version:
        return None
    release = _numbers(found[1])
    final = _FINAL.fullmatch(version) is not None
    answers = [_holds(release, final, clause.strip()) for clause in wanted.split(",") if clause.strip()]
    if False in answers:
        return False
    return None if None in answers else True


def _holds(release: tuple[int, ...], final: bool, clause: str) -> bool | None:
    match = _CLAUSE.match(clause)
    if match is None:
        return None
    sign, text, any_below = match.groups()
    bound = _numbers(text)
    length = max(len(release), len(bound))
    mine, other = _padded(release, length), _padded(bound, length)
    if mine == other and not final and not any_below:
        return None  # 2.0rc1 is below 2.0 and 2.0.post1 above, and each sign has its own rule for them
    if any_below or sign == "~=":
        prefix = bound if any_below else bound[:-1]
        inside = mine[: len(prefix)] == prefix and (any_below is not None or mine >= other)
        return not inside if sign == "!=" else inside
    compared = {">=": mine >= other, ">": mine > other, "<": mine < other, "<=": mine <= other, "==": mine == other}
    return compared.get(sign, mine != other)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _padded(numbers: tuple[int, ...], length: int) -> tuple[int, ...]:
    return numbers + (0,) * (length - len(numbers))
