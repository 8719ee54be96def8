"""The whole road on the sample corpus: distil, export, index, search, compare. Run it with `make demo`.

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
QUERIES = (
    ("German, answered in other languages", "Wie lagert man Brot, damit es frisch bleibt?"),
    ("Japanese", "パスワードを安全に守るには"),
    ("Arabic", "كيف أعتني بقطة جديدة في المنزل"),
)


def main() -> None:
    started = time.monotonic()
    shutil.rmtree(ROOT / OUT, ignore_errors=True)
    step("A student is distilled from all-MiniLM-L6-v2, an English teacher, over 320 sentences in 11 languages")
    run("distill", "examples/recipes/demo.toml", "--out", OUT / "student")
    step("The student becomes a quantised ONNX bundle, checked against it in every language")
    run("export", OUT / "student", "--precision", "int8", "--out", OUT / "bundle")
    step("72 documents in 12 languages are indexed, with the published student kdserve-static")
    run("index", "build", DOCUMENTS, "--out", OUT / "index")
    for language, query in QUERIES:
        step(f"A query in {language}")
        run("search", OUT / "index", query, "-k", "3")
    step("Teacher and students side by side: quality, size, speed")
    run("bench", "all-MiniLM-L6-v2", OUT / "bundle", "kdserve-static", "--threads", "1")
    print(f"\nDone in {time.monotonic() - started:.0f} s.")
    print("The demo's own student saw 320 sentences a language; the published one 1.6 million pairs.")
    print("\nNext, try:\n")
    print(f"  source .venv/bin/activate\n  kdserve search {OUT}/index 'your own question, in any of 12 languages'")
    print("  kdserve index build your-texts.txt --out my-index\n  kdserve distill --help")


def step(title: str) -> None:
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n== {title}", flush=True)


def run(*arguments: str | Path) -> None:
    words = [str(argument) for argument in arguments]
    print(f"$ kdserve {shlex.join(words)}", flush=True)
    result = subprocess.run([sys.executable, "-m", "kdserve.cli", *words], cwd=ROOT, check=False)
    if result.returncode:
        sys.exit(f"the demo stopped: kdserve {words[0]} ended with {result.returncode}")


if __name__ == "__main__":
    main()
