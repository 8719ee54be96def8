"""Name languages with another library: JSON lists of texts in, JSON lists of codes out, one a line.

    PYTHON benchmarks/peers/language_worker.py lingua|langdetect|py3langid

Runs in an environment of its own, with that library and nothing of kdserve.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable


def main() -> None:
    name, languages = OPENERS[sys.argv[1]]()
    sys.stdout.write(json.dumps(sorted(languages)) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps([name(text) for text in json.loads(line)]) + "\n")
        sys.stdout.flush()


Opened = tuple[Callable[[str], str], set[str]]


def open_lingua() -> Opened:
    from lingua import Language, LanguageDetectorBuilder

    detector = LanguageDetectorBuilder.from_all_languages().with_preloaded_language_models().build()

    def name(text: str) -> str:
        found = detector.detect_language_of(text)
        return found.iso_code_639_1.name.lower() if found else ""

    return name, {language.iso_code_639_1.name.lower() for language in Language.all()}


def open_langdetect() -> Opened:
    from langdetect import DetectorFactory, detect, detector_factory
    from langdetect.lang_detect_exception import LangDetectException

    DetectorFactory.seed = 0
    detector_factory.init_factory()

    def name(text: str) -> str:
        try:
            return detect(text).split("-")[0]
        except LangDetectException:  # a text without a letter
            return ""

    return name, {code.split("-")[0] for code in detector_factory._factory.get_lang_list()}


def open_py3langid() -> Opened:
    from py3langid import langid

    identifier = langid._get_identifier()
    return lambda text: identifier.classify(text)[0], set(identifier.nb_classes)


OPENERS = {"lingua": open_lingua, "langdetect": open_langdetect, "py3langid": open_py3langid}

if __name__ == "__main__":
    main()
