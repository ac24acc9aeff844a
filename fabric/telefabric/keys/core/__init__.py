"""The rules of tickets, roles and the registry, without input and output."""
