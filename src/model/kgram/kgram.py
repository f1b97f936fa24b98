"""An MLP over the embeddings of the last k tokens (Bengio et al. 2003), with tied embeddings."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.model.checks import require_bool, require_positive_int
from src.model.linear import Linear
from src.model.prefix_sharing.level_by_level import LevelByLevel


@dataclass(frozen=True)
class KGramConfig:
    """vocab_size: V. kgram_k: tokens seen. n_layer: hidden layers of n_inner units (default 4 *
    n_embd).
    """

    vocab_size: int
    n_layer: int = 2
    n_embd: int = 128
    kgram_k: int = 16
    n_inner: int | None = None
    block_size: int = 1024
    pointer: bool = False

    def __post_init__(self) -> None:
        if self.n_inner is None and isinstance(self.n_embd, int):
            object.__setattr__(self, "n_inner", 4 * self.n_embd)
        require_positive_int(
            self, "vocab_size", "n_layer", "n_embd", "kgram_k", "n_inner", "block_size"
        )
        require_bool(self, "pointer")


class KGramState(NamedTuple):
    """last: (B, k - 1) int64, the ids read last, newest at the right, `vocab_size` where nothing
    was; lengths: (B,).
    """

    last: Tensor
    lengths: Tensor

    def select(self, rows: Tensor) -> "KGramState":
        """The state of batch rows `rows` (B',) int64; repeats allowed."""
        rows = torch.as_tensor(rows, dtype=torch.long, device=self.last.device)
        return KGramState(*(x.index_select(0, rows) for x in self))


class KGram(LevelByLevel, nn.Module):
    """See src/model/__init__.py for the interface."""

    def __init__(self, config: KGramConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.n_embd
        # One row more than the vocabulary: the learned vector of 'nothing was read here'.
        self.embedding = nn.Embedding(config.vocab_size + 1, config.n_embd)
        nn.init.normal_(self.embedding.weight, std=config.n_embd**-0.5)
        widths = [config.kgram_k * config.n_embd] + [config.n_inner] * config.n_layer
        self.layers = nn.ModuleList(
            Linear(before, after) for before, after in zip(widths, widths[1:], strict=False)
        )
        self.out = Linear(config.n_inner, config.n_embd, bias=False)
        self.norm = nn.RMSNorm(config.n_embd)

    def forward(
        self, tokens: Tensor, lengths: Tensor, state: KGramState | None = None
    ) -> tuple[Tensor, KGramState]:
        """Read tokens (B, T) after `state`; returns hidden (B, T, D) and the new state."""
        ids, state = self._advance(tokens, lengths, state)
        windows = ids.unfold(1, self.config.kgram_k, 1)
        # What stands in the padding may be anything; only its embedding must exist.
        x = F.embedding(windows.reshape(-1), self.embedding.weight)
        x = x.view(*tokens.shape, -1)
        for layer in self.layers:
            x = F.gelu(layer(x))
        return self.norm(self.out(x)), state

    def read(self, tokens: Tensor, lengths: Tensor, state: KGramState | None = None) -> KGramState:
        """The state after tokens (B, T): ids only, no arithmetic."""
        return self._advance(tokens, lengths, state)[1]

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits (..., V) of hidden states (..., D); the head is the embedding,
        transposed.
        """
        return F.linear(hidden, self.embedding.weight[: self.config.vocab_size])

    def _advance(
        self, tokens: Tensor, lengths: Tensor, state: KGramState | None
    ) -> tuple[Tensor, KGramState]:
        """All ids in reach, (B, k - 1 + T), and the state after the real ones."""
        before = self.config.kgram_k - 1
        if state is None:
            nothing = tokens.new_full((len(tokens), before), self.config.vocab_size)
            state = KGramState(nothing, tokens.new_zeros(len(tokens)))
        ids = torch.cat((state.last, tokens), 1)
        newest = lengths[:, None] + torch.arange(before, device=ids.device)
        return ids, KGramState(ids.gather(1, newest), state.lengths + lengths)
