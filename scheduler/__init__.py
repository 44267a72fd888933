"""Decides when: the calendar, the message log, the broker and the three jobs."""
