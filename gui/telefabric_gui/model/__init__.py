"""What the window shows, apart from how it is shown: no widget in here."""
