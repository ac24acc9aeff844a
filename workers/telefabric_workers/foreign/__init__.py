"""Lines that other programs write: what they are, and the files that hold them."""
