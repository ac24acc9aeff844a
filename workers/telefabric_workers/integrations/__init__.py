"""Adapters: libraries of environments and trainers as workers. Each is imported by name and needs its library."""
