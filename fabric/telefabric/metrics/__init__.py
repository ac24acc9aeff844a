"""A service's metrics: its figures, the endpoint that shows them, and the summary in its log."""
