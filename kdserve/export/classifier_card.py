"""A classifier bundle's README: what it is, how to open it, what it lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdserve.runtime.classifier import ClassifierSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """One language: the share of texts with the same label, and the mean total variation of their probabilities."""

    language: str
    num_texts: int
    same_label: float
    variation: float


def classifier_card(settings: ClassifierSettings, agreements: Sequence[Agreement], *, size_bytes: int) -> str:
    """Return the card as Markdown with the front matter that model hubs read."""
    languages = "".join(f"- {code}\n" for code in settings.languages)
    front = f"language:\n{languages}" if languages else ""
    rows = "\n".join(
        f"| {row.language} | {row.num_texts} | {row.same_label:.4f} | {row.variation:.5f} |" for row in agreements
    )
    return f"""---
library_name: kdserve
pipeline_tag: text-classification
{front}---
# {settings.name}, {settings.precision}

A {settings.family} classifier of {len(settings.labels)} labels, up to {settings.max_tokens} tokens, \
{size_bytes / 1e6:.1f} MB. `input_ids` and `attention_mask` in, `probabilities` out.

Labels: {", ".join(settings.labels)}.

```python
from kdserve import Classifier

classifier = Classifier.load("path/to/this/folder")
print(classifier.classify(["One text, one label."]))
```

## Against its student

| language | texts | same label | total variation |
|---|---|---|---|
{rows}
"""
