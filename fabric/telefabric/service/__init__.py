"""Running services: child processes and their logs."""
