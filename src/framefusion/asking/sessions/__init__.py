"""Several questions about what is shown once, and about a video that goes on."""

from framefusion.asking.sessions.session import Session, session
from framefusion.asking.sessions.state import Reply, SessionSummary
from framefusion.asking.sessions.watching import Observation, watch

__all__ = ["Observation", "Reply", "Session", "SessionSummary", "session", "watch"]
