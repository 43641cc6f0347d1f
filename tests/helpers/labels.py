"""Names of test cases, and the form of errors."""

import re


def label(value):
    """What a value is called, without its address in memory: workers must find the same names."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def one_line(error):
    """Whether what was raised has a message, of one line."""
    message = str(error.value)
    return bool(message) and "\n" not in message


def message_of(error) -> str:
    """The message of an error, which must be one line."""
    message = str(error.value)
    assert message and "\n" not in message
    return message
