"""The scripts that make a shell ask complete.py."""

import shlex
import sys
from pathlib import Path

HERE = Path(__file__).parent
SHELLS = ("bash", "zsh", "fish")


def write_script(shell: str) -> str:
    """Write the script of a shell, with this Python and this installation in it."""
    text = (HERE / f"completion.{shell}").read_text(encoding="utf-8")
    command = shlex.join([sys.executable, "-I", str(HERE / "complete.py")])
    return text.replace("@COMMAND@", command)
