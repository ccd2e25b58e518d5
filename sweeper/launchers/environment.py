"""The environment of trials: composed, not inherited. What may pass from the caller's is listed here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

PASSED = frozenset(
    "PATH HOME USER LOGNAME SHELL LANG LANGUAGE TZ TERM TMPDIR TEMP TMP PWD VIRTUAL_ENV LD_LIBRARY_PATH "
    "LD_PRELOAD GLIBC_TUNABLES DO_NOT_TRACK TOKENIZERS_PARALLELISM TORCHDYNAMO_DISABLE "
    "HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY http_proxy https_proxy no_proxy all_proxy "
    "SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE".split()
)
"""Variables of the caller that a trial gets: where things are, and how the network is reached."""
PASSED_FAMILIES = (
    *("LC_", "XDG_", "PYTHON", "CONDA_", "COVERAGE_", "SWEEPER_"),
    *("CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "PYTORCH_", "TORCH_", "TRITON_", "BNB_", "BITSANDBYTES_"),
    *("OMP_", "KMP_", "MKL_", "OPENBLAS_", "GOMP_", "NUMEXPR_", "MALLOC_", "ARROW_"),
    *("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_", "SAFETENSORS_"),
    *("MLFLOW_", "AWS_", "AZURE_", "GOOGLE_", "BOTO_"),  # the store of a published model
)
"""Beginnings of further ones. Not among them: what launchers tell the processes of a distributed training
(WORLD_SIZE, RANK, MASTER_ADDR, ACCELERATE_…, OMPI_…, SLURM_…, NCCL_…), which a trial would obey."""


def compose_environment(caller: Mapping[str, str]) -> dict[str, str]:
    """The trials' environment: no telemetry, no tokenizer threads, CUDA untouched by asking for it."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [caller.get("PYTHONPATH")])]
    return {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the numbers that NVML, which says who computes where, gives them
        "BITSANDBYTES_NOWELCOME": "1",
        "TORCHDYNAMO_DISABLE": "1",  # nothing is compiled here; importing the compiler takes seconds
        "OPENBLAS_NUM_THREADS": "1",  # a fork server must have no threads; torch has its own
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait stall on a machine with other work
        **{name: value for name, value in caller.items() if _may_pass(name)},
        "PYTHONPATH": os.pathsep.join(paths),
    }


def _may_pass(name: str) -> bool:
    return name in PASSED or name.startswith(PASSED_FAMILIES)
