"""What to say of what was seen: pure functions."""
