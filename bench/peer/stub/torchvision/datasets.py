"""FashionMNIST (and MNIST, should its files be given) from gzip IDX files.

FASHION_MNIST_DIR / MNIST_DIR: the folders of the *.gz files. As torchvision's
download does, the files are unpacked once to ROOT/<class name>/raw; later
constructions read the unpacked files.
"""

import gzip
import os
import shutil
import tempfile

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset


class MNIST(Dataset):
    source_variable = "MNIST_DIR"
    source_default = "/usr/share/datasets/mnist"

    def __init__(self, root, train=True, transform=None, target_transform=None, download=False):
        self.root = os.fspath(root)
        self.train = train
        self.transform = transform
        self.target_transform = target_transform
        if download:
            self.download()
        part = "train" if train else "t10k"
        self.data = self._read(f"{part}-images-idx3-ubyte")
        self.targets = self._read(f"{part}-labels-idx1-ubyte").long()

    @property
    def raw_folder(self):
        return os.path.join(self.root, type(self).__name__, "raw")

    def download(self):
        """Unpack the .gz files, unless they are there already."""
        source = os.environ.get(self.source_variable, self.source_default)
        os.makedirs(self.raw_folder, exist_ok=True)
        for part, kind in (
            ("train", "images-idx3"),
            ("train", "labels-idx1"),
            ("t10k", "images-idx3"),
            ("t10k", "labels-idx1"),
        ):
            name = f"{part}-{kind}-ubyte"
            target = os.path.join(self.raw_folder, name)
            if os.path.isfile(target):
                continue
            # Two workers may come here at once: write aside, then rename.
            with (
                gzip.open(os.path.join(source, name + ".gz"), "rb") as packed,
                tempfile.NamedTemporaryFile(dir=self.raw_folder, delete=False) as out,
            ):
                shutil.copyfileobj(packed, out)
            os.replace(out.name, target)

    def _read(self, name):
        """One IDX file of unsigned bytes as a uint8 tensor."""
        with open(os.path.join(self.raw_folder, name), "rb") as file:
            raw = file.read()
        if raw[:3] != b"\x00\x00\x08":
            raise ValueError(f"{name}: not an IDX file of unsigned bytes")
        dims = raw[3]
        shape = np.frombuffer(raw, dtype=">u4", count=dims, offset=4).astype(int)
        flat = np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * dims)
        return torch.from_numpy(flat.reshape(shape).copy())

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        image, target = self.data[index], int(self.targets[index])
        image = Image.fromarray(image.numpy())  # uint8, two axes: mode "L"
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target


class FashionMNIST(MNIST):
    source_variable = "FASHION_MNIST_DIR"
    source_default = "/usr/share/datasets/fashion-mnist"
