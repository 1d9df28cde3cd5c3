"""Each audience and trait as one SELECT of (user_id, value) over the source."""

from audience_sync.computations.compile import Computation, compile_computation
from audience_sync.computations.words import in_words

__all__ = ["Computation", "compile_computation", "in_words"]
