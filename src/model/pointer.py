"""A pointer: one attention over the tokens read so far that copies one of them.

To answer "Where was Nora born?" a model has to find the place that the question speaks of and write
down what stands there. The pointer is that step as a layer. The key of token j is made of the state
*before* j, its value is token j itself: whoever is in a similar state looks up which token came
next (pointer networks, Vinyals et al. 2015, 1506.03134; pointer sentinel, Merity et al. 2016,
1609.07843; continuous cache, Grave et al. 2016, 1612.04426).

    f_t   = [hidden_t ; two weighted sums of the last K embeddings]       what was just read
    q_t   = unit(W_q f_t),   k_j = unit(W_k f_{j-1})                      what looks alike matches
    a_tj  = softmax over j <= t of  exp(tau) q_t . k_j,  beside a learned score for "nothing"
    out_t = hidden_t + W_o sum_j a_tj e(x_j)                              e: the embedding

The logits of out_t are a product with the embedding, so W_o sum_j a_tj e(x_j) votes for the tokens
that were looked up. The first token of all has no state before it and no key; its place is taken by
"nothing", whose value is 0.

B rows, T tokens, D width, K tokens of the window, P packed tokens, M of them wanted.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.model.linear import Linear
from src.model.prefix_sharing.key_value_state import (
    KeyValueState,
    append_token,
    decoding,
    read_after,
    read_rows,
    state_of_packed,
)
from src.model.prefix_sharing.levels import Level
from src.model.prefix_sharing.one_pass import OnePass
from src.model.prefix_sharing.packing import Packed

# Tokens that say what was just read, and how fast the second sum forgets them.
WINDOW, DECAY = 16, 0.85
# At the start: sharpness of the match (exp(4) = 55), and strength of the copy.
SHARPNESS, STRENGTH = 4.0, 4.0
NO_TOKEN = -1


class Pointer(nn.Module):
    """The layer's weights and arithmetic; PointerModel knows which tokens are seen."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        # One channel of keys and queries is kept for the score of "nothing".
        self.query = Linear(3 * width, width - 1, bias=False)
        self.key = Linear(3 * width, width - 1, bias=False)
        self.out = Linear(width, width, bias=False)
        # Of one number each, not scalars, which --shard cannot divide.
        self.sharpness = nn.Parameter(torch.tensor([SHARPNESS]))
        self.nothing = nn.Parameter(torch.zeros(1))
        decay = DECAY ** torch.arange(WINDOW - 1, -1, -1)  # the oldest token first
        lags = torch.stack((torch.ones(WINDOW) / WINDOW, decay / decay.sum()))
        self.lags = nn.Parameter(lags)
        with torch.no_grad():
            nn.init.normal_(self.query.weight, std=(3 * width) ** -0.5)
            self.key.weight.copy_(self.query.weight)
            self.out.weight.copy_(STRENGTH * torch.eye(width))

    def features(self, hidden: Tensor, window: Tensor, embedding: Tensor) -> Tensor:
        """What was just read, (M, 3 D): hidden states (M, D), and two sums over the embeddings
        (V, D) of the last tokens, window (M, K), newest at the right, NO_TOKEN where none was.
        """
        real = (window != NO_TOKEN).to(embedding.dtype)
        ids = window.clamp_min(0)
        sums = [
            F.embedding_bag(ids, embedding, per_sample_weights=real * lags, mode="sum")
            for lags in self.lags
        ]
        return torch.cat([_rms(x) for x in (hidden, *sums)], -1)

    def queries(self, features: Tensor) -> Tensor:
        """(M, 3 D) to (M, 1, 1, D): one head, scaled against attention's division by sqrt(D)."""
        found = _unit(self.query(features)) * self.sharpness.exp()
        ones = found.new_ones(len(found), 1)
        return (torch.cat((found, ones), -1) * self.width**0.5)[:, None, None]

    def next_keys(self, features: Tensor) -> Tensor:
        """(M, 3 D) to (M, D - 1): of each state, the key of the token that follows it."""
        return _unit(self.key(features))

    def keys_values(
        self, keys: Tensor, tokens: Tensor, first: Tensor, embedding: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Keys (P, D - 1) and tokens (P,) as attention reads them, each (P, 1, D).

        first: (P,) bool, True for a token that nothing came before.
        """
        keys = torch.where(first[:, None], 0.0, keys)
        score = torch.where(first, self.nothing, 0.0)
        values = torch.where(first[:, None], 0.0, F.embedding(tokens, embedding))
        return torch.cat((keys, score[:, None]), -1)[:, None], values[:, None]

    def forward(self, hidden: Tensor, copied: Tensor) -> Tensor:
        """Hidden states (M, D) with what was looked up (M, D)."""
        return hidden + self.out(copied.to(hidden.dtype))


def _rms(x: Tensor) -> Tensor:
    """Each row at root mean square 1, in float32 at least; rows of zeros stay zeros."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def _unit(x: Tensor) -> Tensor:
    """Each row at length 1, in float32 at least: matches are differences of small numbers."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


class PointerState(NamedTuple):
    """base: the plain model's state. window: (B, K - 1) int64 ids read last, newest at the right.
    next_key: (B, D - 1), of the token that comes next. read: keys and values of the pointer.
    """

    base: Any
    window: Tensor
    next_key: Tensor
    read: KeyValueState

    @property
    def lengths(self) -> Tensor:
        """Real tokens read so far, (B,)."""
        return self.read.lengths

    def select(self, rows: Tensor) -> "PointerState":
        """The state of batch rows `rows` (B',) int64; repeats allowed."""
        rows = torch.as_tensor(rows, dtype=torch.long, device=self.window.device)
        window, next_key = (x.index_select(0, rows) for x in (self.window, self.next_key))
        return PointerState(self.base.select(rows), window, next_key, self.read.select(rows))


class PointerModel(OnePass, nn.Module):
    """A plain model with a pointer on top, behind the interface of src/model/__init__.py."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.config = base.config
        self.width = base.width
        self.pointer = Pointer(base.width)
        # A copied embedding has length 1, so that it weighs as much in every architecture.
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
        batch, width = tokens.shape
        state = state or self._nothing_read(tokens)
        hidden, base = self.base(tokens, lengths, state.base)
        ids = torch.cat((state.window, tokens), 1)
        windows = ids.unfold(1, WINDOW, 1).flatten(0, 1)
        embedding = self.embedding.weight
        features = self.pointer.features(hidden.flatten(0, 1), windows, embedding)
        next_keys = self.pointer.next_keys(features).unflatten(0, (batch, width))
        keys = torch.cat((state.next_key[:, None], next_keys), 1)  # of each token, and the next one
        column = torch.arange(width, device=tokens.device)
        first = (state.lengths[:, None] + column == 0).flatten()
        own_keys = keys[:, :-1].flatten(0, 1)
        pair = self.pointer.keys_values(own_keys, tokens.flatten(), first, embedding)
        query = self.pointer.queries(features)
        if decoding(width):
            [attention], read = append_token(
                state.read, lengths, pair[0].new_zeros(batch, 0, 1, 1, self.width)
            )
        else:
            [attention] = read_after(state.read, width, 1)
            read = read_rows(state.read, lengths, width, [pair])
        copied = attention.attend(query, *pair).unflatten(0, (batch, width))
        newest = lengths[:, None] + torch.arange(WINDOW - 1, device=tokens.device)
        rows = torch.arange(batch, device=tokens.device) * (width + 1) + lengths
        next_key = keys.flatten(0, 1).index_select(0, rows)
        return (
            self.pointer(hidden, copied),
            PointerState(base, ids.gather(1, newest), next_key, read),
        )

    def read_trees(
        self, levels: Sequence[Level], packed: Packed, keep_state: bool = False
    ) -> tuple[Tensor, PointerState | None]:
        """As in OnePass. A context's keys are read where they are by all that stands below it."""
        everywhere = packed._replace(wanted=None, last_attention=packed.attention)
        hidden, base = self.base.read_trees(levels, everywhere, keep_state)
        embedding = self.embedding.weight
        windows = _windows(packed)
        features = self.pointer.features(hidden, windows, embedding)
        next_keys = self.pointer.next_keys(features)
        first = packed.previous < 0
        keys = next_keys.index_select(0, packed.previous.clamp_min(0))
        pair = self.pointer.keys_values(keys, packed.tokens, first, embedding)
        if packed.wanted is not None:
            hidden, features = (x.index_select(0, packed.wanted) for x in (hidden, features))
        copied = packed.last_attention.attend(self.pointer.queries(features), *pair)
        state = None
        if keep_state:
            read = state_of_packed(levels, packed, [pair])
            # A row that has read nothing takes the row behind the last one.
            windows = F.pad(windows, (0, 0, 0, 1), value=NO_TOKEN)[packed.newest, 1:]
            next_key = F.pad(next_keys, (0, 0, 0, 1))[packed.newest]
            state = PointerState(base, windows, next_key, read)
        return self.pointer(hidden, copied), state

    def _nothing_read(self, tokens: Tensor) -> PointerState:
        weight, batch = self.pointer.query.weight, len(tokens)
        window = tokens.new_full((batch, WINDOW - 1), NO_TOKEN)
        next_key = weight.new_zeros(batch, self.width - 1)
        return PointerState(None, window, next_key, KeyValueState((), tokens.new_zeros(batch)))


def _windows(packed: Packed) -> Tensor:
    """The last tokens that each packed token has read, itself among them, (P, K), newest at the
    right.
    """
    tokens, previous = (
        torch.cat((x, x.new_full((1,), nothing)))  # new_tensor would make a GPU wait
        for x, nothing in ((packed.tokens, NO_TOKEN), (packed.previous, -1))
    )
    at = torch.arange(len(packed.tokens), device=previous.device)
    window = []
    for _ in range(WINDOW):
        window.append(tokens[at])
        at = previous[at]
    return torch.stack(window[::-1], 1)
