"""Plans the all-reduces of `doctor`: within each node, between pairs of neighbouring nodes, and among all processes.

A group whose all-reduce fails tells where the problem is: on a node, or between two nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Member:
    """A process that takes part: number `number` on its node, and whether it reserves a GPU from Ray."""

    node: str
    number: int
    gpu: bool


@dataclass(frozen=True)
class Group:
    """The processes of one all-reduce."""

    members: tuple[Member, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes of the members, each once, in order."""
        return tuple(dict.fromkeys(member.node for member in self.members))

    def __str__(self) -> str:
        """The group in messages: within a node, between two nodes, or among all."""
        if len(self.nodes) == 1:
            return f"within {self.nodes[0]}"
        if len(self.members) == 2:
            return f"between {self.nodes[0]} and {self.nodes[1]}"
        return f"among all, {len(self.members)} processes on {len(self.nodes)} nodes"


@dataclass(frozen=True)
class Plan:
    """All members, and the backend of their all-reduces."""

    backend: Literal["nccl", "gloo"]
    members: tuple[Member, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that take part."""
        return Group(self.members).nodes

    def without(self, nodes: Collection[str]) -> Plan:
        """The plan without these nodes."""
        return Plan(self.backend, tuple(member for member in self.members if member.node not in nodes))

    def within(self) -> list[Group]:
        """One group for each node with several processes. They share no process, so they can run at the same time."""
        groups = [Group(tuple(member for member in self.members if member.node == node)) for node in self.nodes]
        return [group for group in groups if len(group.members) > 1]

    def between(self) -> list[Group]:
        """One group for each node and the next, in a ring, with one process per node; none if there is only one node."""
        first = [next(member for member in self.members if member.node == node) for node in self.nodes]
        pairs = list(zip(first, [*first[1:], *first[:1]], strict=True))
        return [Group(pair) for pair in (pairs if len(pairs) > 2 else pairs[:-1])]

    def among_all(self, broken: Collection[str] = ()) -> Group | None:
        """The group of all processes, but only one from each `broken` node; None if there is only one node."""
        members = tuple(member for member in self.members if member.node not in broken or member.number == 0)
        return Group(members) if len(self.nodes) > 1 else None


def plan_all_reduces(counted: Mapping[str, int], shown: Mapping[str, int]) -> Plan:
    """The plan for a cluster.

    `counted`: the number of GPUs that Ray counts on each node. `shown`: the number that the driver shows there.

    If there are usable GPUs, each is one member, with NCCL, as in training; nodes without usable GPUs (such as the head) are
    left out, so they do not prevent the test of the others. If no driver shows a GPU, all nodes take part, with gloo; the
    GPUs that Ray counts are then reserved all the same.
    """
    usable = {node: min(count, shown[node]) for node, count in counted.items()}
    if any(usable.values()):
        return Plan("nccl", tuple(Member(node, number, True) for node, count in usable.items() for number in range(count)))
    members = (Member(node, number, count > 0) for node, count in counted.items() for number in range(max(count, 1)))
    return Plan("gloo", tuple(members))


def disjoint_batches(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """The groups in batches that can run at the same time: no process is in two groups of a batch."""
    left = list(groups)
    while left:
        batch: list[Group] = []
        for group in left:
            if not {member for other in batch for member in other.members} & set(group.members):
                batch.append(group)
        yield batch
        left = [group for group in left if group not in batch]
