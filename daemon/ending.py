"""A transfer that has ended stays ended: what ``Put`` and ``Get`` have in common."""

from __future__ import annotations

from typing import Any, Protocol


class State(Protocol):
    """How far a transfer is."""

    @property
    def final(self) -> bool:
        """Whether nothing will happen any more."""
        ...


class Ending:
    """Something with a ``state``, of which the first final one is the last."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        # Whoever still works on it may not have heard yet that it was cancelled: an end stays the end.
        if name == "state" and self.ended:
            return
        object.__setattr__(self, name, value)

    @property
    def ended(self) -> bool:
        """Whether its state is final. False until it has one."""
        state: State | None = getattr(self, "state", None)
        return state is not None and state.final
