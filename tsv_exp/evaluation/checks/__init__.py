"""Checks of a configuration before a run or a sweep starts: values, model, tasks, a method on a small example.

Nothing here loads weights or data of a run. Its modules are imported one by one, because only some need torch.
"""
