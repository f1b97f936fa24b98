"""All private CPU kernels of torch that this project calls, each with a public fallback.

- Attention that also returns the logarithm of its softmax's sum, and the gradient of it. That
  number is what joins the parts of a prefix; torch's public attention does not return it.
- Products with weights that were packed once. oneDNN packs the weights of a small product anew each
  time, which is most of the time of a product of 16 rows.

bench/README.md says what each gains. On a torch that lacks them the fallbacks do the same.
"""

import torch
from torch import Tensor

_ATEN, _MKLDNN = torch.ops.aten, torch.ops.mkldnn
_FLASH = "_scaled_dot_product_flash_attention_for_cpu"
HAS_ATTENTION = hasattr(_ATEN, _FLASH) and hasattr(_ATEN, f"{_FLASH}_backward")
HAS_PACKED = torch.backends.mkldnn.is_available() and all(
    hasattr(_MKLDNN, name)
    for name in ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
)


def attend_part(
    query: Tensor, keys: Tensor, values: Tensor, shown: Tensor | None = None, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention of queries (B, H, n, d) to keys and values (B, H, m, d).

    Returns outputs (B, H, n, d) and the logarithm of the softmax's sum (B, H, n). shown: added to
    the scores, (n, m) or (B, 1, n, m), 0 or -inf; causal: query i sees keys 0 to i.
    """
    same = query.dtype == keys.dtype == values.dtype
    if HAS_ATTENTION and same and query.device.type == "cpu":
        return _ATEN._scaled_dot_product_flash_attention_for_cpu(
            query, keys, values, 0.0, causal, attn_mask=_mask_for(query, shown)
        )
    scores = _scores(query, keys, shown, causal)
    total = scores.logsumexp(-1)
    return (scores - total[..., None]).exp().to(values.dtype) @ values, total


def attend_part_backward(
    gradient: Tensor, query: Tensor, keys: Tensor, values: Tensor, out: Tensor, total: Tensor,
    shown: Tensor | None, causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, as `attend_part` has them.

    gradient, out: (B, H, n, d) of the outputs, and total (B, H, n), of the softmax over all parts
    that a query attends to: the result is this part's share of the gradient (Dao et al. 2022,
    2205.14135, algorithm 4).
    """
    if HAS_ATTENTION:
        return _ATEN._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, query, keys, values, out, total, 0.0, causal,
            attn_mask=_mask_for(query, shown),
        )
    weights = (_scores(query, keys, shown, causal) - total[..., None]).exp()
    of_weights = gradient @ values.transpose(-1, -2) - (gradient * out).sum(-1, keepdim=True)
    of_scores = weights * of_weights * query.shape[-1] ** -0.5
    of_values = weights.transpose(-1, -2) @ gradient
    return of_scores @ keys, of_scores.transpose(-1, -2) @ query, of_values


def _scores(query: Tensor, keys: Tensor, shown: Tensor | None, causal: bool) -> Tensor:
    """Scores (B, H, n, m), in float32 at least; -inf where a key is not seen."""
    scores = query @ keys.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * query.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf)
    return scores if shown is None else scores + shown


def _mask_for(query: Tensor, shown: Tensor | None) -> Tensor | None:
    """A mask of the type that torch's kernel reads: any other gives wrong sums for float64."""
    return None if shown is None else shown.to(torch.promote_types(query.dtype, torch.float32))


def packed_copy(weight: Tensor, rows: int) -> Tensor | None:
    """A weight (O, I) packed for products of about so many rows; None where it cannot be. Under
    autocast it is packed in bfloat16, and so is cast once instead of for every product.
    """
    if not HAS_PACKED or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    if torch.is_autocast_enabled("cpu"):
        if not _MKLDNN._is_mkldnn_bf16_supported():
            return None
        weight = weight.bfloat16()
    return _MKLDNN._reorder_linear_weight(weight.detach(), rows)


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., I) with a packed weight (O, I), and a bias (O,): (..., O), of the weight's type."""
    bias = None if bias is None else bias.to(packed.dtype)
    return _MKLDNN._linear_pointwise(x.to(packed.dtype), packed, bias, "none", [], "")
