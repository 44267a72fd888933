"""The scheduler process: `python -m scheduler`."""

from scheduler.process import run_process
from scheduler.service import run_scheduler

if __name__ == "__main__":
    run_process("scheduler", run_scheduler)
