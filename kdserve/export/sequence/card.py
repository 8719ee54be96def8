"""The README of a bundle that writes: what it is, how to open it, what it lost."""

from __future__ import annotations

from kdserve.export.sequence.gate import WritingReport
from kdserve.runtime.sequence.settings import TranslatorSettings


def translator_card(settings: TranslatorSettings, report: WritingReport, *, size_bytes: int) -> str:
    """Return the card as Markdown with the front matter that model hubs read."""
    codes = dict.fromkeys((*settings.languages, *settings.weak_languages, *settings.targets))
    front = "language:\n" + "".join(f"- {code}\n" for code in codes) if codes else ""
    translates = settings.task == "translate"
    into = f" into {', '.join(settings.targets)}" if settings.targets else ""
    what = (
        f"Translates {', '.join((*settings.languages, *settings.weak_languages))}{into}"
        if translates
        else "Writes one-line summaries"
    )
    beams = settings.generation.num_beams
    outputs = "Greedy outputs" if beams == 1 else f"Outputs of {beams} beams"
    weak = f"Weak languages, below the others in quality: {', '.join(settings.weak_languages)}.\n\n"
    return f"""---
library_name: kdserve
pipeline_tag: {"translation" if translates else "summarization"}
{front}---
# {settings.name}, {settings.precision}

{what}: reads up to {settings.max_tokens} tokens at once, writes up to {settings.max_output_tokens}, \
{size_bytes / 1e6:.1f} MB. The output of a text is the same alone and in any batch.

```python
from kdserve import Translator

translator = Translator.load("path/to/this/folder")
print(translator.translate(["One text, one output."]))
```

{weak if settings.weak_languages else ""}## Against its student

{outputs}; chrF against references, and of the bundle against the student (agreement). The gate let no language \
lose more than {report.floors.max_chrf_loss:g} points of chrF against references, or agree by less than \
{report.floors.min_agreement:g} where there are none, and at most {100 * report.floors.max_spoilt:g} % more of its \
outputs be empty or go in circles.

{report.table()}
"""
