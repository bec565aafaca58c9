"""Write man/: the manual pages and the shells' completions, made from the commands. ``make man`` calls this."""

from __future__ import annotations

from pathlib import Path

from click.shell_completion import get_completion_class

from upswarm.cli import cli
from upswarm.manual import command_page, config_page

ROOT = Path(__file__).parents[1]
SHELLS = {"bash": "upswarm.bash", "zsh": "_upswarm", "fish": "upswarm.fish"}


def pages() -> dict[str, str]:
    """Return what belongs into man/, by path."""
    example = (ROOT / "docs" / "upswarm.example.toml").read_text("utf-8")
    texts = {"upswarm.1": command_page(cli), "upswarm.toml.5": config_page(example)}
    for shell, name in SHELLS.items():
        kind = get_completion_class(shell)
        assert kind is not None, shell
        texts[f"completions/{name}"] = kind(cli, {}, "upswarm", "_UPSWARM_COMPLETE").source().strip() + "\n"
    return texts


def main() -> None:
    """Write them all."""
    for name, text in pages().items():
        path = ROOT / "man" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
