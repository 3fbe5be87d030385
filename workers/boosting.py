"""Key terms in greedy search of a transducer: tries of their tokens, a bonus for what goes on with one.

Shallow fusion as in `biasing.py`, but a transducer cannot weigh a term whole: what it says next depends on sound that
is still to come. So each token of a term has its bonus when its turn comes (Le et al., arXiv 2104.02194), twice as
much inside a term as at its begin, since greedy search cannot take back what it began. Whether anything is said at all
is left to the model: the bonus only chooses among labels where it chose no blank, so that no term is made of silence.

One trie for each slot, as a list of edges: the edges of all slots are one tensor, and a round of search is a handful of
operations on it, however many sessions and terms there are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.biasing import BONUS, Terms

#: Bonus of a token inside a term, in nats; BONUS is that of its first.
INSIDE = 2 * BONUS
#: Edges of one session; terms that find no room are left out.
MOST_EDGES = 1_024


def edges(terms: Terms | None) -> list[tuple[int, int, int]]:
    """The trie of the terms' paths that begin with a space: (node, token, node it leads to); the root is 0."""
    nodes: dict[tuple[int, ...], int] = {(): 0}
    found: list[tuple[int, int, int]] = []
    for path in terms.paths if terms else ():
        new = [n for n in range(len(path.tokens)) if path.tokens[: n + 1] not in nodes]
        if not path.spaced or len(found) + len(new) > MOST_EDGES:
            continue
        for n in new:
            nodes[path.tokens[: n + 1]] = len(nodes)
            found.append((nodes[path.tokens[:n]], path.tokens[n], nodes[path.tokens[: n + 1]]))
    return found


@dataclass
class Rows:
    """The tries of the rows of one step, [B, E] each, and where each row is in its own, [B]."""

    source: Tensor
    token: Tensor
    target: Tensor
    node: Tensor

    def choose(self, logits: Tensor, blank: int) -> Tensor:
        """Labels [B] of `logits` [B, V]; blank where the model says nothing."""
        plain = logits.argmax(-1)
        inside = (self.source == self.node[:, None]) & (self.source > 0)
        bonus = torch.where(inside, INSIDE, torch.where(self.source == 0, BONUS, 0.0)).to(logits.dtype)
        boosted = torch.zeros_like(logits).scatter_reduce(1, self.token, bonus, "amax").add_(logits)
        boosted[:, blank] = -torch.inf
        return torch.where(plain == blank, plain, boosted.argmax(-1))

    def advance(self, label: Tensor, said: Tensor) -> None:
        """`label` [B] was said where `said` [B]: on along a term, or at the begin of one, or out of all."""
        fits = self.token == label[:, None]
        inside = fits & (self.source == self.node[:, None])
        begins = fits & (self.source == 0)
        onward = torch.where(inside, self.target, 0).amax(-1)
        first = torch.where(begins, self.target, 0).amax(-1)
        self.node = torch.where(said, torch.where(onward > 0, onward, first), self.node)


class Boost:
    """The tries of all slots; row S is nobody's."""

    def __init__(self, slots: int, device: torch.device) -> None:
        self.wanted = torch.zeros(slots + 1, dtype=torch.bool)  # on the host
        # An edge that is none leads from nowhere.
        self._source = torch.full((slots + 1, MOST_EDGES), -1, device=device)
        self._token = torch.zeros_like(self._source)
        self._target = torch.zeros_like(self._source)
        self.node = torch.zeros(slots + 1, dtype=torch.long, device=device)

    def set(self, slot: int, terms: Terms | None) -> None:
        """The terms of a slot from now on."""
        found = torch.tensor(edges(terms), device=self.node.device).reshape(-1, 3)
        self.wanted[slot] = len(found) > 0
        self._source[slot], self.node[slot] = -1, 0
        for part, values in zip((self._source, self._token, self._target), found.unbind(1), strict=True):
            part[slot, : len(values)] = values

    def reset(self, rows: Tensor) -> None:
        """These slots are in the middle of no term."""
        self.node[rows] = 0

    def of(self, rows: Tensor) -> Rows:
        """The tries of these slots [B]; `put` keeps how far they came."""
        return Rows(self._source[rows], self._token[rows], self._target[rows], self.node[rows])

    def put(self, rows: Tensor, found: Rows) -> None:
        """After a search."""
        self.node[rows] = found.node
