"""The large libraries for programs that are forks, loaded without garbage collection: it takes a third of the time."""

import atexit
import gc

gc.disable()
import hydra  # noqa: E402, F401
import matplotlib.pyplot  # noqa: E402, F401
import open_clip  # noqa: E402, F401
import sklearn.metrics  # noqa: E402, F401
import torch  # noqa: E402, F401
import transformers  # noqa: E402, F401

gc.freeze()  # forks do not look through all this either
gc.enable()
atexit.register(gc.unfreeze)  # some libraries print a page about objects that are not collected
