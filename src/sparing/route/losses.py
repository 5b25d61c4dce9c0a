"""What a router is trained to minimise. Needs torch."""

import torch
from torch.nn import functional

LOSS_SCALE = 3.0
"""The constant s that cross-entropy is divided by (routing-beats-latency, section 3.5)."""


def straight_through(
    scores: torch.Tensor, temperature: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one expert per sample, with the gradient of the soft draw (Algorithm 1, lines 8 to 12).

    Args:
        scores: shape (m, n), routing logits.
        temperature: tau; the lower, the closer the soft draw is to one expert.
        generator: of the Gumbel noise.

    Returns:
        The draw, shape (m, n), one-hot in value and soft in gradient; and the soft draw, rows summing to 1.
    """
    # Minus the logarithm of an exponential variable is a Gumbel one.
    exponential = torch.empty(scores.shape).exponential_(generator=generator).to(scores.device)
    gumbel = -torch.log(exponential.clamp_min(torch.finfo(exponential.dtype).tiny))
    soft = torch.softmax((scores + gumbel) / temperature, dim=1)
    hard = functional.one_hot(soft.argmax(dim=1), scores.shape[1]).to(soft.dtype)
    return hard - soft.detach() + soft, soft


def trade_off_loss(
    scores: torch.Tensor,
    log_probs: torch.Tensor,
    labels: torch.Tensor,
    latencies: torch.Tensor,
    *,
    trade_off: float,
    temperature: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Weigh the drawn expert's cross-entropy against the expected latency (Algorithm 1, section 3.5).

    Log-probabilities have the same loss and the same gradient as the logits they come from: the two differ
    by a constant per sample and expert, which cross-entropy does not see.

    Args:
        scores: shape (m, n), the router's routing logits.
        log_probs: shape (m, n, C), what each expert says.
        labels: shape (m,), the true classes.
        latencies: shape (n,), what each expert takes, in any unit.
        trade_off: lambda in [0, 1]; 1 for accuracy alone.
        temperature: tau.
        generator: of the Gumbel noise.

    Returns:
        The mean loss, a scalar.
    """
    drawn, soft = straight_through(scores, temperature, generator)
    output = torch.einsum("mn,mnc->mc", drawn, log_probs)
    error = functional.cross_entropy(output, labels) / LOSS_SCALE
    spread = latencies.max() - latencies.min()
    latency = ((soft @ latencies - latencies.min()) / spread).mean() if spread > 0 else soft.sum() * 0
    return trade_off * error + (1 - trade_off) * latency


def benefit_loss(scores: torch.Tensor, correct: torch.Tensor) -> torch.Tensor:
    """Score every expert's chance of being right by its log loss.

    Args:
        scores: shape (m, n), logits of being right.
        correct: shape (m, n), 1 where the expert is right, else 0.

    Returns:
        The mean loss, a scalar.
    """
    return functional.binary_cross_entropy_with_logits(scores, correct)


def entropy_loss(scores: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
    """Score a prediction of the cheapest expert's entropy by its squared error, as the paper's first phase.

    Args:
        scores: shape (m, n); the column of the cheapest expert predicts its negated entropy.
        entropy: shape (m, n), the negated entropy in that column; 0 in that of the most accurate expert, and
            the lowest possible in others, which are never picked then.

    Returns:
        The mean loss, a scalar.
    """
    return functional.mse_loss(scores, entropy)
