"""What can be seen: input and output, and no opinion."""
