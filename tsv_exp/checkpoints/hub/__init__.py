"""The Hugging Face hub: downloads that resume, and one-line error messages.

Uploads are in merge_files/records/.
"""
