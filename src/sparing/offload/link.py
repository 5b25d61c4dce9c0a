"""A simulated uplink, for evaluation without a network."""

from dataclasses import dataclass
from math import inf

import numpy as np

from sparing.errors import InputError

PACKET_BITS = 8 * 1500


@dataclass(frozen=True)
class Link:
    """A link that serialises bits at a rate, delays them, and loses packets, which are sent again.

    Attributes:
        bits_per_second: rate of the uplink; infinite by default.
        latency: seconds in each direction.
        loss: probability that a packet of 1,500 bytes or less is lost, in [0, 1).

    Raises:
        InputError: a number is out of range.
    """

    bits_per_second: float = inf
    latency: float = 0.0
    loss: float = 0.0

    def __post_init__(self) -> None:
        if not (self.bits_per_second > 0 and 0 <= self.latency < inf and 0 <= self.loss < 1):
            raise InputError(
                "a link needs a rate above 0, a latency from 0 up and a loss in [0, 1), "
                f"got {self.bits_per_second}, {self.latency} and {self.loss}"
            )

    def seconds(self, bits: int, rng: np.random.Generator) -> float:
        """Draw how long a request and its short answer take.

        A lost packet is noticed one round trip after it was sent, and sent again; a lost answer makes the
        last packet be sent again. The answer's own bits take no time.

        Args:
            bits: of the request.
            rng: decides what is lost.

        Returns:
            Seconds from the first bit sent to the answer's arrival, without the server's own time.
        """
        packets = max(-(-bits // PACKET_BITS), 1)
        # Geometric: how often each packet is sent until it arrives; the answer is one packet more.
        sent = (
            rng.geometric(1 - self.loss, size=packets + 1) if self.loss else np.ones(packets + 1, dtype=int)
        )
        again = int((sent - 1).sum())
        serialised = bits / self.bits_per_second * (1 + again / packets)
        return float(serialised + 2 * self.latency * (1 + again))
