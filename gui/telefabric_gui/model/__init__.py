"""What the views show, without widgets."""
