"""A link that loses packets: two TUN devices, one in a network namespace, and a thread that passes packets on.

For kernels without netem. Needs root on Linux.
"""

import fcntl
import heapq
import os
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

NEAR, FAR = "10.213.7.1", "10.213.7.2"
_TUNSETIFF, _IFF_TUN_NO_PI = 0x400454CA, 0x1001


def reason_against() -> str:
    """Say why there can be no such link here; empty if there can."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return "it needs root on Linux, and the command ip"
    return "" if os.access("/dev/net/tun", os.R_OK | os.W_OK) else "there is no /dev/net/tun"


@contextmanager
def lossy_link(*, loss: float, delay: float, rate: float, seed: int = 0) -> Iterator[tuple[list[str], dict]]:
    """Make a link from this namespace (NEAR) to another one (FAR).

    Args:
        loss: share of packets lost, each way.
        delay: seconds each way.
        rate: bits per second, each way.
        seed: of the losses.

    Yields:
        The command prefix that runs something at the far end, and counts of packets passed and lost.
    """
    number = os.getpid() % 10000
    name, devices = f"sparing{number}", (f"sp{number}a", f"sp{number}b")
    ends = [_tun(device) for device in devices]
    ip = shutil.which("ip") or "ip"
    inside = [ip, "netns", "exec", name]
    commands = [
        [ip, "netns", "add", name],
        [ip, "link", "set", devices[1], "netns", name],
        [ip, "addr", "add", NEAR, "peer", FAR, "dev", devices[0]],
        [ip, "link", "set", devices[0], "up"],
        [*inside, ip, "addr", "add", FAR, "peer", NEAR, "dev", devices[1]],
        [*inside, ip, "link", "set", devices[1], "up"],
    ]
    counts = {"passed": 0, "lost": 0}
    stop = threading.Event()
    pump = threading.Thread(target=_pump, args=(ends, loss, delay, rate, seed, counts, stop), daemon=True)
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)
        pump.start()
        yield inside, counts
    finally:
        stop.set()
        if pump.is_alive():
            pump.join()
        for end in ends:
            os.close(end)  # the devices go with them
        subprocess.run([ip, "netns", "del", name], check=False, capture_output=True)


def _tun(device: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN_NO_PI))
    return end


def _pump(
    ends: list[int],
    loss: float,
    delay: float,
    rate: float,
    seed: int,
    counts: dict[str, int],
    stop: threading.Event,
) -> None:
    rng = np.random.default_rng(seed)
    flying: list[tuple[float, int, int, bytes]] = []
    free = dict.fromkeys(ends, 0.0)
    serial = 0
    while not stop.is_set():
        wait = max(flying[0][0] - time.monotonic(), 0.0) if flying else 0.1
        readable, _, _ = select.select(ends, [], [], min(wait, 0.1))
        now = time.monotonic()
        for end in readable:
            try:
                packet = os.read(end, 65536)
            except BlockingIOError:
                continue
            if rng.random() < loss:
                counts["lost"] += 1
                continue
            counts["passed"] += 1
            free[end] = max(free[end], now) + 8 * len(packet) / rate
            serial += 1
            heapq.heappush(flying, (free[end] + delay, serial, ends[1 - ends.index(end)], packet))
        while flying and flying[0][0] <= now:
            _, _, end, packet = heapq.heappop(flying)
            try:
                os.write(end, packet)
            except OSError:
                counts["lost"] += 1  # the device's queue is full, or it is down
