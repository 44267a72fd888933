"""The worker process: `python -m worker`."""

from scheduler.process import run_process
from worker.service import run_worker

if __name__ == "__main__":
    run_process("worker", run_worker)
