"""What the views share: the cursor in a run's time, and the data of the whole run. No widgets."""
