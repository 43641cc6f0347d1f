"""The transforms that ByzFL's benchmark names, on PIL images and tensors."""

import numpy as np
import torch
from PIL import Image


class Compose:
    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, image):
        for transform in self.transforms:
            image = transform(image)
        return image


class ToTensor:
    """PIL image (H x W or H x W x C, bytes) -> float tensor C x H x W in [0, 1]."""

    def __call__(self, image):
        tensor = torch.from_numpy(np.array(image, np.uint8, copy=True))
        tensor = tensor.view(image.size[1], image.size[0], len(image.getbands()))
        return tensor.permute((2, 0, 1)).contiguous().to(torch.get_default_dtype()).div(255)


class Normalize(torch.nn.Module):
    def __init__(self, mean, std, inplace=False):
        super().__init__()
        self.mean, self.std, self.inplace = mean, std, inplace

    def forward(self, tensor):
        if not self.inplace:
            tensor = tensor.clone()
        mean = torch.as_tensor(self.mean, dtype=tensor.dtype).view(-1, 1, 1)
        std = torch.as_tensor(self.std, dtype=tensor.dtype).view(-1, 1, 1)
        return tensor.sub_(mean).div_(std)


class RandomHorizontalFlip(torch.nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        self.p = p

    def forward(self, image):
        if torch.rand(1) < self.p:
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image


class RandomCrop(torch.nn.Module):
    """Only constructed (when ByzFL is imported, for CIFAR), never called here."""

    def __init__(self, size, padding=None):
        super().__init__()
        self.size, self.padding = size, padding

    def forward(self, image):
        raise NotImplementedError("RandomCrop is not part of this stand-in")
