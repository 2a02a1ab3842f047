"""Where optax states that the first versions pickled look for their classes; imported by nobody."""

from .optax import LookaheadState, PersistentState, SharedState

__all__ = ["LookaheadState", "PersistentState", "SharedState"]
