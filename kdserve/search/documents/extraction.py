"""Web pages, PDF, Word and EPUB files as text, through lxml, pypdf and python-docx: the extra `documents`.

Files are other people's, so what they unpack to is bounded before it is parsed, no entity of theirs is resolved and
nothing is fetched. EPUB is read here, as the one well-kept library for it is under the AGPL.
"""

from __future__ import annotations

import codecs
import io
import logging
import posixpath
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from kdserve.errors import DataError, MissingExtraError
from kdserve.lines import MAX_TEXT_BYTES
from kdserve.search.documents.titles import told_title
from kdserve.search.documents.word import heading_of_word, text_of_word

MAX_FILE_BYTES = 200_000_000
MAX_UNPACKED_BYTES = 200_000_000
MAX_DIRECTORY_BYTES = 5_000_000
"""Of an archive's list of its parts: some 40,000. One of 50 MB took a minute and 240 MB before any was unpacked."""
MAX_PAGES = 10_000
MAX_MARKUP_BYTES, MAX_TAGS = 50_000_000, 3_000_000
"""Of a page or part: its tree takes some 350 bytes a tag, so that an archive of kilobytes would fill gigabytes."""
_HIDDEN = "hidden"
_DROPPED = (
    "script", "style", "template", "noscript", "svg", "nav", "head", "rt", "rp", "audio", "video", "canvas", "iframe",
    "annotation", "annotation-xml", _HIDDEN,
)  # fmt: skip
"""What is no text of the page; so are readings beside kanji (ruby), which would stand inside its words, and formulas in
TeX beside MathML."""
_BLOCKS = frozenset(
    ("address", "article", "aside", "blockquote", "br", "caption", "center", "dd", "details", "dialog", "div", "dl",
     "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup",
     "hr", "legend", "li", "main", "menu", "ol", "p", "pre", "search", "section", "summary", "table", "tr", "ul")
)  # fmt: skip
_CELLS = frozenset(("button", "option", "select", "td", "textarea", "th"))
"""What stands apart from its neighbours in a line, though no space be written there."""
_UNSEEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_CHARSET = re.compile(
    rb"""charset\s*=\s*["']?\s*([\w.:-]+)|^\s*<\?xml[^>]*\sencoding\s*=\s*["']([\w.:-]+)""", re.IGNORECASE
)
_AS_BROWSERS = {
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874",
    "gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs", "shift_jis": "cp932", "euc_kr": "cp949",
}  # fmt: skip
"""What pages hold that name an encoding, by https://encoding.spec.whatwg.org: more signs than it has."""
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?=[-_]|$)")
_LIGATURES = {0xFB00 + n: letters for n, letters in enumerate(("ff", "fi", "fl", "ffi", "ffl", "st", "st"))}
_LONGEST_HALF = 32
_XML = "{http://www.w3.org/XML/1998/namespace}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Extracted:
    """The text of a file, and its title and language where it tells them."""

    text: str
    title: str = ""
    language: str | None = None


def extract(path: Path) -> Extracted:
    """Read the text of a file, by the ending of its name, which is one of `EXTRACTORS`.

    Raises:
        DataError: the file is damaged, encrypted, or larger than what is read.
        MissingExtraError: the library that reads it is not installed.
    """
    if path.suffix == ".gz":
        raise DataError(f"{path} is compressed; unpack it first")
    try:
        size = path.stat().st_size
        if not size:
            return Extracted(text="")
        if size > MAX_FILE_BYTES:
            raise DataError(f"{path} is larger than {MAX_FILE_BYTES // 1_000_000} MB; convert it to text yourself")
        found = EXTRACTORS[path.suffix.lower()](path)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "lxml", "documents") from error
    except (FileNotFoundError, PermissionError) as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error
    except DataError:
        raise
    except Exception as error:  # on a damaged file each parser raises whatever it likes
        reason = (
            " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())[:120] or type(error).__name__
        )
        raise DataError(f"{path} cannot be read ({reason}); open and save it again, or leave it out") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3 offers no name to import
            raise
        raise DataError(f"{path} cannot be read ({error}); leave it out") from error
    return Extracted(text=_valid(found.text), title=_valid(" ".join(found.title.split())), language=found.language)


def language_of(declared: Any) -> str | None:
    """The first part of a language tag: de of de-AT."""
    found = _LANGUAGE.match(str(declared or "").strip())
    return found[0].lower() if found else None


def _html(path: Path) -> Extracted:
    return _from_html(path.read_bytes(), str(path))


