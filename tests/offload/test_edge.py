import numpy as np

from sparing.offload import Choice, Gate, Scheme, pool, prepare
from sparing.offload.answers import CONFIDENT, NOTHING_CHOSEN, TOO_SMALL


def test_the_edge_keeps_what_it_is_sure_of_and_makes_payloads_of_the_rest(edge, images):
    pixels = images(40)
    choice = Choice(Scheme.parse("whole:dct16"), 200)
    requests = prepare(edge, Gate(threshold=0.5), choice, pixels)
    probs = edge(pixels).probs
    for request, own in zip(requests, probs, strict=True):
        np.testing.assert_array_equal(request.probs, own)
        wanted = own.max() <= 0.5**0.5
        assert request.offloaded == wanted
        assert (request.payload is not None) == wanted
        assert request.why == ("" if wanted else CONFIDENT)
        assert request.payload is None or len(request.payload) <= 200
    assert 0 < sum(request.offloaded for request in requests) < 40


def test_a_budget_below_the_smallest_payload_leaves_the_edges_answer_and_says_so(edge, images):
    for choice, why in ((None, NOTHING_CHOSEN), (Choice(Scheme.parse("raw:sage"), 5), TOO_SMALL)):
        requests = prepare(edge, Gate(threshold=0), choice, images(3))
        assert [request.why for request in requests] == [why] * 3
        assert all(request.offloaded and request.payload is None for request in requests)


def test_pooling_by_hand():
    server, edge = np.array([[0.5, 0.25, 0.25]]), np.array([[0.1, 0.8, 0.1]])
    np.testing.assert_allclose(pool(server, edge, 0.0), server, rtol=1e-6)
    np.testing.assert_allclose(
        pool(server, edge, 1.0), [[0.05 / 0.275, 0.2 / 0.275, 0.025 / 0.275]], rtol=1e-5
    )
    assert np.isfinite(pool(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), 1.0)).all()
