"""Torch with one thread: threads that spin for each other take their core from the test's own Redis and engine."""

import torch

torch.set_num_threads(1)
