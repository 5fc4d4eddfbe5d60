"""Names, signatures and generations of hooks, and constructors of bases that were passed over."""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Any

from leyden.callback import Callback
from leyden.hooks.findings import Examined, findings
from leyden.hooks.ordering import declaration_mistakes
from leyden.testing.report import Broken
from leyden.testing.runs import Exam

__all__ = ["hooks"]


def hooks(exam: Exam) -> str:
    """Every hook has a name and a signature of the contract; older ones are told, or broken where that is claimed."""
    callback, entered = _made_and_entered(exam)
    found = list(findings(Examined(type(callback), callback)))
    mistakes = [one.message for one in found if one.mistake] + list(declaration_mistakes(callback))
    if mistakes:
        raise Broken(" ".join(mistakes))
    for base in type(callback).__mro__[1:]:
        init = vars(base).get("__init__")
        code = getattr(init, "__code__", None)
        if issubclass(base, Callback) and code is not None and code not in entered:
            raise Broken(
                f"{type(callback).__qualname__}.__init__ does not call that of {base.__qualname__}, so that what it "
                "sets is missing. Begin it with super().__init__(...)."
            )
    notes = [one.message for one in found if not one.mistake]
    older = [one.message for one in found if one.warns is not None and issubclass(one.warns, DeprecationWarning)]
    if older and not exam.claims.older_generations:
        raise Broken(" ".join(older))
    return " ".join(notes)


def _made_and_entered(exam: Exam) -> tuple[Callback, set[CodeType]]:
    """Make a callback; return with it the code of the constructors that were entered."""
    entered: set[CodeType] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_name == "__init__":
            entered.add(frame.f_code)

    outer = sys.getprofile()
    sys.setprofile(note)
    try:
        return exam.claims.fresh(), entered
    finally:
        sys.setprofile(outer)
