"""A report as HTML: one page that holds all it needs, and what notebooks show of it and of a curve."""

from cobla_tf.page.page import brief_html, curve_html, headlines, html_page

__all__ = ["brief_html", "curve_html", "headlines", "html_page"]
