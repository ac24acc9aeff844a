"""Questions to a store and their answers, from its file or over the network."""
