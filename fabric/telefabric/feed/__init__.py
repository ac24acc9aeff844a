"""What a client is shown: runs and their events, of a broker or of a store file."""
