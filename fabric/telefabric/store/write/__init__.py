"""From batches to rows: one transaction at a time."""
