"""`python -m sweeper --help`: the verbs, examples and groups."""

from __future__ import annotations

from sweeper.cli.commands import VERBS

TITLE = """\
sweeper finds the combination of training optimisations that fine-tunes your LLM fastest,
in the memory you have, without hurting quality.

"""
STUDIES = {
    "-m KEY=VALUE,VALUE … [KEY=VALUE …]": "sweep: one trial per combination",
    "[KEY=VALUE …]": "one trial",
}
EXAMPLES = """
`python -m sweeper VERB --help` tells more of a verb.

Examples
  python -m sweeper -m lora.r=8,16 optim=adamw,adafactor,bnb8
  python -m sweeper -m quantization=none,int8,nf4 checkpointing=off,on trial.memory_limit_gib=2
  python -m sweeper -m batch.micro=1,2,4,8 batch.effective=16 precision=fp32,bf16
  python -m sweeper -m model=hf model.path=./my-llama data=jsonl data.path=train.jsonl \\
      data.prompt_field=question data.completion_field=answer lora.r=8,16

Groups (take one with GROUP=OPTION, sweep with GROUP=OPTION,OPTION)
"""
HYDRA = """
Hydra's own flags work too: --cfg job shows the composed configuration, --config-dir adds a folder
of your own options, --hydra-help lists the rest.
Exit codes: 0 done, 1 no trial satisfies the rule or the study could not run, 2 a mistake in the
configuration (nothing was run), 130 interrupted (the same command continues).
"""
HIDDEN_OPTIM = "and every optimizer name of transformers"


def print_overview() -> None:
    """Print the help."""
    from sweeper.config.hydra import OPTIMIZERS, groups

    print(TITLE, end="")
    lines = STUDIES | {f"{name} {verb.usage}".strip(): verb.summary for name, verb in VERBS.items()}
    for usage, summary in lines.items():
        print(f"  python -m sweeper {usage:<36} {summary}")
    print(EXAMPLES, end="")
    for name, options in groups().items():
        shown = [option for option in options if name != "optim" or option not in OPTIMIZERS]
        more = f", {HIDDEN_OPTIM}" if name == "optim" else ""
        print(f"  {name:<14} {', '.join(shown)}{more}")
    print(HYDRA, end="")
