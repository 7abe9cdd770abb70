"""A report as HTML: one page that holds all it needs, and a part of it in brief for notebooks."""

from cobla_tf.page.page import brief_html, headlines, html_page

__all__ = ["brief_html", "headlines", "html_page"]
