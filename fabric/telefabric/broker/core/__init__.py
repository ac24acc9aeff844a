"""The broker's rules: no socket, file, thread or clock. `broker/service.py` drives them."""
