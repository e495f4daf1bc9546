"""Each equation of the training objective on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from diffretouch.training.losses import (
    linear_contrastive_loss,
    min_snr_weights,
    noise_loss,
    pixel_loss,
    published_contrastive_loss,
    signed_contrastive_loss,
)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


ZERO = row(0, 0, 0, 0)
BOTH = pytest.mark.parametrize("loss", [published_contrastive_loss, signed_contrastive_loss])


def test_noise_loss_is_the_mean_squared_error() -> None:
    prediction = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    noise = torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 4, 1, 1)
    assert noise_loss(prediction, noise, torch.ones(1)).item() == pytest.approx((0 + 4 + 9 + 16) / 4)


def test_noise_loss_counts_each_picture_by_its_weight() -> None:
    prediction, noise = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)
    assert noise_loss(prediction, noise, torch.tensor([2.0, 0.5])).item() == pytest.approx((2 * 1 + 0.5 * 9) / 2)


@pytest.mark.parametrize(("prediction_type", "over"), [("epsilon", 0), ("v_prediction", 1)])
def test_min_snr_weights_cap_what_low_noise_counts(prediction_type: str, over: int) -> None:
    # alpha_bar of SNR 1, 4 and 20; min(SNR, 5) over SNR, or over SNR + 1 for the velocity.
    signal = torch.tensor([1 / 2, 4 / 5, 20 / 21], dtype=torch.float64)
    expected = [1 / (1 + over), 4 / (4 + over), 5 / (20 + over)]
    assert min_snr_weights(signal, 5.0, prediction_type).tolist() == pytest.approx(expected)


def test_pixel_loss_is_the_mean_squared_error_and_reaches_clipped_pixels() -> None:
    retouched = torch.tensor([1.5, 0.0, -1.0]).view(1, 3, 1, 1).requires_grad_()
    target = torch.tensor([1.0, 0.5, -1.0]).view(1, 3, 1, 1)
    loss = pixel_loss(retouched, target)
    assert loss.item() == pytest.approx((0.25 + 0.25) / 3)
    loss.backward()
    assert retouched.grad.flatten().tolist() == pytest.approx([2 * 0.5 / 3, -2 * 0.5 / 3, 0])


def test_l1_pixel_loss_is_the_mean_size_of_the_error() -> None:
    retouched, target = (
        torch.tensor([1.5, 0.0, -1.0]).view(1, 3, 1, 1),
        torch.tensor([1.0, 0.7, -1.0]).view(1, 3, 1, 1),
    )
    assert pixel_loss(retouched, target, "l1").item() == pytest.approx((0.5 + 0.7) / 3)


def test_published_loss_is_infonce_over_scores() -> None:
    # One attribute counts: |s - s+| = 0.1, |s - s-| = 0.3, tau = 0.2 -> -log(e^-0.5 / (e^-0.5 + e^-1.5)).
    loss = published_contrastive_loss(row(1, 0, 0, 0), row(1.1, 0, 0, 0), row(0.7, 0, 0, 0), row(1, 0, 0, 0), 0.2)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_published_loss_averages_over_the_attributes_that_count() -> None:
    args = row(1, 1, 5, 5), row(1, 1, 0, 9), row(1, 0, 2, 2)
    # Attribute 0: no difference at all -> log 2. Attribute 1: |s - s-| = 1 at tau 1 -> log(1 + 1/e).
    expected = (math.log(2) + math.log(1 + math.exp(-1))) / 2
    assert published_contrastive_loss(*args, row(1, -0.5, 0, 0), 1.0).item() == pytest.approx(expected)


def test_signed_loss_is_softplus_of_the_difference_plus_the_pull() -> None:
    # c (s - s-) = 0.5 * (2 - 1) -> log(1 + e^-0.5); pull 0.1 * |2 - 2.4|.
    loss = signed_contrastive_loss(row(2, 0, 0, 0), row(2.4, 0, 0, 0), row(1, 0, 0, 0), row(0.5, 0, 0, 0), pull=0.1)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.5)) + 0.04)


@BOTH
def test_attributes_without_an_opposite_drop_out(loss) -> None:
    # Scores lie between the branches': outside, the published form has no gradient anywhere.
    scores = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    positive, negative = torch.full_like(scores, 1.5), torch.full_like(scores, -0.5)
    condition = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, -0.5]], dtype=torch.float64)
    value = loss(scores, positive, negative, condition)
    singles = [
        loss(*(branch[b, i].expand(1, 4) for branch in (scores, positive, negative, condition)))
        for b, i in ((0, 0), (2, 3))
    ]
    assert value.item() == pytest.approx(sum(single.item() for single in singles) / 2)
    value.backward()
    assert (scores.grad != 0).tolist() == (condition != 0).tolist()


@BOTH
def test_a_batch_that_asks_for_nothing_costs_nothing(loss) -> None:
    scores = torch.randn(2, 4).requires_grad_()
    value = loss(scores, torch.randn(2, 4), torch.randn(2, 4), torch.zeros(2, 4))
    assert value.item() == 0
    value.backward()
    assert scores.grad.abs().sum() == 0


@BOTH
def test_the_right_order_with_a_wide_margin_costs_next_to_nothing(loss) -> None:
    condition = row(1, -1, 1, -1)
    assert loss(5 * condition, 5 * condition, -5 * condition, condition).item() < 1e-4


def test_signed_loss_pushes_scores_towards_what_was_asked() -> None:
    scores, negative = ZERO.clone().requires_grad_(), ZERO.clone().requires_grad_()
    condition = row(1, -1, 0.5, -0.5)
    signed_contrastive_loss(scores, ZERO, negative, condition).backward()
    # Descent moves against the gradient: up where c > 0, down where c < 0; the -c branch the other way.
    assert torch.equal(-scores.grad.sign(), condition.sign())
    assert torch.equal(-negative.grad.sign(), -condition.sign())
    assert scores.grad[0, 0].abs() > scores.grad[0, 2].abs()


def test_signed_loss_pulls_the_two_noises_together() -> None:
    positive = row(3, -3, 0, 0).requires_grad_()
    signed_contrastive_loss(ZERO, positive, ZERO, row(1, 1, 1, 1)).backward()
    assert torch.equal(-positive.grad.sign(), row(-1, 1, 0, 0))


def test_published_loss_is_blind_to_direction_and_signed_is_not() -> None:
    """Documented property: a slider that goes the wrong way costs the published form as little as a right one."""
    condition = row(1, 1, 1, 1)
    right, wrong = (condition, condition, -condition, condition), (-condition, -condition, condition, condition)
    assert published_contrastive_loss(*right).item() == pytest.approx(published_contrastive_loss(*wrong).item())
    assert signed_contrastive_loss(*wrong).item() > signed_contrastive_loss(*right).item() + 1


def test_published_loss_drives_a_wrong_slider_further_the_wrong_way() -> None:
    scores = row(-0.2, 0.2, 0, 0).requires_grad_()
    published_contrastive_loss(scores, scores.detach(), ZERO, row(1, 1, 0, 0)).backward()
    assert -scores.grad[0, 0].sign() == -1
    assert -scores.grad[0, 1].sign() == 1


@BOTH
def test_gradients_match_finite_differences(loss) -> None:
    generator = torch.Generator().manual_seed(0)
    branches = [torch.randn(2, 4, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(3)]
    condition = torch.tensor([[1.0, -1, 0, 0.3], [0, 0.7, -0.2, 1]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *b: loss(*b, condition), branches)


@BOTH
def test_the_mean_over_parts_of_a_batch_is_the_loss_of_the_whole(loss) -> None:
    """However unevenly the attributes that count fall on the parts."""
    generator = torch.Generator().manual_seed(1)
    branches = [torch.randn(4, 4, dtype=torch.float64, generator=generator) for _ in range(3)]
    condition = torch.tensor([[1.0, -1, 0.5, 0.3], [0, 0, 0, 0], [0, 0.7, -0.2, 1], [0, 0, 0, 1]], dtype=torch.float64)
    share = (condition != 0).sum() / 2
    parts = [loss(*(b[n::2] for b in branches), condition[n::2], count=share) for n in range(2)]
    assert (sum(parts) / 2).item() == pytest.approx(loss(*branches, condition).item())


# One pair; the second slider moves by 0.5, which stands for 0.5 x 2 = 1 of its score.
MOVED, REACH = row(0, 0.5, 0, 0), row(1, 2, 1, 1)


def linear(
    positive: torch.Tensor, negative: torch.Tensor, scores: torch.Tensor = ZERO, condition: torch.Tensor = ZERO
):
    return linear_contrastive_loss(scores, positive, negative, condition, MOVED, REACH, leak=0.25, pull=0.1).item()


def test_linear_loss_wants_the_slider_to_move_its_score_in_proportion() -> None:
    assert linear(ZERO, row(0, 1, 0, 0)) == 0
    assert linear(row(0, 3, 0, 0), row(0, 4, 0, 0)) == 0  # only the way counts, not where it starts
    assert linear(ZERO, row(0, 0.4, 0, 0)) == pytest.approx(0.5 * 0.6**2)  # Huber: short of it
    assert linear(ZERO, row(0, 3, 0, 0)) == pytest.approx(2 - 0.5)  # and linear beyond 1: too far
    assert linear(ZERO, row(0, -1, 0, 0)) > linear(ZERO, ZERO)  # the wrong way is worst


def test_linear_loss_lets_the_others_move_a_quarter_as_far() -> None:
    assert linear(ZERO, row(0.25, 1, -0.25, 0)) == 0
    assert linear(ZERO, row(0.5, 1, -1, 0)) == pytest.approx(0.25 + 0.75)


def test_linear_loss_pulls_the_noises_together_where_something_is_asked() -> None:
    asked = row(0, 0, 0.3, 0)
    assert linear(ZERO, row(0, 1, 0, 0), scores=row(5, 5, 2, 5), condition=asked) == pytest.approx(0.1 * 2)


def test_linear_loss_averages_over_pairs_or_by_the_count_of_a_whole_batch() -> None:
    pair = (ZERO, ZERO, row(0, 0.4, 0, 0), ZERO, MOVED, REACH)
    two = [torch.cat([value, value]) for value in pair]
    assert linear_contrastive_loss(*two).item() == pytest.approx(linear_contrastive_loss(*pair).item())
    assert linear_contrastive_loss(*pair, count=2).item() == pytest.approx(0.5 * linear_contrastive_loss(*pair).item())
