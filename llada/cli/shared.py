"""Options that several commands share, by the argument that gets them: their names, kinds and help."""

LOADING = "loading"
"""The argument of a command that gets the `llada.checkpoints.released.options.LoadOptions`."""
CHANGES = "changes"
"""The argument of a command that gets the `llada.cli.changes.SamplerChanges`."""

GROUPS: dict[str, dict[str, str]] = {
    CHANGES: {
        "temperature": "of the sampler's draw; 0 takes the most likely token.",
        "steps": "model calls of the sampler for the whole canvas.",
        "block_length": "tokens per block of the sampler.",
        "threshold": "least probability with which the sampler writes several tokens at once.",
    },
    LOADING: {
        "mask": "id or name of the mask token, where a released folder names none or another is wanted.",
        "revision": "branch, tag or commit of a checkpoint on the hub.",
        "adapter": "folder or hub name of a PEFT adapter (LoRA) to be added to the weights.",
        "ignore_config_field": "field of config.json to go on without.",
        "backbone": "NAME=VALUE: argument of the backbone that replaces the configuration's, such as shift=false.",
        "quantise": "nf4, fp4 or int8: keep the matrices of the blocks in 4 or 8 bits (extra quantised).",
    },
}
ALWAYS = {
    "trust": "installed package whose classes a checkpoint may name, and which is imported for it; nothing else is.",
    "config": "YAML file with options.",
}
KINDS = {
    "temperature": "float | None",
    "steps": "int | None",
    "block_length": "int | None",
    "threshold": "float | None",
    "config": "InputFile | None",
}
REPEATABLE = ("ignore_config_field", "backbone", "trust", "config")
