"""The prediction of peak memory and work of a trial, before anything is loaded, and its verification.

storages.py    counts the live storages of whatever runs under it, by phase and by kind
fakes.py       the model without its weights: tensors that have a shape, a type and no memory
kernels.py     what fused and quantised kernels keep and need, where the fakes cannot show it
steps.py       one trial's load, forward, backward, optimizer step and evaluation under the meter
allocator.py   what the CUDA caching allocator makes of the storages
predict.py     a configuration -> the predicted peak with its parts
"""
