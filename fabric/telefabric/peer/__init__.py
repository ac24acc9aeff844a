"""Connections that a program opens to a broker."""
