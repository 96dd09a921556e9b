"""Several questions about what is shown once, and about a video that goes on."""

from framefusion.asking.sessions.session import Session
from framefusion.asking.sessions.state import Reply, SessionSummary
from framefusion.asking.sessions.watching import Observation, watch

session = Session
"""As it reads where one begins: ``with framefusion.session(model, processor) as s:``."""

__all__ = ["Observation", "Reply", "Session", "SessionSummary", "session", "watch"]
