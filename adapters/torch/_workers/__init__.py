"""Many workers that sync together: they agree, weigh their work, and average what they did."""

from .workers import Workers, workers_of

__all__ = ["Workers", "workers_of"]
