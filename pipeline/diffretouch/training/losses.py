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


def pixel_loss(retouched: torch.Tensor, target: torch.Tensor, form: str = "mse") -> torch.Tensor:
    """Second term of L_rec: the grid's picture D_t held to the expert's X_0, both (B, 3, H, W) in [-1, 1] -> scalar.

    Before any clamp, so that clipped pixels keep their gradient. "mse", the mean square, is the paper's; "l1", the
    mean size, counts small differences of colour more, as the eye and CIEDE2000 do.
    """
    return F.mse_loss(retouched, target) if form == "mse" else F.l1_loss(retouched, target)


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


def linear_contrastive_loss(
    scores: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor,
    condition: torch.Tensor,
    moved: torch.Tensor,
    reach: torch.Tensor,
    leak: float = 0.35,
    pull: float = 0.1,
    count: float | None = None,
) -> torch.Tensor:
    """Contrastive loss with a scale: one slider moves, its score has to follow in proportion, the others to stay.

    huber(s_i- - s_i+ - reach_i moved_i) + sum_{j != i} relu(|s_j- - s_j+| - leak |reach_i moved_i|)
    + pull sum_{c_j != 0} |s_j - s_j+|. Where `signed_contrastive_loss` asks for a direction between opposite c,
    this asks for the whole way of each slider, and for nothing else on it.

    Args:
        scores: standardised scores (B, 4) of the regular branch, under c.
        positive: of the positive branch, (B, 4): c, other noise.
        negative: of the negative branch, (B, 4): c + `moved`, the positive branch's noise.
        condition: c (B, 4).
        moved: (B, 4), not 0 in the one slider that moves.
        reach: (B, 4), how much of a score a slider's step of 1 stands for, standardised as the scores.
        leak: how far the others may move along, as a share.
        pull: weighs the positive pair, where c asks for something.
        count: what the sum is divided by, None = B, see `published_contrastive_loss`.
    """
    change, wanted = negative - positive, moved * reach
    own = F.huber_loss(change, wanted, reduction="none") * (moved != 0)
    along = F.relu(change.abs() - leak * wanted.abs().sum(1, keepdim=True)) * (moved == 0)
    apart = pull * (scores - positive).abs() * (condition != 0)
    return (own + along + apart).sum() / (len(scores) if count is None else count)


def _mean_where(values: torch.Tensor, mask: torch.Tensor, count: torch.Tensor | None) -> torch.Tensor:
    return (values * mask).sum() / (mask.sum().clamp_min(1) if count is None else count)
