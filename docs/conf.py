"""The Sphinx site; `hatch run docs` builds it and takes a warning for an error."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

os.environ["LEYDEN_CALLBACKS"] = "off"
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "Leyden"
copyright = "The Leyden authors. Apache-2.0"
try:
    release = metadata.version("leyden")
except metadata.PackageNotFoundError:  # run from a checkout that is on the path but not installed
    release = "0"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "leyden_site",
    "leyden_figures",
    "leyden_links",
    "leyden_pages",
    "lightning_names",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"Leyden {release}"
myst_heading_anchors = 3

# References that lead nowhere are errors; nothing is fetched to find out about those of others.
nitpicky = True
_OF_OTHERS = r"(torch|os|collections|types|pathlib|argparse|enum|contextlib|abc|datetime|tqdm|rich|matplotlib)(\..*)?"
_OF_OTHERS_BY_NAME = r"Tensor|Optimizer|Module|nn\.Module|timedelta|EntryPoint|QConfig|ProgressColumn|Figure|Axes"
_OF_OTHERS_BY_NAME += r"|AbstractContextManager|DistributedDataParallel|MixedPrecisionPolicy"
# Types that signatures mention and nobody looks up: aliases, variables of generic functions, what is handed through.
_HANDED_THROUGH = (
    r"(.*\.)?(M|T|R|P|D|Amount|AnyCallback|AnyModule|AttachedCallbacks|Decorator|Display|Duration|"
    r"HookContext|LightningOptimizer|Metrics|MetricsDict|Mode|Modules|ModuleTable|Place|Precision|Strategy|Switch|Transfer)"
)
nitpick_ignore_regex = [("py:class", one) for one in (_OF_OTHERS, _OF_OTHERS_BY_NAME, _HANDED_THROUGH)]

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # hooks stand with Callback, and on a callback's page where there is more to say
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
default_role = "code"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes that a docstring explains are no entries of their own
