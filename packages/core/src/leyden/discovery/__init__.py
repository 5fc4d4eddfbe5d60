"""Callbacks that an environment attaches by itself, whatever the training script says.

A distribution registers a function in the entry-point group `leyden.callbacks_factory`; called with nothing, or with
one mapping of settings, it returns a list of callbacks. A configuration file attaches further ones by name. What the
user gave or switched off wins over what is found, and what fails costs one line, never the training.

Importing this package imports none of that: the first `Trainer` does, and `import leyden` stays as quick as it can be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leyden.lazy_names import lazy_names

if TYPE_CHECKING:
    from leyden.discovery.attaching import attach_discovered
    from leyden.discovery.discovering import discover
    from leyden.discovery.found import Broken, Discovered, LeftOut, SwitchedOff
    from leyden.discovery.installed import CALLBACKS_GROUP, GROUP, installed_callbacks, installed_factories
    from leyden.discovery.precedence import replaces, supersedes
    from leyden.discovery.switches import discovery_is_on

__all__ = [
    "CALLBACKS_GROUP",
    "GROUP",
    "Broken",
    "Discovered",
    "LeftOut",
    "SwitchedOff",
    "attach_discovered",
    "discover",
    "discovery_is_on",
    "installed_callbacks",
    "installed_factories",
    "replaces",
    "supersedes",
]

_MODULE = {
    "attach_discovered": "attaching",
    "discover": "discovering",
    "Broken": "found",
    "Discovered": "found",
    "LeftOut": "found",
    "SwitchedOff": "found",
    "CALLBACKS_GROUP": "installed",
    "GROUP": "installed",
    "installed_callbacks": "installed",
    "installed_factories": "installed",
    "replaces": "precedence",
    "supersedes": "precedence",
    "discovery_is_on": "switches",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULE)
