"""Files with one owner: locks, and rights."""
