"""A stacked LSTM (torch's own cell) with tied embeddings."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from src.model.checks import require_bool, require_positive_int
from src.model.linear import TiedEmbedding
from src.model.prefix_sharing.level_by_level import LevelByLevel


@dataclass(frozen=True)
class LSTMConfig:
    """vocab_size: V. block_size: most tokens read (a limit of the data's windows; the cell itself
    has none).
    """

    vocab_size: int
    n_layer: int = 2
    n_embd: int = 128
    block_size: int = 1024
    pointer: bool = False

    def __post_init__(self) -> None:
        require_positive_int(self, "vocab_size", "n_layer", "n_embd", "block_size")
        require_bool(self, "pointer")


class LSTMState(NamedTuple):
    """h, c: (B, n_layer, D); lengths: (B,) real tokens read so far."""

    h: Tensor
    c: Tensor
    lengths: Tensor

    def select(self, rows: Tensor) -> "LSTMState":
        """The state of batch rows `rows` (B',) int64; repeats allowed."""
        rows = torch.as_tensor(rows, dtype=torch.long, device=self.h.device)
        return LSTMState(*(x.index_select(0, rows) for x in self))


class LSTM(LevelByLevel, nn.Module):
    """See src/model/__init__.py for the interface."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.n_embd
        self.embedding = TiedEmbedding(config.vocab_size, config.n_embd)
        self.cell = nn.LSTM(config.n_embd, config.n_embd, config.n_layer, batch_first=True)
        self.norm = nn.RMSNorm(config.n_embd)
        nn.init.normal_(self.embedding.weight, std=config.n_embd**-0.5)
        for name, parameter in self.cell.named_parameters():
            if name.startswith("bias_ih"):
                # Remember by default (Jozefowicz et al. 2015, section 2.2); torch orders the gates
                # i, f, g, o.
                with torch.no_grad():
                    parameter[config.n_embd : 2 * config.n_embd].fill_(1.0)

    def forward(
        self, tokens: Tensor, lengths: Tensor, state: LSTMState | None = None
    ) -> tuple[Tensor, LSTMState]:
        """Read tokens (B, T) after `state`; returns hidden (B, T, D) and the new state."""
        batch, length = tokens.shape
        if state is None:
            empty = self.embedding.weight.new_zeros(batch, self.config.n_layer, self.width)
            state = LSTMState(empty, empty, tokens.new_zeros(batch))
        # A packed sequence holds at least one token: a row of none reads one, and keeps its old
        # state below.
        packed = pack_padded_sequence(
            F.embedding(tokens, self.embedding.weight),
            lengths.clamp_min(1).cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        before = (state.h.transpose(0, 1).contiguous(), state.c.transpose(0, 1).contiguous())
        # Under autocast torch runs cuDNN's LSTM in float16, whatever dtype it was told.
        on_gpu = tokens.device.type == "cuda"
        with torch.autocast("cuda", enabled=False) if on_gpu else nullcontext():
            packed, (h, c) = self.cell(packed, before)
        hidden, _ = pad_packed_sequence(packed, batch_first=True, total_length=length)
        has_read = (lengths > 0)[:, None, None]
        h = torch.where(has_read, h.transpose(0, 1), state.h)
        c = torch.where(has_read, c.transpose(0, 1), state.c)
        return self.norm(hidden), LSTMState(h, c, state.lengths + lengths)

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits (..., V) of hidden states (..., D); the head is the embedding,
        transposed.
        """
        return self.embedding.logits(hidden)
