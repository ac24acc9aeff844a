"""Adapters: libraries of environments and trainers as workers. Each is imported by its own name and needs its library."""
