"""A model behind HTTP: an API of OpenAI's kind, and a page where a person watches it think."""

from llada.serving.app import build_app
from llada.serving.at_work import Job
from llada.serving.engine import Busy, Engine
from llada.serving.limits import Limits
from llada.serving.service import Service

__all__ = ["Busy", "Engine", "Job", "Limits", "Service", "build_app"]
