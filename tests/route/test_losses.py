import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training a router needs torch")

from sparing.route.losses import benefit_loss, entropy_loss, straight_through, trade_off_loss  # noqa: E402


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def case(m=64, n=3, classes=5, seed=0):
    made = generator(seed)
    logits = torch.randn(m, n, classes, generator=made) * 3
    scores = torch.randn(m, n, generator=made).requires_grad_()
    labels = torch.randint(classes, (m,), generator=made)
    return scores, logits, labels, torch.tensor([2.14, 10.59, 7.56])


def loss(scores, outputs, labels, latencies, trade_off, seed=1):
    return trade_off_loss(
        scores, outputs, labels, latencies, trade_off=trade_off, temperature=1.0, generator=generator(seed)
    )


def test_the_draw_is_one_hot_in_value_and_soft_in_gradient():
    scores = torch.randn(50, 3, generator=generator()).requires_grad_()
    drawn, soft = straight_through(scores, 0.7, generator(1))
    torch.testing.assert_close(drawn.sum(dim=1), torch.ones(50))
    assert ((drawn.detach() - drawn.detach().round()).abs() < 1e-6).all()
    weights = torch.randn(50, 3, generator=generator(2))
    (by_draw,) = torch.autograd.grad((drawn * weights).sum(), scores, retain_graph=True)
    (by_soft,) = torch.autograd.grad((soft * weights).sum(), scores)
    torch.testing.assert_close(by_draw, by_soft)
    assert by_draw.abs().sum() > 0


def test_experts_are_drawn_as_often_as_their_softmax_says():
    # The Gumbel-max theorem, whatever the temperature.
    scores = torch.log(torch.tensor([[0.6, 0.3, 0.1]])).expand(40_000, 3)
    drawn, _ = straight_through(scores, 0.5, generator())
    np.testing.assert_allclose(drawn.mean(dim=0).numpy(), [0.6, 0.3, 0.1], atol=0.01)


@pytest.mark.parametrize("trade_off", [0.0, 0.7, 1.0])
def test_the_loss_is_algorithm_1_by_hand(trade_off):
    scores, logits, labels, latencies = case()
    # Algorithm 1 written down again in numpy, with the same noise.
    exponential = torch.empty(scores.shape).exponential_(generator=generator(1)).numpy().astype(np.float64)
    noisy = scores.detach().numpy() - np.log(exponential)
    soft = np.exp(noisy) / np.exp(noisy).sum(axis=1, keepdims=True)
    picked = logits.numpy()[np.arange(64), soft.argmax(axis=1)].astype(np.float64)
    log_probs = picked - np.log(np.exp(picked).sum(axis=1, keepdims=True))
    error = -log_probs[np.arange(64), labels.numpy()].mean() / 3.0
    latency = ((soft @ np.array([2.14, 10.59, 7.56]) - 2.14) / 8.45).mean()
    expected = trade_off * error + (1 - trade_off) * latency
    assert loss(scores, logits, labels, latencies, trade_off).item() == pytest.approx(expected, rel=1e-5)


def test_log_probabilities_give_the_loss_and_the_gradient_of_the_live_logits():
    scores, logits, labels, latencies = case()
    live = loss(scores, logits, labels, latencies, 0.8)
    stored = loss(scores, torch.log_softmax(logits, dim=2), labels, latencies, 0.8)
    assert stored.item() == pytest.approx(live.item(), rel=1e-6)
    (from_live,) = torch.autograd.grad(live, scores)
    (from_stored,) = torch.autograd.grad(stored, scores)
    torch.testing.assert_close(from_stored, from_live, rtol=1e-4, atol=1e-7)


def test_only_proportions_of_latencies_matter_and_equal_ones_cost_nothing():
    scores, logits, labels, latencies = case()
    in_ms = loss(scores, logits, labels, latencies, 0.5)
    in_seconds = loss(scores, logits, labels, latencies / 1000, 0.5)
    assert in_seconds.item() == pytest.approx(in_ms.item(), rel=1e-5)
    equal = loss(scores, logits, labels, torch.ones(3), 0.5)
    assert equal.item() == pytest.approx(0.5 * loss(scores, logits, labels, latencies, 1.0).item(), rel=1e-5)


def test_benefit_and_entropy_losses_by_hand():
    scores = torch.tensor([[0.0, 2.0], [-1.0, 0.5]])
    right = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    chances = 1 / (1 + np.exp(-scores.numpy()))
    log_loss = -np.where(right.numpy() > 0, np.log(chances), np.log(1 - chances)).mean()
    assert benefit_loss(scores, right).item() == pytest.approx(log_loss, rel=1e-6)
    assert entropy_loss(scores, right).item() == pytest.approx((1 + 4 + 1 + 0.25) / 4)