def _pdf(path: Path) -> Extracted:
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it tells of every oddity that it gets over
    reader = pypdf.PdfReader(path)
    if reader.is_encrypted and not reader.decrypt(""):
        raise DataError(f"{path} is encrypted; save it without a password")
    if len(reader.pages) > MAX_PAGES:
        raise DataError(f"{path} has more than {MAX_PAGES:,} pages; divide it")
    pages, size = [], 0
    for page in reader.pages:  # which may be one, named many times
        pages.append(page.extract_text())
        size += len(pages[-1])
        if size > MAX_TEXT_BYTES:
            raise DataError(f"{path} has more than {MAX_TEXT_BYTES // 1_000_000} million characters; divide it")
    title = reader.metadata.title if reader.metadata else None
    return Extracted(
        text=_unbroken("\n\n".join(pages)),
        title=told_title(str(title or "")),
        language=language_of(reader.root_object.get("/Lang")),
    )


def _unbroken(text: str) -> str:
    """A text as it was before it was set: words that were divided at the end of a line are whole, ligatures letters.

    A hyphen stays where the text has that word with one elsewhere, or a capital or digit beside it.
    """
    text = text.translate(_LIGATURES)
    compounds = {_halves(match) for match in re.finditer(r"(?<=\w)-(?=\w)", text)}

    def join(match: re.Match[str]) -> str:
        before, after = _halves(match)
        is_divided = before[-1].islower() and after[0].islower() and (before, after) not in compounds
        return "" if is_divided or match[1] == "\xad" else match[0]

    return re.sub(r"(?<=\w)([-\u2010\xad]) ?\n(?=\w)", join, text)


def _halves(match: re.Match[str]) -> tuple[str, str]:
    """The word before a match, and the one behind it."""
    before = match.string[max(0, match.start() - _LONGEST_HALF) : match.start()]
    after = match.string[match.end() : match.end() + _LONGEST_HALF]
    return re.split(r"\W", before)[-1], re.split(r"\W", after, maxsplit=1)[0]


def _docx(path: Path) -> Extracted:
    import docx

    with _open_zip(path) as archive:
        for part in archive.infolist():
            _parsable(archive.read(part), f"{path}, {part.filename}")
    document = docx.Document(str(path))
    parts = [text_of_word(document.element.body)]
    for relation in document.part.rels.values():
        if relation.reltype.endswith(("/footnotes", "/endnotes")) and not relation.is_external:
            parts.append(text_of_word(_xml(relation.target_part.blob)))
    properties = document.core_properties
    text = "\n\n".join(filter(None, parts))
    title = told_title(properties.title) or heading_of_word(document)
    return Extracted(text=text, title=title, language=language_of(properties.language))


def _epub(path: Path) -> Extracted:
    with _open_zip(path) as archive:
        container = _xml(_parsable(archive.read("META-INF/container.xml"), str(path)))
        name = container.xpath("string(//*[local-name()='rootfile']/@full-path)")
        package = _xml(_parsable(archive.read(name), str(path)))
        there = {unquote(part).casefold(): part for part in archive.namelist()}
        places = {item.get("id"): item.get("href", "") for item in package.xpath("//*[local-name()='item']")}
        pictures = set(package.xpath("//*[local-name()='item'][starts-with(@media-type, 'image/')]/@id"))
        chapters = [
            there.get(posixpath.normpath(posixpath.join(posixpath.dirname(name), _place(places[reference]))).casefold())
            for reference in package.xpath("//*[local-name()='itemref']/@idref")
            if reference in places and reference not in pictures
        ]
        if chapters and not any(chapters):
            raise DataError(f"{path} has none of the chapters that it names; download it again")
        texts = [  # each once, or a small archive would give any length of text
            _from_html(archive.read(chapter), f"{path}, {chapter}").text
            for chapter in dict.fromkeys(chapters)
            if chapter  # as readers of books pass over what is not there
        ]
        title, language = (package.xpath(f"string(//*[local-name()='{what}'])") for what in ("title", "language"))
    return Extracted(text="\n\n".join(texts), title=told_title(title), language=language_of(language))


def _place(href: str) -> str:
    """The path of a chapter, without the place in it."""
    return unquote(href.partition("#")[0])


def _xml(data: bytes) -> Any:
    from lxml import etree

    return etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))


