"""The API process: `python -m api`."""

from api.server import run_api
from scheduler.process import run_process

if __name__ == "__main__":
    run_process("api", run_api)
