"""The bundle's README: what it is, how to open it, what it lost."""

from __future__ import annotations

from kdserve.export.gate import FidelityReport
from kdserve.precisions import PRECISIONS
from kdserve.runtime.bundle import BundleSettings


def bundle_card(settings: BundleSettings, report: FidelityReport, *, size_bytes: int) -> str:
    """Return the card as Markdown with the front matter that model hubs read."""
    languages = "".join(f"- {code}\n" for code in settings.languages)
    front = f"language:\n{languages}" if languages else ""
    weak = f"Weak languages, below the others in quality: {', '.join(settings.weak_languages)}.\n\n"
    return f"""---
library_name: kdserve
pipeline_tag: sentence-similarity
{front}---
# {settings.name}, {settings.precision}

A {settings.family} sentence encoder: {settings.dim} dimensions, up to {settings.max_tokens} tokens, \
{size_bytes / 1e6:.1f} MB.
Pooling and normalisation are inside the graph: `input_ids` and `attention_mask` in, `sentence_embedding` out.

```python
from kdserve.runtime import Encoder

encoder = Encoder.load("path/to/this/folder")
vectors = encoder.encode_document(["One text, one vector."])  # (1, {settings.dim}) float32, unit length
```

{weak if settings.weak_languages else ""}## Against its student

Mean cosine {report.mean_cosine:.5f}, worst text {report.min_cosine:.5f}; the gate asked for a mean of at least \
{report.min_mean_cosine_allowed} in every language and {report.min_cosine_allowed} on every text. \
Retrieval is translation accuracy in percent, both directions to English.

{report.table()}
{PRECISIONS[settings.precision].card_note}"""
