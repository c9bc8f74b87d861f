"""The HTML report: one self-contained file that says what was decided, and shows why.

Pure: results and findings in, text out. Nothing in it is fetched from anywhere, and nothing in it is run.
"""

from converter.report_html.page import render

__all__ = ["render"]
