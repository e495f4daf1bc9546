"""The training objective, one pure function per equation (DiffRetouch, section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def noise_loss(noise_pred: torch.Tensor, noise: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """First term of L_rec: mean squared error of the predicted noise, both (B, 4, h, w) -> scalar.

    `weights` (B,) counts each picture; all ones = the paper's.
    """
    return (weights * (noise_pred - noise).square().flatten(1).mean(1)).mean()


def min_snr_weights(alphas_cumprod: torch.Tensor, gamma: float, prediction_type: str) -> torch.Tensor:
    """Min-SNR-gamma (Hang et al. 2023, section 3.4) at signal levels alpha_bar (B,) -> (B,).

    min(SNR, gamma) counts z_0's error; an error in the noise is SNR times as large, one in the velocity SNR + 1 times.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return snr.clamp_max(gamma) / (snr + 1 if prediction_type == "v_prediction" else snr)


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
    count: torch.Tensor | None = None,
) -> torch.Tensor:
    """InfoNCE on attribute scores as published: pull s_i to s_i+ (same c, other noise), push it from s_i- (-c).

    The similarity of two scores, which the paper leaves open, is the negative absolute difference of standardised
    scores. It is blind to direction: s_i only has to differ under -c, so a slider that starts the wrong way round
    stays so. For reproduction; `signed_contrastive_loss` is the default.

    Args:
        scores, positive, negative: standardised scores (B, 4) of the three branches' pictures.
        condition: c (B, 4); attributes with c_i = 0 have no opposite and drop out.
        temperature: tau.
        count: what the sum is divided by, None = the number of c_i that are not 0. Where a batch is worked through in
            parts, a part's share of the whole batch's number, so that the parts' mean is the whole batch's loss.
    """
    similarity = torch.stack([-(scores - positive).abs(), -(scores - negative).abs()], dim=-1)  # (B, 4, 2)
    loss = -F.log_softmax(similarity / temperature, dim=-1)[..., 0]
    return _mean_where(loss, condition != 0, count)


def signed_contrastive_loss(
    scores: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor,
    condition: torch.Tensor,
    pull: float = 0.1,
    count: torch.Tensor | None = None,
) -> torch.Tensor:
    """Contrastive loss with a direction: softplus(-c_i (s_i - s_i-)) + pull |s_i - s_i+|.

    Asks for a larger score under +c than under -c, not merely for another one. Arguments as in
    `published_contrastive_loss`; `pull` weighs the positive pair.
    """
    loss = F.softplus(-condition * (scores - negative)) + pull * (scores - positive).abs()
    return _mean_where(loss, condition != 0, count)


def _mean_where(values: torch.Tensor, mask: torch.Tensor, count: torch.Tensor | None) -> torch.Tensor:
    return (values * mask).sum() / (mask.sum().clamp_min(1) if count is None else count)
