"""Several questions about what is shown once, and about a video that goes on."""

from framefusion.asking.sessions.session import Session, session
from framefusion.asking.sessions.state import Reply, SessionSummary

__all__ = ["Reply", "Session", "SessionSummary", "session"]
