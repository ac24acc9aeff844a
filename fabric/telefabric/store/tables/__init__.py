"""What the tables of a store hold: their columns, and the rows, places and sums that are made of events."""
