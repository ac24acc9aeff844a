"""TensorBoard's event files as runs."""
