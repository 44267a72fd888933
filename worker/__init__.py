"""Delivers: leases batches, renders their messages and hands them to providers."""
