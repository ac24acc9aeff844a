"""A client without a window, for tests: follows one run, and notes in a file how far it has heard each stream live.

With ``--all`` the file has every event as it came, live or from the store, and `--account` says how the client is.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import identity

from telefabric.feed.broker_feed import BrokerFeed
from telefabric.feed.interface import Connection
from telefabric.keys.saved_connections import address_of

_DRAIN_S = 0.05


def heard_live(path: Path, stream: bytes) -> int:
    """The newest seq of a stream that came live; 0 for none."""
    return max(heard(path, stream), default=0)


def heard(path: Path, stream: bytes) -> list[int]:
    """The seqs of a stream, as they came."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [int(line.partition(" ")[2]) for line in lines if line.startswith(stream.hex() + " ")]


def account(connection: Connection) -> dict[str, object]:
    """`checked`: so often the numbers were right, see `identity`."""
    return {
        "link": connection.link.value, "sentence": connection.sentence, "failures": connection.failures,
        "received": connection.received, "dropped": dict(connection.dropped), "lost": connection.lost_in_transit,
        "checked": identity.deliveries,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("broker")
    parser.add_argument("run")
    parser.add_argument("output", type=Path)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--account", type=Path)
    given = parser.parse_args()
    identity.install()
    follower = BrokerFeed(address_of(given.broker), history_events=None if given.all else 50_000)
    follower.watch(frozenset({given.run}))
    follower.start()
    print("ready", flush=True)
    with given.output.open("a", buffering=1) as output:
        while True:
            update = follower.drain()
            if given.all:
                output.writelines(f"{event.stream_id.hex()} {event.seq}\n" for event in update.events if event.seq)
            else:
                newest = {event.stream_id: event.seq for event in update.events if event.live}
                output.writelines(f"{stream.hex()} {seq}\n" for stream, seq in newest.items())
            if given.account:
                new = given.account.with_suffix(".new")
                new.write_text(json.dumps(account(update.connection)))
                os.replace(new, given.account)
            time.sleep(_DRAIN_S)


if __name__ == "__main__":
    main()
