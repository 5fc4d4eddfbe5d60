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
    "leyden_pages",
    "lightning_names",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"Leyden {release}"
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
default_role = "code"
napoleon_use_ivar = True  # attributes that a docstring explains are no entries of their own
