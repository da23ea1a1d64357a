"""Causal attention as three batched matrix products and a softmax, with its gradient written out.

What CPUs take in bfloat16: the backward of torch's scaled_dot_product_attention is 3 to 9 times slower there.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def attend_by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, scale: float, dropout: float) -> Tensor:
    """q, k and v (B, H, T, D), and what is added to the scores, (T_q, T_k) or (H, T_q, T_k) -> (B, H, T_q, D)."""
    B, H, T_q, _ = q.shape
    if mask.ndim == 3:
        mask = mask.repeat(B, 1, 1)  # (B H, T_q, T_k)
    kept = None
    if dropout:
        kept = torch.empty(B * H, T_q, k.shape[-2], dtype=q.dtype, device=q.device).bernoulli_(1 - dropout)
        kept = kept.div_(1 - dropout)
    y = _Attention.apply(*(t.flatten(0, 1) for t in (q, k, v)), mask, scale, kept)  # flatten: contiguous for bmm
    return y.unflatten(0, (B, H))


class _Attention(torch.autograd.Function):
    """With s = scale q k^T + mask, p = softmax(s), y = (p * kept) v. All of (B H, T, ...)."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, kept: Tensor | None) -> Tensor:
        p = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scale).softmax(-1)
        ctx.save_for_backward(q, k, v, p, kept)
        ctx.scale = scale
        return torch.bmm(p if kept is None else p * kept, v)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, p, kept = ctx.saved_tensors
        dv = torch.bmm((p if kept is None else p * kept).transpose(1, 2), dy)
        dp = torch.bmm(dy, v.transpose(1, 2))
        dp = dp if kept is None else dp.mul_(kept)
        ds = torch._softmax_backward_data(dp, p, -1, p.dtype).mul_(ctx.scale)
        return torch.bmm(ds, k), torch.bmm(ds.transpose(1, 2), q), dv, None, None, None
