"""Names of checkpoint files."""

SUFFIXES = (".safetensors", ".safetensors.index.json", ".pt", ".pth", ".pth.tar", ".bin", ".ckpt")
