"""Runs tasks in processes of their own: pool, workers, supervision of process trees.

Nothing is imported here, so that a worker process starts without what it doesn't need.
"""
