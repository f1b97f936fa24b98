"""A stacked LSTM (torch's own cell) with tied embeddings."""

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        # cuDNN brings the weights together at every call, and says so at the first.
        warnings.filterwarnings("ignore", message="RNN module weights are not part of")
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
        if state is None:
            empty = self.embedding.weight.new_zeros(len(tokens), self.config.n_layer, self.width)
            state = LSTMState(empty, empty, tokens.new_zeros(len(tokens)))
        hidden = F.embedding(tokens, self.embedding.weight)
        padding = torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None]
        padding = padding[..., None].to(hidden)
        ends = (lengths - 1).clamp_min(0)[:, None, None].expand(-1, 1, self.width)
        has_read = (lengths > 0)[:, None]
        h, c = [], []
        # In float32 under autocast too: there torch runs cuDNN's LSTM in float16, whatever dtype it
        # was told.
        with torch.autocast(tokens.device.type, enabled=False):
            for layer in range(self.config.n_layer):
                h_before, c_before = state.h[:, layer], state.c[:, layer]
                hidden, _, c_after = torch.lstm(
                    torch.cat((hidden, padding), -1),
                    (h_before[None].contiguous(), c_before[None].contiguous()),
                    self._weights(layer), True, 1, 0.0, self.training, False, True,
                )
                h.append(torch.where(has_read, hidden.gather(1, ends)[:, 0], h_before))
                c.append(c_after[0])
        state = LSTMState(torch.stack(h, 1), torch.stack(c, 1), state.lengths + lengths)
        return self.norm(hidden), state

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits (..., V) of hidden states (..., D); the head is the embedding,
        transposed.
        """
        return self.embedding.logits(hidden)

    def _weights(self, layer: int) -> list[Tensor]:
        """Weights and biases of a layer, with one more input that is 1 where a token is padding.

        It shuts the input gate and opens the forget gate (the first two of torch's i, f, g, o), so
        that padding leaves the cell state as it was. oneDNN's LSTM takes whole rows only; it is two
        to four times as fast, forward and backward, as the packed sequences that torch computes
        gate by gate.
        """
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(self.cell, f"{name}_l{layer}") for name in names]
        shut, opened, untouched = (weights[0].new_full((self.width, 1), x) for x in (-100, 100, 0))
        hold = torch.cat((shut, opened, untouched, untouched))
        return [torch.cat((weights[0], hold), 1), *weights[1:]]
