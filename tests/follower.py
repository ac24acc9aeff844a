"""A client without a window, for tests: follows one run, and notes in a file how far it has heard each stream live."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import identity

from telefabric.address import Address
from telefabric.feed.broker_feed import BrokerFeed

_DRAIN_S = 0.05


def heard_live(path: Path, stream: bytes) -> int:
    """The newest seq of a stream that came live; 0 for none."""
    lines = path.read_text().splitlines() if path.exists() else []
    seqs = [int(line.partition(" ")[2]) for line in lines if line.startswith(stream.hex() + " ")]
    return max(seqs, default=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("run")
    parser.add_argument("output", type=Path)
    given = parser.parse_args()
    identity.install()
    follower = BrokerFeed(Address.parse(given.url))
    follower.watch(frozenset({given.run}))
    follower.start()
    print("ready", flush=True)
    with given.output.open("a", buffering=1) as output:
        while True:
            newest = {event.stream_id: event.seq for event in follower.drain().events if event.live}
            output.writelines(f"{stream.hex()} {seq}\n" for stream, seq in newest.items())
            time.sleep(_DRAIN_S)


if __name__ == "__main__":
    main()
