"""Watching a canvas being filled: live in the terminal, or as a page with an animation."""

from llada.viewers.html import denoising_page
from llada.viewers.terminal import picture, watch

__all__ = ["denoising_page", "picture", "watch"]
