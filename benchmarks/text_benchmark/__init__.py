"""How the packaged text benchmark is made: from published packages to one compressed file per task."""
