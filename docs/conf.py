"""Sphinx configuration: Markdown by MyST, the furo theme; warnings are errors (``make docs``)."""

project = "Tessera"
author = "Tessera contributors"
project_copyright = "2026, Tessera contributors"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "Tessera"
myst_heading_anchors = 3
