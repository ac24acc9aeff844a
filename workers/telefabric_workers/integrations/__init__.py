"""Adapters: libraries of environments and trainers as workers. Each is imported by its name, and needs its library."""
