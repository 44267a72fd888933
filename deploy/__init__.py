"""Puts the parts together and runs them; imported by none of them."""
