"""The training objective, one pure function per equation (DiffRetouch, section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def noise_loss(noise_pred: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """First term of L_rec: mean squared error of the predicted noise, both (B, 4, h, w) -> scalar."""
    return F.mse_loss(noise_pred, noise)


def pixel_loss(retouched: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Second term of L_rec: mean squared error of the grid's picture D_t to the expert's X_0, both (B, 3, H, W) in
    [-1, 1] -> scalar. Before any clamp, so that clipped pixels keep their gradient."""
    return F.mse_loss(retouched, target)


def published_contrastive_loss(
    scores: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor,
    condition: torch.Tensor,
    temperature: float = 0.1,
) -> torch.Tensor:
    """InfoNCE on attribute scores as published: pull s_i to s_i+ (same c, other noise), push it from s_i- (-c).

    The similarity of two scores, which the paper leaves open, is the negative absolute difference of standardised
    scores. It is blind to direction: s_i only has to differ under -c, so a slider that starts the wrong way round
    stays so. For reproduction; `signed_contrastive_loss` is the default.

    Args:
        scores, positive, negative: standardised scores (B, 4) of the three branches' pictures.
        condition: c (B, 4); attributes with c_i = 0 have no opposite and drop out.
        temperature: tau.
    """
    similarity = torch.stack([-(scores - positive).abs(), -(scores - negative).abs()], dim=-1)  # (B, 4, 2)
    loss = -F.log_softmax(similarity / temperature, dim=-1)[..., 0]
    return _mean_where(loss, condition != 0)


def signed_contrastive_loss(
    scores: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor,
    condition: torch.Tensor,
    pull: float = 0.1,
) -> torch.Tensor:
    """Contrastive loss with a direction: softplus(-c_i (s_i - s_i-)) + pull |s_i - s_i+|.

    Asks for a larger score under +c than under -c, not merely for another one. Arguments as in
    `published_contrastive_loss`; `pull` weighs the positive pair.
    """
    loss = F.softplus(-condition * (scores - negative)) + pull * (scores - positive).abs()
    return _mean_where(loss, condition != 0)


def _mean_where(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (values * mask).sum() / mask.sum().clamp_min(1)
