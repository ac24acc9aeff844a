"""A broker process for tests whose durable subscribers NAME… all have to hold what is acknowledged."""

from __future__ import annotations

import argparse

from telefabric.address import Address
from telefabric.broker.service import Broker
from telefabric.cli.options import on_signals, set_up_logs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("required", nargs="+")
    given = parser.parse_args()
    set_up_logs()
    broker = Broker(Address.parse(given.url), required=given.required)
    on_signals(broker.stop)
    print("ready", broker.address.url, flush=True)
    broker.run()


if __name__ == "__main__":
    main()
