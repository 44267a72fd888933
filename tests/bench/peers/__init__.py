"""The same work done by others, each as its manual advises for speed. Runs in the peers' environment alone.

Each module has the worker's side, which that system's own command starts, and `enqueue(first, count)`. A task
posts one message and writes that it was sent; where both happen is told by the variables of `work.py`.
"""
