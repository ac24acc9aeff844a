"""The store's rules: no socket, file, thread or clock."""
