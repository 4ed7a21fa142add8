"""How many images a device takes at a time, by the memory that is free on it."""

import torch

CPU = 256
MOST = 1024  # beyond it no GPU gets faster
PER_IMAGE = 32 << 20  # bytes: about twice what the largest encoder, ViT-L-14, takes in float32


def batch_size(device: torch.device) -> int:
    """A power of two from 1 to 1024 that fits into the free memory of a GPU; on a CPU 256.

    An estimate to start from: whoever runs out of memory goes on with half of it.
    """
    if device.type != "cuda":
        return CPU
    free, _ = torch.cuda.mem_get_info(device)
    return 1 << (max(1, min(MOST, free // PER_IMAGE)).bit_length() - 1)
