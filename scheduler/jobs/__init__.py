"""The three jobs. A cron tick only wakes them: what is due comes from the log and the watermarks."""
