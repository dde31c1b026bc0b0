"""The function, for queues that name it by its module."""


def increment(number: int) -> int:
    return number + 1
