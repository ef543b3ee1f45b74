"""Curves, reports and token views; HTML comes from the templates in `pages`."""
