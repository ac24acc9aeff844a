"""A subscriber's rules: its account of the live path, and live and stored events as one sequence."""
