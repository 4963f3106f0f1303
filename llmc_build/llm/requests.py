"""What a model can't answer.

Owns the error that every part of answering a request raises; what it means for a batch is `engine`'s.
"""


class RequestError(Exception):
    """The request can't be answered by this model.  One line."""
