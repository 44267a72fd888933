"""What each command does; `deploy/cli.py` names them."""
