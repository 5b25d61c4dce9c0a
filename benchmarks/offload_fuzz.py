"""Fuzz the reader of payloads: mutated payloads, then, with --coverage, a coverage-guided fuzzer (atheris).

Every input must come back as evidence or as one clear `InputError` (over HTTP a 400), quickly, within a limit
on memory.

    python benchmarks/offload_fuzz.py --count 100000
    python benchmarks/offload_fuzz.py --coverage --count 200000
"""

import argparse
import resource
import sys
import time
from collections import Counter

import numpy as np

from sparing.errors import InputError
from sparing.offload import EdgeOutput, Geometry, Scheme
from sparing.offload.payload import CODECS, unpack

GEOMETRY = Geometry(32, 32, 4)
SCHEMES = ["raw:sage", "raw:grid:3", *(f"whole:{codec}" for codec in CODECS), "whole:webp:4", "whole:dct8:3",
           *(f"mosaic:sage:9:{codec}" for codec in CODECS)]  # fmt: skip


def seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    pixels = np.clip(np.cumsum(rng.normal(0, 20, (4, 32, 32, 3)), axis=1) + 128, 0, 255).astype(np.uint8)
    seen = EdgeOutput(rng.normal(size=(4, 3)), rng.random((4, 64)), rng.normal(size=(4, 64, 8)))
    found = []
    for text in SCHEMES:
        for payloads in Scheme.parse(text).encode(pixels, seen, GEOMETRY, [120, 400, 1500]):
            found += [payload for payload in payloads if payload is not None]
    return found


def mutate(payload: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(payload)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(data) + 1))
        match rng.integers(0, 6):
            case 0 if data:
                data[at % len(data)] ^= 1 << int(rng.integers(0, 8))
            case 1 if data:
                data[at % len(data)] = int(rng.integers(0, 256))
            case 2:
                del data[at:]
            case 3:
                data[at:at] = rng.bytes(int(rng.integers(1, 30)))
            case 4:
                del data[at : at + int(rng.integers(1, 30))]
            case _:
                data[at:at] = bytes(data[: int(rng.integers(0, 60))])
    return bytes(data)


def try_one(data: bytes) -> str:
    try:
        evidence = unpack(data, GEOMETRY)
    except InputError as error:
        return "refused: " + " ".join(str(error).split()[:5]).rstrip("0123456789")
    k = len(evidence.positions)
    if not (
        1 <= k <= 64 and evidence.patches.shape == (k, 4, 4, 3) and (np.diff(evidence.positions) > 0).all()
    ):
        raise AssertionError(f"inconsistent evidence from {data.hex()}")
    return "read"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--memory", type=int, default=3000, help="limit on the address space, MB")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = seeds()
    for payload in start:
        if try_one(payload) != "read":
            raise AssertionError("a seed was refused")
    resource.setrlimit(resource.RLIMIT_AS, (args.memory << 20, args.memory << 20))
    if args.coverage:
        cover(start, args)
        return
    rng = np.random.default_rng(args.seed)
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for _ in range(args.count):
        data = mutate(start[rng.integers(0, len(start))], rng)
        began = time.perf_counter()
        outcomes[try_one(data)] += 1
        slowest = max(slowest, time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{args.count} mutated payloads from {len(start)} seeds: {outcomes['read']} read, "
        f"{args.count - outcomes['read']} refused with a message; slowest {1000 * slowest:.0f} ms, "
        f"peak memory {peak:.0f} MB (limit {args.memory} MB)"
    )
    for outcome, count in outcomes.most_common(12):
        print(f"  {count:7d}  {outcome}")


def cover(start: list[bytes], args: argparse.Namespace) -> None:
    import tempfile
    from pathlib import Path

    import atheris

    atheris.instrument_func(unpack)
    for name in ("payload", "indices", "containers", "dct"):
        module = sys.modules[f"sparing.offload.{name}"]
        for key, value in list(vars(module).items()):
            if getattr(value, "__module__", "") == module.__name__ and type(value).__name__ == "function":
                setattr(module, key, atheris.instrument_func(value))
    with tempfile.TemporaryDirectory() as corpus:
        for number, payload in enumerate(start):
            (Path(corpus) / str(number)).write_bytes(payload)
        options = [f"-runs={args.count}", "-timeout=5", "-max_len=4096", "-rss_limit_mb=3000", "-verbosity=1",
                   "-print_final_stats=1", f"-seed={args.seed + 1}", corpus]  # fmt: skip
        atheris.Setup([sys.argv[0], *options], lambda data: try_one(data) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
