import numpy as np
import pytest

from sparing.errors import InputError, ModelError
from sparing.models import from_torch, run

torch = pytest.importorskip("torch", reason="torch is not installed")


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Dropout(0.5), torch.nn.Linear(5, 4))


def as_tensor(values):
    return torch.tensor(np.stack(values), dtype=torch.float32)


def test_a_module_runs_in_evaluation_mode_without_gradients():
    module = network().train()
    model = from_torch(module, as_tensor, name="net", logits=True, batch_size=4)
    x = np.random.default_rng(0).normal(size=(10, 3))
    probs, _ = run(model, list(range(10)), list(x))
    module.train()  # trained on, then used again
    again, _ = run(model, list(range(10)), list(x))
    w1, b1, w2, b2 = (p.detach().numpy() for p in module.parameters())
    logits = (x @ w1.T + b1) @ w2.T + b2
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probs, expected, atol=1e-5)
    np.testing.assert_array_equal(probs, again)


def test_the_digest_is_of_the_weights():
    a, b = (from_torch(network(0), as_tensor, name=n) for n in "ab")
    c = from_torch(network(1), as_tensor, name="c")
    half = from_torch(network(0).to(torch.bfloat16), as_tensor, name="d")
    assert a.digest == b.digest
    assert len({a.digest, c.digest, half.digest}) == 3
    assert from_torch(network(), as_tensor, name="e", digest="v1").digest == "v1"


def test_logits_that_are_not_declared_are_named():
    model = from_torch(network(), as_tensor, name="net")
    with pytest.raises(ModelError, match=r"look like logits|sums to"):
        model([1], [np.full(3, 9.0)])


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match=r"expected a torch.nn.Module, got function"):
        from_torch(as_tensor, as_tensor, name="net")
    with pytest.raises(InputError, match="cannot use the device 'nonsense'"):
        from_torch(network(), as_tensor, name="net", device="nonsense")
