"""The benchmarked function, for queues that refer to it by its module."""


def increment(number: int) -> int:
    return number + 1
