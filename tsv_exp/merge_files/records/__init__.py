"""Records of a merge: measures, summary, model card, metadata, upload.

The merge itself is in merge_files/.
"""
