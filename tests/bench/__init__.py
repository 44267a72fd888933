"""Measurements: rates printed, never asserted."""
