"""Sphinx's settings for the rendered site; `make docs` (.ci/docs.py) prepares the folder that this builds."""
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / ".ci")]

import site_lessons  # noqa: E402
import site_reference  # noqa: E402

STAGE = Path(os.environ.get("COURSE_SITE_STAGE", HERE.parents[1] / "_proc" / "site"))
site = json.loads((STAGE / "site.json").read_text(encoding="utf-8"))

project = site["name"]
author = site["author"]
project_copyright = f"{author}, {site['license']}"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_design", "sphinx_copybutton"]
exclude_patterns = ["static", "site.json"]

# Notebooks are shown as they were saved; nothing is run here.
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_block", "attrs_inline", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # a heading may skip a level

# The reference is made from the signatures and the comments beside the parameters.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 72
toc_object_entries_show_parents = "hide"
viewcode_line_numbers = False

# Everything a page needs comes from the site itself.
templates_path = []
html_static_path = [str(HERE / "static"), *([site["parts"]] if site["parts"] else [])]
html_css_files = ["course.css"]
html_js_files = ["course.js"]
mathjax_path = "tex-svg-full.js" if site["parts"] else "no-mathjax.js"
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"fontCache": "global"},
                   "tex": {"inlineMath": [["\\(", "\\)"]], "displayMath": [["\\[", "\\]"]]}}
nb_ipywidgets_js = {"widgets/require.js": {}, "widgets/config.js": {}} if site["parts"] else {}

html_theme = "sphinx_book_theme"
html_title = site["name"]
html_context = {"default_mode": "auto"}
html_favicon = str(HERE / "static" / "favicon.svg")
html_baseurl = site["url"] + "/"
html_show_sphinx = False
html_copy_source = True
smartquotes_action = "D"  # dashes, but quotation marks as they were typed
pygments_style = "tango"
html_theme_options = {
    "repository_url": site["repository"],
    "repository_branch": site["branch"],
    "path_to_docs": "nbs",
    "use_repository_button": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    "show_toc_level": 2,
    "navbar_persistent": [],  # else two search boxes share one name
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "github-dark",
    "logo": {"text": site["name"]},
    "footer_content_items": ["copyright.html"],
}


def setup(app):
    app.add_config_value("site_state", site["state"], "env")  # a change of the site's own code rebuilds all
    site_lessons.connect(app, site)
    site_reference.connect(app, site)
