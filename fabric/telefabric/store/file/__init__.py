"""The store's file: its schema and versions, its rights, copies of it, and whether it agrees with itself."""
