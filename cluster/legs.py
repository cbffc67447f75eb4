"""Which all-reduces `doctor` has done: within each node between its GPUs, between neighbouring nodes, and among all.

A leg that fails names the place: a node, or two nodes that do not reach each other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Seat:
    """A process that takes part: the `number`-th of its node, with a GPU of Ray's for itself or without."""

    node: str
    number: int
    gpu: bool


@dataclass(frozen=True)
class Leg:
    """One all-reduce between these processes."""

    seats: tuple[Seat, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """Each once, in order."""
        return tuple(dict.fromkeys(seat.node for seat in self.seats))

    def __str__(self) -> str:
        """Where it is, for people: within a node, between two, or among all."""
        if len(self.nodes) == 1:
            return f"within {self.nodes[0]}"
        if len(self.seats) == 2:
            return f"between {self.nodes[0]} and {self.nodes[1]}"
        return f"among all, {len(self.seats)} processes on {len(self.nodes)} nodes"


@dataclass(frozen=True)
class Plan:
    """All of them, and by what they are done."""

    backend: Literal["nccl", "gloo"]
    seats: tuple[Seat, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """Those that take part."""
        return Leg(self.seats).nodes

    def without(self, nodes: Collection[str]) -> Plan:
        """The same but for these nodes."""
        return Plan(self.backend, tuple(seat for seat in self.seats if seat.node not in nodes))

    def within(self) -> list[Leg]:
        """Of each node that has more than one process; they share no process and may run at the same time."""
        legs = [Leg(tuple(seat for seat in self.seats if seat.node == node)) for node in self.nodes]
        return [leg for leg in legs if len(leg.seats) > 1]

    def between(self) -> list[Leg]:
        """Of each node and the next, as a ring, by one process of each; none where there is one node."""
        first = [next(seat for seat in self.seats if seat.node == node) for node in self.nodes]
        pairs = list(zip(first, [*first[1:], *first[:1]], strict=True))
        return [Leg(pair) for pair in (pairs if len(pairs) > 2 else pairs[:-1])]

    def among_all(self, broken: Collection[str] = ()) -> Leg | None:
        """Of all processes, but one only of each `broken` node; None where there is one node."""
        seats = tuple(seat for seat in self.seats if seat.node not in broken or seat.number == 0)
        return Leg(seats) if len(self.nodes) > 1 else None


def plan_legs(counted: Mapping[str, int], shown: Mapping[str, int]) -> Plan:
    """Who takes part: `counted` are each node's GPUs by Ray, which places the processes, and `shown` those of its driver.

    Where there are usable GPUs they do, as training's workers will, by NCCL: a head without GPUs, or a node whose GPUs only
    Ray sees, keeps no other from being tested. Where no driver shows any, all nodes do, by gloo; what GPUs Ray counts are
    reserved even so.
    """
    usable = {node: min(count, shown[node]) for node, count in counted.items()}
    if any(usable.values()):
        return Plan("nccl", tuple(Seat(node, number, True) for node, count in usable.items() for number in range(count)))
    seats = (Seat(node, number, count > 0) for node, count in counted.items() for number in range(max(count, 1)))
    return Plan("gloo", tuple(seats))


def in_turns(legs: Sequence[Leg]) -> Iterator[list[Leg]]:
    """The same legs, in as few groups as their order allows, such that no process is in two legs of a group."""
    left = list(legs)
    while left:
        turn: list[Leg] = []
        for leg in left:
            if not {seat for other in turn for seat in other.seats} & set(leg.seats):
                turn.append(leg)
        yield turn
        left = [leg for leg in left if leg not in turn]
