"""The commands, and where each is."""

COMMANDS = {
    "fit": ("llada.cli.train", "train a model (LightningCLI: YAML, class paths, every Trainer option)"),
    "validate": ("llada.cli.train", "bound on the validation data"),
    "test": ("llada.cli.train", "bound on the test data"),
    "predict": ("llada.cli.train", "fill the masks of prepared canvases"),
    "config": ("llada.cli.config", "configurations that come with the library, to be changed"),
    "check": ("llada.cli.check", "look at a configuration before a second is spent on it"),
    "compare": ("llada.cli.compare", "two runs side by side: what differs, and how they went"),
    "sample": ("llada.cli.sample", "write text, continue prompts, fill gaps"),
    "chat": ("llada.cli.chat", "talk to a model and watch it write"),
    "generate": ("llada.cli.generate", "answer a file of prompts"),
    "serve": ("llada.cli.serve", "a page where one watches the model write, and an API of OpenAI's kind"),
    "score": ("llada.cli.score", "log-likelihood of answers given prompts"),
    "evaluate": ("llada.cli.evaluate", "tasks of the evaluation harness, and LLaDA's published measurements"),
    "reproduce": ("llada.cli.reproduce", "published claims, and what is found when they are tried here"),
    "samplers": ("llada.cli.samplers", "the decoding methods, their arguments and sources"),
    "convert": ("llada.cli.convert", "between checkpoint layouts, and to and from the Trainer's files"),
    "push": ("llada.cli.push", "a checkpoint's folder to the Hugging Face hub, with a model card"),
    "tokenizer": ("llada.cli.tokenizer", "train a tokenizer, or look at one"),
    "completion": ("llada.cli.completion", "a script by which a shell completes commands, options and names"),
}
"""Command -> the module whose ``main(command, arguments)`` runs it, and a line of help."""
SUBCOMMANDS = {"tokenizer": ("train", "show", "extract")}
"""Command -> the functions among which its first word chooses; otherwise it is the function of the command's name."""
EARLY = {"evaluate": "llada.cli.protocols", "score": "llada.cli.score_words"}
"""Command -> the module whose ``answered(options)`` answers what needs no model, before anything slow is imported."""
TRAINERS = ("llada.cli.train", "llada.cli.check")
"""The modules whose commands are not functions but a LightningCLI."""
PLAIN = ("config", "compare", "completion", "push", "reproduce")
"""Commands whose options are text and flags; they take no configuration and need no parser."""
