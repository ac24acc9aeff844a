"""What a service tells of itself: figures, the endpoint that shows them, the summary in its log."""
