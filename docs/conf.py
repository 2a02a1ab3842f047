"""The site: `nox -s site` builds it, without a network, and with warnings as errors."""

import os

import lookahead_core

os.environ.setdefault("KERAS_BACKEND", "jax")  # TensorFlow, which Keras takes else, is not needed

project = "lookahead-core"
author = "The lookahead-core maintainers"
release = lookahead_core.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
myst_heading_anchors = 6  # links to headings, named as code hosts name them

# Every name in `__all__` of a module, in that order; docstrings say the types of arguments.
autodoc_member_order = "bysource"
autodoc_typehints = "none"
add_module_names = False
default_role = "code"  # one backquote on each side, as docstrings have it
numpydoc_show_class_members = False  # autodoc lists methods, each with its docstring

html_theme = "furo"  # fonts of the reader's machine, and no script from elsewhere
html_title = f"lookahead-core {release}"
html_copy_source = False
html_show_search_summary = False  # it fetches pages, which browsers refuse to do from a file
html_show_sphinx = False
