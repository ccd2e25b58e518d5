"""Find the combination of training optimisations that fine-tunes an LLM fastest in given memory."""

__version__ = "0.1.0"
