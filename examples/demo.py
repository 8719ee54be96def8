"""What kdserve does, then how to make a student of one's own, on the texts that ship with it. Run it with `make demo`.

Every step is a command that you can type yourself; it is printed before it runs. What it writes goes to out/demo.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
OUT = Path("out/demo")
DOCUMENTS = "kdserve/samples/documents.jsonl"
QUESTIONS = (
    "How do bees help plants?",
    "Comment préparer l'arrivée d'un chat ?",
    "Wie koche ich Muscheln?",
    "パスワードを安全に守るには",
)


def main() -> None:
    started = time.monotonic()
    shutil.rmtree(ROOT / OUT, ignore_errors=True)
    step("The models that come with a checkout")
    run("models")
    step("72 documents in 12 languages are indexed")
    run("index", "build", DOCUMENTS, "--bundle", "kdserve-base", "--out", OUT / "index")
    step("A question in German, hits in other languages: the nearest sentence of each is in bold in a terminal")
    run("search", OUT / "index", "Wie lagert man Brot, damit es frisch bleibt?", "-k", "3")
    step("English, French, German and Japanese questions; the sentences that answer, in whatever language")
    (ROOT / OUT / "questions.txt").write_text("\n".join(QUESTIONS), encoding="utf-8")
    run("search", OUT / "index", "-", "--answer", "-k", "1", typed=OUT / "questions.txt")
    step("Now one of your own: distilled from all-MiniLM-L6-v2, an English teacher, over 320 sentences in 11 languages")
    run("distill", "examples/recipes/demo.toml", "--out", OUT / "student")
    step("It becomes a quantised ONNX bundle, checked against the student in every language")
    run("export", OUT / "student", "--precision", "int8", "--out", OUT / "bundle")
    step("Beside the published one of its kind, which saw 1.6 million pairs: quality, size, speed")
    print("(The sample's translations are what the demo learned from; only the queries are new to both.)")
    run("bench", OUT / "bundle", "kdserve-static", "--threads", "1", "--rounds", "1", "--batch-sizes", "1,32")
    print(f"\nDone in {time.monotonic() - started:.0f} s. Next, try:\n")
    print(f"  source .venv/bin/activate\n  kdserve search {OUT}/index     # and ask, in any of 42 languages")
    print("  kdserve index build your-folder/ --out my-index\n  kdserve distill --help")


def step(title: str) -> None:
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n== {title}", flush=True)


def run(*arguments: str | Path, typed: Path | None = None) -> None:
    """Run a command; the file `typed` is its standard input."""
    words = [str(argument) for argument in arguments]
    print(f"$ kdserve {shlex.join(words)}{f' < {typed}' if typed else ''}", flush=True)
    command = [sys.executable, "-m", "kdserve.cli", *words]
    lines = (ROOT / typed).read_text(encoding="utf-8") if typed else None
    result = subprocess.run(command, cwd=ROOT, check=False, input=lines, text=True)
    if result.returncode:
        sys.exit(f"the demo stopped: kdserve {words[0]} ended with {result.returncode}")


if __name__ == "__main__":
    main()
