"""Measures how much worse a model answers about an image when the query is audio than when it is text, and closes that
gap by Self-KD (arXiv 2503.00059)."""

__version__ = "0.1.0"
