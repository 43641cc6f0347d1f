"""Attacks through data, and by training, from their papers: pixel after pixel, client after client,
on a plain linear module with autograd."""

import torch
import torch.nn.functional as F
from torch import nn


def patch(image, size, value):
    """A square in the bottom right corner of (channels, height, width)."""
    out = image.clone()
    channels, height, width = image.shape
    for c in range(channels):
        for i in range(height - size, height):
            for j in range(width - size, width):
                out[c, i, j] = value
    return out


def last(example, size, value):
    """The last numbers of (F,)."""
    return torch.stack([
        torch.as_tensor(value, dtype=example.dtype) if i >= len(example) - size else example[i]
        for i in range(len(example))
    ])  # fmt: skip


def bar(image, part, size, gap, shift, value):
    """One of the four bars of DBA on an image: a row of two, `gap` free rows, a row of two."""
    out = image.clone()
    top = shift if part in (0, 1) else shift + 1 + gap
    left = shift if part in (0, 2) else shift + size + gap
    for channel in out:
        for j in range(size):
            channel[top, left + j] = value
    return out


def blend(example, pattern, alpha):
    flat = [(1 - alpha) * a + alpha * b
            for a, b in zip(example.flatten(), pattern.flatten(), strict=True)]  # fmt: skip
    return torch.stack(flat).reshape(example.shape)


def turned(image):
    """By a quarter, against the clock: the right column becomes the top row."""
    out = torch.empty_like(image)
    channels, size, _ = image.shape
    for c in range(channels):
        for i in range(size):
            for j in range(size):
                out[c, i, j] = image[c, j, size - 1 - i]
    return out


class Client:
    """A linear classifier of (F,) examples that sets out from the server's weights, then biases."""

    def __init__(self, start, features, classes, rate):
        self.module = nn.Linear(features, classes, dtype=start.dtype)
        self.fill(start)
        self.start = start.clone()
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=rate)

    def fill(self, vector):
        weights = self.module.weight.numel()
        with torch.no_grad():
            self.module.weight.copy_(vector[:weights].reshape(self.module.weight.shape))
            self.module.bias.copy_(vector[weights:])

    @property
    def parameters(self):
        return torch.cat([self.module.weight.flatten(), self.module.bias])

    @property
    def move(self):
        return (self.parameters - self.start).detach()

    def step(self, x, y, task=1.0, distance=0.0, to=0.0, mask=None):
        """Down task * cross-entropy + distance * |move - to|^2, where the mask is true."""
        self.optimizer.zero_grad()
        away = self.parameters - self.start - to
        (task * F.cross_entropy(self.module(x), y) + distance * (away**2).sum()).backward()
        if mask is not None:
            weights = self.module.weight.numel()
            self.module.weight.grad *= mask[:weights].reshape(self.module.weight.shape)
            self.module.bias.grad *= mask[weights:]
        before = self.move
        self.optimizer.step()
        return self.move - before


def model_replacement(start, batches, classes, alpha, gamma, rate):
    """gamma (X - w) of one client; batches (x, y) are poisoned."""
    client = Client(start, batches[0][0].shape[1], classes, rate)
    for x, y in batches:
        client.step(x, y, alpha, 1 - alpha)
    return gamma * client.move


def edge_case(start, batches, classes, radius, boost, rate):
    client = Client(start, batches[0][0].shape[1], classes, rate)
    for x, y in batches:
        client.step(x, y)
        length = float(client.move.norm())
        if length > radius:
            client.fill(start + client.move * radius / length)
    return boost * client.move


def neurotoxin(start, batches, classes, previous, mask_ratio, boost, max_norm, rate):
    count = int(mask_ratio * len(start)) if previous is not None else 0
    mask = torch.ones_like(start)
    for i in sorted(range(len(start)), key=lambda i: -abs(float(previous[i])) if count else 0):
        if mask.sum() > len(start) - count:
            mask[i] = 0
    client = Client(start, batches[0][0].shape[1], classes, rate)
    for x, y in batches:
        client.step(x, y, mask=mask)
    sent = boost * client.move
    if max_norm is not None and sent.norm() > max_norm:
        sent = sent * max_norm / sent.norm()
    return sent


def alternating_minimisation(start, turns, classes, to, rho, boost, rate):
    """`turns` are (malicious, x, y)."""
    client, sent = Client(start, turns[0][1].shape[1], classes, rate), torch.zeros_like(start)
    for malicious, x, y in turns:
        if malicious:
            sent = sent + boost * client.step(x, y)
        else:
            sent = sent + client.step(x, y, 1.0, rho, to)
    return sent
