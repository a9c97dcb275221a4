"""Watching a canvas being filled: live in the terminal, as an animated page or picture, or as text piece by piece."""

from llada.viewers.frames import Frame, frames_of
from llada.viewers.html import denoising_page
from llada.viewers.stream import is_final, stream_text
from llada.viewers.svg import denoising_picture
from llada.viewers.terminal import picture, watch

__all__ = ["Frame", "denoising_page", "denoising_picture", "frames_of", "is_final", "picture", "stream_text", "watch"]
