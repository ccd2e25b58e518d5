"""What of the caller's environment reaches a trial."""

from sweeper.launchers.environment import compose_environment

DISTRIBUTED = (
    "WORLD_SIZE RANK LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID SLURM_PROCID "
    "OMPI_COMM_WORLD_SIZE PMI_SIZE ACCELERATE_GRADIENT_ACCUMULATION_STEPS FSDP_VERSION"
).split()


def test_no_launcher_of_distributed_training_reaches_a_trial() -> None:
    made = compose_environment(dict.fromkeys(DISTRIBUTED, "4"))
    assert not made.keys() & set(DISTRIBUTED)


def test_what_the_machine_and_the_user_set_does() -> None:
    asked = {
        "PATH": "/bin", "HOME": "/home/a", "HF_HOME": "/hub", "HF_TOKEN": "t", "CUDA_VISIBLE_DEVICES": "1",
        "OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE", "https_proxy": "http://p", "LC_ALL": "C",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "MLFLOW_TRACKING_URI": "sqlite:///x.db",
    }  # fmt: skip
    made = compose_environment({**asked, "PYTHONPATH": "/mine"})
    assert asked.items() <= made.items()
    assert made["PYTHONPATH"].endswith(":/mine") and made["TOKENIZERS_PARALLELISM"] == "false"
