"""The hook contract: what it is, how methods fit it, in which order they are called, and the compiled plan of calls."""

from __future__ import annotations

from leyden.hooks.contract import HOOKS, Hook, LogRule, OlderSignature

__all__ = ["HOOKS", "Hook", "LogRule", "OlderSignature"]
