"""Names of checkpoint files."""

SUFFIXES = (".safetensors", ".safetensors.index.json", ".pt", ".pth", ".pth.tar", ".bin", ".ckpt")
DESCRIPTION = "merged.json"  # describes a merge with a model per task, whose factors and masks are beside it
