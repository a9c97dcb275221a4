"""Run commands of the command line one after another, as each of two ranks: run_commands.py COMMANDS.json"""

import json
import sys
from pathlib import Path

from llada.cli import main

if __name__ == "__main__":
    for command in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        sys.argv = ["llada", *command]
        if code := main():
            sys.exit(code)
