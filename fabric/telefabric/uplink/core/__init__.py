"""The rules of one stream towards its broker: no socket, file, thread or clock."""
