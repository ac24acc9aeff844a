"""Keys: who may connect to the services, and as whom. Without keys they listen on loopback, for anybody there."""