def _from_html(data: bytes, where: str) -> Extracted:
    """The text of a page; what is UTF-8 is read so, else as the page says."""
    from lxml import etree, html

    _parsable(data, where)
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        declared = _CHARSET.search(data[:4096])
        if declared is None:
            raise DataError(f"{where} is not UTF-8 and declares no other encoding; convert it") from error
        name = codecs.lookup((declared[1] or declared[2]).decode("ascii").lower().removeprefix("x-")).name
        text = data.decode(_AS_BROWSERS.get(name, name))
    if not text.strip():
        return Extracted(text="")
    parser = html.HTMLParser(encoding="utf-8", no_network=True, huge_tree=True)
    tree = html.document_fromstring(text.encode(), parser=parser)
    if any("depth" in entry.message for entry in parser.error_log):  # libxml2 leaves out what lies deeper
        raise DataError(f"{where} nests its elements too deeply; simplify it")
    title = tree.xpath("string(//head/title)")
    language = language_of(tree.get("lang") or tree.get(f"{_XML}lang") or tree.get("xml:lang"))
    _mark_hidden(tree)
    etree.strip_elements(tree, *_DROPPED, with_tail=False)
    etree.strip_tags(tree, etree.Comment, etree.ProcessingInstruction)
    title = told_title(title) or tree.xpath("string(//h1)")
    parts: list[str] = []
    for event, element in etree.iterwalk(tree, events=("start", "end")):
        parts.append("\n\n" if element.tag in _BLOCKS else " " * (element.tag in _CELLS))
        parts.append((element.text if event == "start" else element.tail) or "")
    lines = (" ".join(line.split()) for line in re.split(r"\n\s*\n", "".join(parts)))
    return Extracted(text="\n\n".join(filter(None, lines)), title=title, language=language)


def _mark_hidden(tree: Any) -> None:
    """Give what a page does not show a name that is dropped.

    What a button or a tab may open stays, as do formulas, which are often hidden beside a picture of them. To hide from
    screen readers (`aria-hidden`) is no more than a hint: of decorations, or a formula drawn again, but also of a whole
    page behind a dialog, so that only what has no blocks goes.
    """
    opened = {id_ for ids in tree.xpath("//@aria-controls") for id_ in ids.split()}
    for element in tree.xpath("//body//*[@hidden or @style or @aria-hidden]"):
        is_unseen = element.get("hidden", "until-found") != "until-found" or _UNSEEN.search(element.get("style", ""))
        if is_unseen:
            stays = element.get("role") == "tabpanel" or element.get("id") in opened or element.find("math") is not None
        else:
            stays = element.get("aria-hidden") != "true" or any(True for _ in element.iter(*_BLOCKS))
        if not stays:
            element.tag = _HIDDEN


def _parsable(data: bytes, where: str) -> bytes:
    """The data, where a parser's tree of it stays small, or it is no markup, as a picture.

    Raises:
        DataError: it is too much.
    """
    is_markup = data[:64].lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1] in (b"<", b"")
    if data.count(b"<") > MAX_TAGS or (is_markup and len(data) > MAX_MARKUP_BYTES):
        limits = f"{MAX_MARKUP_BYTES // 1_000_000} MB of markup, or {MAX_TAGS // 1_000_000} million tags"
        raise DataError(f"{where} has more than {limits}; divide it")
    return data


class _Directory(io.FileIO):
    """An archive whose directory alone is read, which zipfile does in one piece."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read some bytes. Raises DataError where they are too many for a directory."""
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise DataError(f"{self.name} has a list of parts of {size // 1_000_000:,} MB; divide it")
        return super().read(size) or b""


def _open_zip(path: Path) -> zipfile.ZipFile:
    """Open an archive of so many parts as fit the limit, which say that they unpack to a bounded size; they can give no
    more than they say."""
    with _Directory(path) as file:
        zipfile.ZipFile(file).close()
    archive = zipfile.ZipFile(path)
    size = sum(part.file_size for part in archive.infolist())
    if size > MAX_UNPACKED_BYTES:
        archive.close()
        raise DataError(f"{path} unpacks to {size // 1_000_000:,} MB, more than is read; convert it to text yourself")
    return archive


def _valid(text: str) -> str:
    """The text without lone surrogates, which some PDFs give for letters that have no meaning, and soft hyphens, which
    nobody sees."""
    return text.replace("\xad", "").encode("utf-8", "replace").decode()


EXTRACTORS: Mapping[str, Callable[[Path], Extracted]] = {
    ".html": _html, ".htm": _html, ".xhtml": _html, ".pdf": _pdf, ".docx": _docx, ".epub": _epub
}  # fmt: skip
