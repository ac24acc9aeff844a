"""Demo workers: small tasks that are really learned, with numpy alone."""
