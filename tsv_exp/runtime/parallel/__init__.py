"""Parallel work: CPU threads, and the processes of torchrun.

Which device is used is in runtime/devices.py.
"""
