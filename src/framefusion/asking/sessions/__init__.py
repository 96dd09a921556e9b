"""Several questions about what is shown once, and about a video that goes on."""

from framefusion.asking.sessions.session import Reply, Session, SessionSummary, session

__all__ = ["Reply", "Session", "SessionSummary", "session"]
