"""The rules of a connection: silence, waiting times, the broker's clock. No socket, file, thread or clock."""
