"""Models: parameters as one flat vector, gradients for many clients at once."""

from benchmark.models.architectures import CNN, MLP, LeNet, Logistic

__all__ = ["CNN", "MLP", "LeNet", "Logistic"]
