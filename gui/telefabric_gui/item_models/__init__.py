"""Item models over what the controller holds."""
