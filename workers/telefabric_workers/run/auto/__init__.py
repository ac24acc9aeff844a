"""`telefabric run --auto`: an unmodified Python program is recorded, through the libraries that it imports."""
