"""Import of logs of JSON lines."""
