"""Watching a canvas being filled: live in the terminal, as an animated page or as a picture."""

from llada.viewers.frames import Frame, RowFrames, frames_of
from llada.viewers.html import denoising_page, page_source
from llada.viewers.recording import Recording
from llada.viewers.svg import denoising_picture
from llada.viewers.terminal import picture, watch

__all__ = [
    "Frame",
    "Recording",
    "RowFrames",
    "denoising_page",
    "denoising_picture",
    "frames_of",
    "page_source",
    "picture",
    "watch",
]
