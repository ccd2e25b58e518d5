"""The prediction of a trial's peak memory and work before anything is loaded, and what it is held against.

storages.py    counts the live storages of whatever runs under it, by phase and by kind
fakes.py       the model without its weights: tensors that have a shape, a type and no memory
kernels.py     what runs otherwise on fake tensors, as the methods say
steps.py       one trial's load, forward, backward, optimizer step and evaluation under the meter
allocator.py   what the CUDA caching allocator makes of the storages
predict.py     a configuration -> the predicted peak with its parts

Exports nothing: `context.py` is a process of its own that must not load what the others need.
"""
