"""Which copies of shards a node removes to make room for others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Copy:
    """A shard in the cache."""

    path: str
    size: int  # bytes
    used: float  # when it was used last, seconds since 1970


@dataclass(frozen=True)
class Upcoming:
    """The paths of shards that this node will read, in the order of their next use; the first `needed` must stay."""

    paths: Sequence[str] = ()
    needed: int = 0


NOTHING = Upcoming()

UpcomingNow = Callable[[], Upcoming]


def choose_evictions(
    copies: Collection[Copy], excess: int, upcoming: Upcoming = NOTHING, unused_since: float = float("inf")
) -> list[Copy] | None:
    """The copies to remove to free `excess` bytes. None if there are not enough.

    First go those that are not upcoming, the longest unused first, without those used at `unused_since` or later. Then go
    the upcoming ones, the last to be used first.
    """
    turn = {path: number for number, path in enumerate(upcoming.paths)}
    others = sorted((copy for copy in copies if copy.path not in turn), key=lambda copy: (copy.used, copy.path))
    later = [copy for copy in copies if turn.get(copy.path, 0) >= upcoming.needed and copy.path in turn]
    later.sort(key=lambda copy: -turn[copy.path])
    chosen: list[Copy] = []
    for copy in (*others, *later):
        if excess <= 0:
            break
        if copy.used < unused_since:
            chosen.append(copy)
            excess -= copy.size
    return chosen if excess <= 0 else None


def nothing_upcoming() -> Upcoming:
    """For reads that nothing is known about."""
    return Upcoming()
