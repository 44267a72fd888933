"""The API under load: rates and latencies printed, never asserted."""
