import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training a router needs torch")

from sparing.errors import InputError  # noqa: E402
from sparing.route.fitting import Settings, fit  # noqa: E402

LATENCIES = np.array([1.0, 4.0])


def problem(m=256, seed=0):
    """Inputs (m, 2): the cheap expert is right where the first is positive, the dear one everywhere."""
    draw = np.random.default_rng(seed)
    inputs = draw.standard_normal((m, 2)).astype(np.float32)
    labels = draw.integers(0, 2, m)
    sure = np.log(np.array([0.02, 0.98], dtype=np.float32))
    said = np.empty((m, 2, 2), dtype=np.float32)
    right = np.stack([inputs[:, 0] > 0, np.ones(m, dtype=bool)], axis=1)
    for expert in (0, 1):
        answer = np.where(right[:, expert], labels, 1 - labels)
        said[np.arange(m), expert, answer] = sure[1]
        said[np.arange(m), expert, 1 - answer] = sure[0]
    return inputs, said, labels, right


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))


def trained(settings, made=None, checkpoint=None, inputs=None, said=None, labels=None):
    if inputs is None:
        inputs, said, labels, _ = problem()
    made = made or network()
    losses = fit(
        made,
        lambda r: inputs[r],
        log_probs=lambda r: said[r],
        labels=labels,
        latencies=LATENCIES,
        settings=settings,
        checkpoint=checkpoint,
    )
    return made, losses


def choices(made, inputs):
    with torch.no_grad():
        return made(torch.from_numpy(inputs)).argmax(dim=1).numpy()


def test_a_trade_off_router_sends_each_sample_where_it_pays():
    inputs, _, _, right = problem()
    made, losses = trained(Settings("trade-off", 0.7, epochs=60, learning_rate=0.02))
    picked = choices(made, inputs)
    # The cheap expert is 3.9 nats worse where it is wrong, which is worth more than its latency.
    assert np.mean(picked == np.where(right[:, 0], 0, 1)) > 0.95
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("trade_off", "everywhere"), [(0.0, 0), (1.0, None)])
def test_the_ends_of_the_trade_off(trade_off, everywhere):
    inputs, _, _, right = problem()
    made, _ = trained(Settings("trade-off", trade_off, epochs=40, learning_rate=0.02))
    picked = choices(made, inputs)
    if everywhere is not None:
        assert (picked == everywhere).all()
    else:
        assert right[np.arange(len(picked)), picked].mean() > 0.97


def test_a_benefit_router_predicts_who_is_right():
    inputs, _, _, right = problem()
    made, _ = trained(Settings(epochs=60, learning_rate=0.02))
    with torch.no_grad():
        chances = torch.sigmoid(made(torch.from_numpy(inputs))).numpy()
    assert np.mean((chances > 0.5) == right) > 0.95


def test_bfloat16_learns_the_same_and_is_not_float32():
    inputs, _, _, right = problem()
    made, losses = trained(Settings(epochs=60, learning_rate=0.02, precision="bfloat16"))
    with torch.no_grad():
        chances = torch.sigmoid(made(torch.from_numpy(inputs))).numpy()
    assert np.mean((chances > 0.5) == right) > 0.95
    assert losses != trained(Settings(epochs=60, learning_rate=0.02))[1]
    assert all(parameter.dtype == torch.float32 for parameter in made.parameters())


def test_an_entropy_router_predicts_the_cheapest_experts_entropy():
    inputs, said, labels, _ = problem()
    flat = inputs[:, 1] > 0
    said[flat, 0] = np.log(0.5)
    made, _ = trained(
        Settings("entropy", epochs=80, learning_rate=0.02), inputs=inputs, said=said, labels=labels
    )
    with torch.no_grad():
        predicted = made(torch.from_numpy(inputs)).numpy()
    sure = -(0.02 * np.log(0.02) + 0.98 * np.log(0.98))
    expected = -np.where(flat, np.log(2), sure)
    assert np.abs(predicted[:, 0] - expected).mean() < 0.1
    assert np.abs(predicted[:, 1]).mean() < 0.1


def test_an_entropy_router_picks_among_the_cheapest_and_the_most_accurate():
    inputs, said, labels, _ = problem()
    # A third expert between the two in cost, which is mostly wrong.
    middle = np.where(np.arange(256)[:, None] % 4 > 0, said[:, 1, ::-1], said[:, 1])
    three = np.stack([said[:, 0], middle, said[:, 1]], axis=1)
    torch.manual_seed(0)
    made = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    fit(
        made,
        lambda rows: inputs[rows],
        log_probs=lambda rows: three[rows],
        labels=labels,
        latencies=np.array([1.0, 2.0, 4.0]),
        settings=Settings("entropy", epochs=60, learning_rate=0.02),
    )
    with torch.no_grad():
        predicted = made(torch.from_numpy(inputs)).numpy()
    assert (predicted[:, 1] < predicted[:, [0, 2]].min(axis=1)).all()


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    settings = Settings("trade-off", 0.8, epochs=2)
    first, losses = trained(settings)
    second, again = trained(settings)
    other, _ = trained(Settings("trade-off", 0.8, epochs=2, seed=1))
    assert losses == again
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first[0].weight, other[0].weight)


def test_a_resumed_training_ends_like_one_that_never_stopped(tmp_path):
    whole, losses = trained(Settings("trade-off", 0.8, epochs=4))
    checkpoint = tmp_path / "training.pt"
    trained(Settings("trade-off", 0.8, epochs=2), checkpoint=checkpoint)
    resumed, later = trained(Settings("trade-off", 0.8, epochs=4), network(seed=9), checkpoint=checkpoint)
    assert later == losses
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    checkpoint = tmp_path / "training.pt"
    trained(Settings(epochs=1), checkpoint=checkpoint)
    with pytest.raises(InputError, match="another training"):
        trained(Settings(epochs=1, seed=3), checkpoint=checkpoint)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    checkpoint = tmp_path / "training.pt"
    checkpoint.write_bytes(content)
    with pytest.raises(InputError, match="damaged checkpoint"):
        trained(Settings(epochs=1), checkpoint=checkpoint)


def test_a_pickle_as_a_checkpoint_runs_nothing(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    checkpoint = tmp_path / "training.pt"
    checkpoint.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="damaged checkpoint"):
        trained(Settings(epochs=1), checkpoint=checkpoint)
    assert not (tmp_path / "ran").exists()


def test_a_loss_that_is_not_finite_stops_the_training():
    inputs, said, labels, _ = problem()
    with pytest.raises(InputError, match="not finite"):
        trained(Settings("trade-off", 0.5, epochs=1), inputs=inputs * np.nan, said=said, labels=labels)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"objective": "trade-off"}, "needs a trade-off"),
        ({"trade_off": 0.5}, "needs a trade-off"),
        ({"objective": "trade-off", "trade_off": 1.5}, "from 0"),
        ({"objective": "speed"}, "unknown objective"),
        ({"epochs": 0}, "epochs must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"temperature": -1.0}, "temperature"),
        ({"precision": "int8"}, "unknown precision"),
    ],
)
def test_settings_out_of_range(values, said):
    with pytest.raises(InputError, match=said):
        Settings(**values)


def test_a_device_that_is_not_there():
    if torch.cuda.is_available():
        pytest.skip("CUDA is there")
    with pytest.raises(InputError, match="cannot train on the device"):
        trained(Settings(epochs=1, device="cuda"))
