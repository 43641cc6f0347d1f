"""Files on disk, and how they are damaged."""


def corrupt_byte(content):
    return content[:-1] + bytes([content[-1] ^ 1])
