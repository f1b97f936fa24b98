"""A pointer: an attention over the tokens read so far that copies one of them.

To answer "Where was Nora born?" a model has to find the place that the question speaks of and write
down what stands there. The pointer is that step as a layer. The key of token j is made of the state
*before* j, and its value is token j itself. So a token in a similar state looks up which token came
next (pointer networks, Vinyals et al. 2015, 1506.03134; pointer sentinel, Merity et al. 2016,
1609.07843; continuous cache, Grave et al. 2016, 1612.04426).

"Who was born in Oslo?" asks for what stands before the words of the question. So a second head has
keys made of what stands on both sides of j. Such a key exists once AHEAD more tokens have been
read.

    f_t   = [hidden_t ; two weighted sums of the last K embeddings]       what was just read
    n_j   = a weighted sum of the AHEAD embeddings after j                what follows
    q_t   = unit(W_q f_t)                                                 each head has its W_q
    k_j   = unit(W_k f_{j-1}),  unit(W_k f_{j-1} + W_a n_j)               before j; around j
    p_tj  = softmax over j of  exp(tau) q_t . k_j,  beside a learned score for "nothing"
    out_t = hidden_t + W_o [sum_j p_tj e(x_j) of each head]               e: the embedding

In the sums of f and n, the weight of a token is a learnt number for its distance, times the gates
of other tokens: in f of all that came after it, up to t; in n of all between j and it. A gate is
g(x) = sigmoid(sqrt(D) v . e(x) + KEPT), with v learnt (`forget`). So a full stop can learn to shut
out the sentence behind it. Each of these sums, and hidden_t in f, is scaled to root mean square 1.
The logits of out_t are a product with the embedding, so W_o sum_j p_tj e(x_j) votes for the tokens
that were looked up. docs/pointer.md has the same equations with examples.

A head sees the j whose keys are known at t: j <= t, or j + AHEAD <= t. Each token read adds one
entry to each head. Some entries have no token. They stand for "nothing", and their value is 0. In
the first head this is the entry of the first token, which has no state before it. In the second
head these are the entries of the first AHEAD tokens.

B rows, T tokens, D width, K tokens of the window, P packed tokens, M of them wanted, H = 2 heads.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.model.linear import Linear
from src.model.prefix_sharing import Level
from src.model.prefix_sharing.key_value_state import (
    KeyValueState,
    append_token,
    decoding,
    read_after,
    read_rows,
    state_of_packed,
)
from src.model.prefix_sharing.one_pass import OnePass
from src.model.prefix_sharing.packing import Packed

# How many tokens tell what was just read, and how fast the second sum forgets them.
WINDOW, DECAY = 24, 0.85
# How many tokens after j the second head waits for: most of a sentence, and within the window.
AHEAD = 16
# At the start: sharpness of the match (exp(4) = 55), and strength of the copy.
SHARPNESS, STRENGTH = 4.0, 4.0
HEADS = 2
# The cosine of query and key at which a match is no better than none. The logit of a gate at the
# start, when each token lets 0.95 through.
NOTHING, KEPT = 0.2, 3.0
NO_TOKEN = -1


class Pointer(nn.Module):
    """The layer's weights and arithmetic; PointerModel knows which tokens are seen."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        # One channel of keys and queries is kept for the score of "nothing".
        self.query = Linear(3 * width, HEADS * (width - 1), bias=False)
        self.before = Linear(3 * width, width - 1, bias=False)  # W_k
        self.after = Linear(width, width - 1, bias=False)  # W_a
        self.out = Linear(HEADS * width, width, bias=False)
        self.sharpness = nn.Parameter(torch.full((HEADS,), SHARPNESS))
        self.nothing = nn.Parameter(torch.full((HEADS,), NOTHING))
        self.forget = nn.Parameter(torch.zeros(width))
        decay = DECAY ** torch.arange(WINDOW - 1, -1, -1)  # the oldest token first
        self.lags = nn.Parameter(torch.stack((torch.ones(WINDOW), decay)))
        self.leads = nn.Parameter(torch.ones(1, AHEAD))
        with torch.no_grad():
            alike = torch.randn(width - 1, 3 * width) * (3 * width) ** -0.5
            self.query.weight.copy_(alike.repeat(HEADS, 1))
            self.before.weight.copy_(alike)
            self.after.weight.copy_(alike[:, width : 2 * width])
            self.out.weight.copy_(STRENGTH * torch.eye(width).repeat(1, HEADS))

    def gates(self, window: Tensor, embedding: Tensor) -> Tensor:
        """How much each token of windows (P, K) lets through of what is beyond it, 0 to 1, (P, K).
        """
        of_id = torch.sigmoid(embedding @ self.forget * self.width**0.5 + KEPT)
        return F.embedding(window.clamp_min(0), of_id[:, None]).squeeze(-1)

    def features(
        self, hidden: Tensor, window: Tensor, gates: Tensor, embedding: Tensor
    ) -> Tensor:
        """What was just read, (P, 3 D): hidden states (P, D), two sums over the last tokens'
        embeddings.

        window: (P, K) ids, the newest at the right, NO_TOKEN where there was none. gates: (P, K).
        embedding: (V, D).
        """
        weights = _products(gates.flip(1)).flip(1)
        sums = _weighted_sums(window, weights, self.lags, embedding)
        return torch.cat([_rms(x) for x in (hidden, *sums)], -1)

    def queries(self, features: Tensor) -> Tensor:
        """(M, 3 D) to (M, H, 1, D), scaled against attention's division by sqrt(D)."""
        found = _unit(self.query(features).unflatten(-1, (HEADS, -1)))
        found = F.pad(found * self.sharpness.exp()[:, None], (0, 1), value=1.0)
        return (found * self.width**0.5)[:, :, None]

    def keys_values(
        self, before: tuple[Tensor, Tensor], window: Tensor, gates: Tensor, position: Tensor,
        embedding: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (P, H, D) of the entries that come with P tokens.

        before: W_k f of the state before each head's token, (P, D - 1) each, 0 where none was.
        window, gates: (P, K), as for `features`. position: (P,), of the tokens.
        """
        tokens = torch.stack((window[:, -1], window[:, -1 - AHEAD]), 1)
        empty = torch.stack((position < 1, position < AHEAD), 1)
        # The newest AHEAD tokens follow the second head's token.
        weights = _products(gates[:, -AHEAD:])
        following = _weighted_sums(window[:, -AHEAD:], weights, self.leads, embedding)[0]
        after = self.after(_rms(following))
        keys = _unit(torch.stack((before[0], before[1] + after), 1))
        keys = torch.where(empty[..., None], 0.0, keys)
        score = torch.where(empty, self.nothing * self.sharpness.exp(), 0.0)
        values = F.embedding(tokens.clamp_min(0), embedding)
        values = torch.where(empty[..., None], 0.0, values)
        return torch.cat((keys, score[..., None]), -1), values

    def forward(self, hidden: Tensor, copied: Tensor) -> Tensor:
        """Hidden states (M, D) with what was looked up (M, H D)."""
        return hidden + self.out(copied.to(hidden.dtype))


def _products(kept: Tensor) -> Tensor:
    """For each of (P, K) factors, the product of all factors before it; 1 for the first."""
    return F.pad(kept[:, :-1].cumprod(1), (1, 0), value=1.0)


def _weighted_sums(
    window: Tensor, weights: Tensor, lags: Tensor, embedding: Tensor
) -> list[Tensor]:
    """Sums (P, D) over the embeddings of windows (P, K), weighted (P, K) and by each row of lags.
    """
    weights = torch.where(window == NO_TOKEN, 0.0, weights)
    ids = window.clamp_min(0)
    return [
        F.embedding_bag(ids, embedding, per_sample_weights=weights * row, mode="sum")
        for row in lags
    ]


def _rms(x: Tensor) -> Tensor:
    """Each row at root mean square 1, in float32 at least; rows of zeros stay zeros."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def _unit(x: Tensor) -> Tensor:
    """Each row at length 1, in float32 at least: matches are differences of small numbers."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


class PointerState(NamedTuple):
    """base: the plain model's state. window: (B, K - 1) int64 ids read last, newest at the right.
    before: (B, AHEAD + 1, D - 1), W_k f of the last states, newest last, 0 where none was. read:
    keys and values of the pointer.
    """

    base: Any
    window: Tensor
    before: Tensor
    read: KeyValueState

    @property
    def lengths(self) -> Tensor:
        """Real tokens read so far, (B,)."""
        return self.read.lengths

    def select(self, rows: Tensor) -> "PointerState":
        """The state of batch rows `rows` (B',) int64; repeats allowed."""
        rows = torch.as_tensor(rows, dtype=torch.long, device=self.window.device)
        window, before = (x.index_select(0, rows) for x in (self.window, self.before))
        return PointerState(self.base.select(rows), window, before, self.read.select(rows))


class PointerModel(OnePass, nn.Module):
    """A plain model with a pointer on top, behind the interface of src/model/__init__.py."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.config = base.config
        self.width = base.width
        self.pointer = Pointer(base.width)
        # A copied embedding has length 1, so it weighs the same in every architecture.
        nn.init.normal_(self.embedding.weight, std=base.width**-0.5)

    @property
    def embedding(self) -> nn.Embedding:
        """The plain model's, whose rows the pointer copies."""
        return self.base.embedding

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits (..., V) of hidden states (..., D)."""
        return self.base.logits(hidden)

    def forward(
        self, tokens: Tensor, lengths: Tensor, state: PointerState | None = None
    ) -> tuple[Tensor, PointerState]:
        """Read tokens (B, T) after `state`; returns hidden (B, T, D) and the new state."""
        batch, columns = tokens.shape
        state = state or self._nothing_read(tokens)
        hidden, base = self.base(tokens, lengths, state.base)
        embedding = self.embedding.weight
        ids = torch.cat((state.window, tokens), 1)
        windows = ids.unfold(1, WINDOW, 1).flatten(0, 1)
        gates = self.pointer.gates(windows, embedding)
        features = self.pointer.features(hidden.flatten(0, 1), windows, gates, embedding)
        states = self.pointer.before(features).unflatten(0, (batch, columns))
        states = torch.cat((state.before, states), 1)  # AHEAD + 1 columns before the first new one
        before = tuple(states[:, at : at + columns].flatten(0, 1) for at in (AHEAD, 0))
        column = torch.arange(columns, device=tokens.device)
        position = (state.lengths[:, None] + column).flatten()
        pair = self.pointer.keys_values(before, windows, gates, position, embedding)
        if decoding(columns):
            [attention], read = append_token(
                state.read, lengths, pair[0].new_zeros(batch, 0, 1, HEADS, self.width)
            )
        else:
            [attention] = read_after(state.read, columns, 1)
            read = read_rows(state.read, lengths, columns, [pair])
        copied = attention.attend(self.pointer.queries(features), *pair)
        hidden = self.pointer(hidden, copied.unflatten(0, (batch, columns)))
        newest = lengths[:, None] + torch.arange(WINDOW - 1, device=tokens.device)
        last = lengths[:, None] + torch.arange(AHEAD + 1, device=tokens.device)
        before = states.gather(1, last[..., None].expand(-1, -1, states.shape[-1]))
        return hidden, PointerState(base, ids.gather(1, newest), before, read)

    def read_trees(
        self, levels: Sequence[Level], packed: Packed, keep_state: bool = False
    ) -> tuple[Tensor, PointerState | None]:
        """As in OnePass. A context's keys stay in place; all that is below it reads them."""
        everywhere = packed._replace(wanted=None, last_attention=packed.attention)
        hidden, base = self.base.read_trees(levels, everywhere, keep_state)
        embedding = self.embedding.weight
        indices = _window_indices(packed)
        # The row after the last one stands for no token.
        windows = F.pad(packed.tokens, (0, 1), value=NO_TOKEN)[indices]
        gates = self.pointer.gates(windows, embedding)
        features = self.pointer.features(hidden, windows, gates, embedding)
        states = F.pad(self.pointer.before(features), (0, 0, 0, 1))
        before = tuple(states.index_select(0, indices[:, -1 - ago]) for ago in (1, AHEAD + 1))
        pair = self.pointer.keys_values(before, windows, gates, packed.positions, embedding)
        if packed.wanted is not None:
            hidden, features = (x.index_select(0, packed.wanted) for x in (hidden, features))
        copied = packed.last_attention.attend(self.pointer.queries(features), *pair)
        state = None
        if keep_state:
            read = state_of_packed(levels, packed, [pair])
            last = F.pad(indices, (0, 0, 0, 1), value=len(indices))[packed.newest]
            window = F.pad(packed.tokens, (0, 1), value=NO_TOKEN)[last[:, 1:]]
            state = PointerState(base, window, states[last[:, -AHEAD - 1 :]], read)
        return self.pointer(hidden, copied), state

    def _nothing_read(self, tokens: Tensor) -> PointerState:
        weight, batch = self.pointer.query.weight, len(tokens)
        window = tokens.new_full((batch, WINDOW - 1), NO_TOKEN)
        before = weight.new_zeros(batch, AHEAD + 1, self.width - 1)
        return PointerState(None, window, before, KeyValueState((), tokens.new_zeros(batch)))


def _window_indices(packed: Packed) -> Tensor:
    """The indices of the last K tokens that each packed token has read, itself included, (P, K),
    the newest at the right; P where there was none.
    """
    count = len(packed.tokens)
    previous = F.pad(packed.previous, (0, 1), value=-1)
    previous = torch.where(previous < 0, count, previous)
    at = torch.arange(count, device=previous.device)
    indices = []
    for _ in range(WINDOW):
        indices.append(at)
        at = previous[at]
    return torch.stack(indices[::-1], 1)
