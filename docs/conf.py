"""How the site is built: `make docs`. What is generated is written by `_ext/site.py` before Sphinx reads a page."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]
# Pages and gallery are built from small data and in a cache of their own.
os.environ.setdefault("VAEKIT_CACHE", str(HERE / "_build" / "cache"))

import pages  # noqa: E402
import scraped  # noqa: E402
from sphinx_gallery.sorting import FileNameSortKey  # noqa: E402

import vaekit  # noqa: E402

project = "vaekit"
author = "vaekit authors"
copyright = "vaekit authors, MIT licence"
version = release = vaekit.__version__

extensions = [
    "docstrings",
    "roles",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_ext", "_templates"]
suppress_warnings = ["config.cache"]  # the gallery's settings hold functions, which Sphinx can't compare between builds
nitpicky = False

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_inherit_docstrings = False  # those of torch and scikit-learn are theirs
autodoc_preserve_defaults = True

sphinx_gallery_conf = {
    "examples_dirs": str(HERE.parent / "examples" / "gallery"),
    "gallery_dirs": "gallery",
    "filename_pattern": r"plot_",
    "within_subsection_order": FileNameSortKey,
    "image_scrapers": (scraped.scrape, "matplotlib"),
    "download_all_examples": False,
    "show_signature": False,
    "abort_on_example_error": True,
    "reset_modules": ("matplotlib",),
    "min_reported_time": 1e9,
    "capture_repr": (),
    "remove_config_comments": True,
}

html_theme = "pydata_sphinx_theme"
html_title = "vaekit"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_prev_next": False,
    "navbar_align": "left",
    "header_links_before_dropdown": 8,
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
}


def setup(app):
    """Pages that are made of the code and of the records are written first."""
    app.connect("builder-inited", lambda app: pages.write(HERE))
