"""Web pages, PDF, Word and EPUB files in a folder, sound and hostile."""

from __future__ import annotations

import io
import logging
import zipfile
from pathlib import Path

import pytest

from kdserve.errors import DataError
from kdserve.search import Document, Source, format_of
from kdserve.search.documents import extraction
from kdserve.search.documents.extraction import extract

pytest.importorskip("lxml", reason="needs the extra documents")
pytest.importorskip("pypdf", reason="needs the extra documents")
docx = pytest.importorskip("docx", reason="needs the extra documents")

PAGE = b"""<!doctype html><html lang="de-AT"><head><title>Ein  Titel</title><style>p {}</style></head>
<body><nav>Menu</nav><h1>Kopf</h1><p>Das <b>Brot</b> ist<!-- noch --> warm.</p>
<script>x()</script><p>Ende</body></html>"""
CONTAINER = b'<container><rootfiles><rootfile full-path="in/b.opf"/></rootfiles></container>'
BOOK = b"""<package xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><dc:title>A book</dc:title>
<dc:language>en</dc:language></metadata><manifest><item id="a" href="a%20b.xhtml"/><item id="c" href="../c.xhtml"/>
</manifest><spine><itemref idref="c"/><itemref idref="a"/></spine></package>"""


def pdf(text: str) -> bytes:
    """The smallest PDF with a line of text."""
    content = f"BT /F 12 Tf 9 9 Td ({text}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R/Lang(fr-FR)>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(content), content),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    body = b"".join(b"%d 0 obj%s endobj\n" % (number, one) for number, one in enumerate(objects, 1))
    return b"%PDF-1.4\n" + body + b"trailer<</Root 1 0 R/Size 6>>\nstartxref\n0\n%%EOF"


def zipped(parts: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return out.getvalue()


def word(path: Path) -> None:
    document = docx.Document()
    document.core_properties.title, document.core_properties.language = "Notes", "es-ES"
    document.add_paragraph("El pan.")
    document.add_table(1, 2).rows[0].cells[1].text = "cell"
    document.save(str(path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.html").write_bytes(PAGE)
    (tmp_path / "b.pdf").write_bytes(pdf("Le pain."))
    word(tmp_path / "c.docx")
    epub = {
        "META-INF/container.xml": CONTAINER,
        "in/b.opf": BOOK,
        "in/a b.xhtml": b"<p>Two</p>",
        "c.xhtml": b"<p>One</p>",
    }
    (tmp_path / "d.epub").write_bytes(zipped(epub))
    (tmp_path / "e.md").write_text("# A heading\n\nText.")
    (tmp_path / "f.rst").write_text("Title\n=====\n\nText.")
    return tmp_path


def read(folder: Path) -> dict[str, Document]:
    return {str(document.id): document for document in Source(path=folder, format="folder").read()}


def test_every_kind_gives_its_text_title_and_language(folder: Path) -> None:
    found = {name: (one.text, one.metadata.get("title"), one.language) for name, one in read(folder).items()}
    assert found == {
        "a.html": ("Kopf\n\nDas Brot ist warm.\n\nEnde", "Ein Titel", "de"),
        "b.pdf": ("Le pain.", None, "fr"),
        "c.docx": ("El pan.\n\n\tcell", "Notes", "es"),
        "d.epub": ("One\n\nTwo", "A book", "en"),
        "e.md": ("# A heading\n\nText.", "A heading", None),
        "f.rst": ("Title\n=====\n\nText.", "Title", None),
    }


@pytest.mark.parametrize(
    "title",
    [
        "Microsoft Word - Report final.doc",
        "untitled",
        "Untitled Document",
        "Unbenannt-1",
        "PowerPoint Presentation",
        "PowerPoint-Präsentation",
        "Présentation PowerPoint",
        "Presentación de PowerPoint",
        "Dokument1",
        "Word Document",
        "Annual report 2024.indd",
        "index.html",
    ],
)
def test_what_a_program_wrote_for_a_title_is_none(tmp_path: Path, title: str) -> None:
    document = docx.Document()
    document.core_properties.title = title
    document.add_paragraph("Bread")
    document.save(str(tmp_path / "plain.docx"))
    document.add_heading("How to bake")
    document.save(str(tmp_path / "report.docx"))
    (tmp_path / "a.html").write_text(f"<title>{title}</title><h1>How to bake</h1>")
    titled = pdf("Bread.").replace(b"/Size 6", b"/Size 6/Info<</Title(%s)>>" % title.encode("latin1"))
    (tmp_path / "b.pdf").write_bytes(titled)
    titles = {name: extract(tmp_path / name).title for name in ("plain.docx", "report.docx", "a.html", "b.pdf")}
    assert titles == {"plain.docx": "", "report.docx": "How to bake", "a.html": "How to bake", "b.pdf": ""}


@pytest.mark.parametrize(
    "title", ["Untitled Goose Game", "Learning PowerPoint", "Documentary", "Presentation skills", "What is Node.js"]
)
def test_titles_that_say_what_a_file_is_of_stay(tmp_path: Path, title: str) -> None:
    (tmp_path / "b.pdf").write_bytes(pdf("Bread.").replace(b"/Size 6", b"/Size 6/Info<</Title(%s)>>" % title.encode()))
    assert extract(tmp_path / "b.pdf").title == title


@pytest.mark.parametrize(
    ("written", "text", "title", "language"),
    [
        ("---\ntitle: My note\n---\n\nText.", "My note\n\nText.", "My note", None),
        ("---\ntitle: Bread\ndate: 2026-11-27\n---\n# Bread\n\nWarm.", "# Bread\n\nWarm.", "Bread", None),
        (
            "---\ntags: [a]\ntitle: \"Mine: 'all'\"\nlang: de-AT\n---\n# One\n",
            "Mine: 'all'\n\n# One",
            "Mine: 'all'",
            "de",
        ),
        ("---\ntags: [a]\n...\n\n# Heading\n\nText.", "# Heading\n\nText.", "Heading", None),
        ("---\ntitle: >\n  long\n---\nHeading\n=======\n", "Heading\n=======", "Heading", None),
        ("---\nHeading\n---\n", "---\nHeading\n---", "Heading", None),
        ("---\n---\n# Heading\n", "# Heading", "Heading", None),
        ('---\n"my key": 1\ntags:\n- a\n\n# why\ntitle: One\n---\nText.', "One\n\nText.", "One", None),
        ("---\n\n# Heading\n\n---\nText.", "---\n\n# Heading\n\n---\nText.", "Heading", None),
        ("---\nnote: one\nTwo three.\n---\nText.", "---\nnote: one\nTwo three.\n---\nText.", None, None),
        ("+++\ntitle = \"Mine\"\ndate = 2026-11-27\nlang = 'de-AT'\n+++\n\nText.", "Mine\n\nText.", "Mine", "de"),
        ("+++\n[build]\ntitle = 1\n+++\n# Heading\n", "# Heading", "Heading", None),
        ("+++\nno field\n+++\nText.", "+++\nno field\n+++\nText.", None, None),
        ("---\ntitle: never closed\n\n# Heading", "---\ntitle: never closed\n\n# Heading", "Heading", None),
    ],
)
def test_front_matter_of_markdown_tells_title_and_language_and_is_no_text(
    tmp_path: Path, written: str, text: str, title: str | None, language: str | None
) -> None:
    (tmp_path / "a.md").write_text(written)
    document = one_of(tmp_path / "a.md")
    assert (document.text, document.metadata.get("title"), document.language) == (text, title, language)


def test_a_book_that_names_a_chapter_without_a_place_has_the_others(tmp_path: Path) -> None:
    book = BOOK.replace(b"</spine>", b'<itemref idref="lost"/></spine>')
    chapters = {"in/a b.xhtml": b"<p>Two</p>", "c.xhtml": b"<p>One</p>"}
    archive = zipped({"META-INF/container.xml": CONTAINER, "in/b.opf": book, **chapters})
    (tmp_path / "a.epub").write_bytes(archive)
    assert one_of(tmp_path / "a.epub").text == "One\n\nTwo"


@pytest.mark.parametrize(
    ("chapter", "place"),
    [
        ("in/a b.xhtml", "lost.xhtml"),
        ("in/a b.xhtml", "a%20b.xhtml#part"),
        ("in/a%20b.xhtml", "a%20b.xhtml"),
        ("in/A b.XHTML", "a%20b.xhtml"),
    ],
)
def test_chapters_are_found_by_what_is_meant_and_others_passed_over(tmp_path: Path, chapter: str, place: str) -> None:
    book = BOOK.replace(b"a%20b.xhtml", place.encode())
    pages = {chapter: b"<p>Two</p>", "c.xhtml": b"<p>One</p>"}
    (tmp_path / "a.epub").write_bytes(zipped({"META-INF/container.xml": CONTAINER, "in/b.opf": book, **pages}))
    assert one_of(tmp_path / "a.epub").text == ("One" if place == "lost.xhtml" else "One\n\nTwo")


def test_a_picture_among_the_chapters_of_a_book_is_passed_over(tmp_path: Path) -> None:
    book = BOOK.replace(b'<item id="a" href="a%20b.xhtml"/>', b'<item id="a" href="a.jpg" media-type="image/jpeg"/>')
    parts = {"in/a.jpg": b"\xff\xd8", "c.xhtml": b"<p>One</p>"}
    (tmp_path / "a.epub").write_bytes(zipped({"META-INF/container.xml": CONTAINER, "in/b.opf": book, **parts}))
    assert one_of(tmp_path / "a.epub").text == "One"


def test_a_file_named_by_itself_is_the_document_that_its_folder_gives(folder: Path) -> None:
    assert {name: one_of(folder / name) for name in read(folder)} == read(folder)


def one_of(path: Path) -> Document:
    (document,) = Source(path=path, format=format_of(path)).read()
    return document


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pdf", b"no pdf", "a.pdf cannot be read"),
        ("a.html.gz", b"\x1f\x8b", "a.html.gz is compressed; unpack it"),
        ("none.docx", None, "none.docx cannot be read (No such file or directory)"),
    ],
)
def test_a_single_file_that_cannot_be_read_is_an_error(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        one_of(tmp_path / name)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("<p>Grüße</p>".encode(), "Grüße"),
        ('<meta charset="iso-8859-1"><p>Grüße</p>'.encode("latin1"), "Grüße"),
        ("<p>Grüße</p>".encode("utf-16"), "Grüße"),
        ('<?xml version="1.0" encoding="iso-8859-1"?><p>Grüße</p>'.encode("latin1"), "Grüße"),
        ('<meta charset="ISO-8859-1"><p>“5 €” – so</p>'.encode("cp1252"), "“5 €” – so"),
        ('<meta charset="x-sjis"><p>電車①</p>'.encode("cp932"), "電車①"),
        ("<meta charset=gb2312><p>朱镕基</p>".encode("gb18030"), "朱镕基"),
        ("<meta charset=euc-kr><p>똠방각하</p>".encode("cp949"), "똠방각하"),
        (b"<p>one<p>two<br>three", "one\n\ntwo\n\nthree"),
        (b"plain", "plain"),
        (b"<div>" * 200 + b"deep", "deep"),
    ],
)
def test_web_pages_are_read_in_their_encoding_and_however_they_are_written(
    tmp_path: Path, data: bytes, text: str
) -> None:
    (tmp_path / "page.htm").write_bytes(data)
    assert extract(tmp_path / "page.htm").text == text


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "' + b"&a;" * 99 + b'">]><container>&b;</container>'
OUTSIDE = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><container>&a;</container>'


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.pdf", b"%PDF-1.7 nothing"),
        ("a.pdf", b"\x00" * 100),
        ("a.docx", b"no archive"),
        ("a.docx", zipped({"word/document.xml": b"<a/>"})),
        ("a.epub", zipped({"META-INF/container.xml": BOMB})),
        ("a.epub", zipped({"META-INF/container.xml": OUTSIDE})),
        ("a.epub", zipped({"META-INF/container.xml": CONTAINER, "in/b.opf": BOOK})),
        ("a.html", b"<p>Gr\xfc\xdfe"),
        ("a.txt", b"Gr\xfc\xdfe"),
        ("a.md", "Grüße".encode("utf-16")[:-1]),
        ("a.md", "Bread".encode("utf-16-le")),
        ("a.txt", b"PK" + b"\0" * 9),
        ("a.html", b"<div>" * 5000 + b"deep"),
        ("a.html", b'<meta charset="no-such-thing"><p>Gr\xfc\xdfe'),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_one_line_and_the_others_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "b.txt").write_text("sound")
    source = Source(path=tmp_path, format="folder")
    with caplog.at_level(logging.WARNING, logger="kdserve"):
        assert [document.id for document in source.read()] == ["b.txt"]
    assert dict(source.skipped) == {f"{Path(name).suffix} that cannot be read": 1}
    (told,) = [record.getMessage() for record in caplog.records if record.name == "kdserve"]
    assert str(tmp_path / name) in told
    assert "\n" not in told


@pytest.mark.parametrize("name", ["a.docx", "a.epub"])
def test_an_archive_that_unpacks_to_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_bytes(zipped({"META-INF/container.xml": b"\0" * 1_000_000}))
    monkeypatch.setattr(extraction, "MAX_UNPACKED_BYTES", 900_000)
    with pytest.raises(DataError, match="unpacks to 1 MB"):
        extract(tmp_path / name)


@pytest.mark.parametrize("name", ["a.docx", "a.epub"])
def test_an_archive_of_very_many_parts_is_refused_before_they_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_bytes(zipped({f"{number}": b"" for number in range(1000)}))
    monkeypatch.setattr(zipfile, "ZipInfo", None)
    monkeypatch.setattr(extraction, "MAX_DIRECTORY_BYTES", 40_000)
    with pytest.raises(DataError, match="a list of parts of"):
        extract(tmp_path / name)


@pytest.mark.parametrize("limit", ["MAX_TAGS", "MAX_MARKUP_BYTES"])
@pytest.mark.parametrize("name", ["a.html", "b.docx", "c.epub", "d.epub", "e.epub"])
def test_markup_whose_tree_would_fill_memory_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: str
) -> None:
    many = b"<p>x" * 5000
    book = {"META-INF/container.xml": CONTAINER, "in/b.opf": BOOK, "in/a b.xhtml": b"<p>Two", "c.xhtml": b"<p>One"}
    word(tmp_path / "b.docx")
    with zipfile.ZipFile(tmp_path / "b.docx", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/other.bin", many)
    (tmp_path / "a.html").write_bytes(many)
    for book_name, part in (("c.epub", "META-INF/container.xml"), ("d.epub", "in/b.opf"), ("e.epub", "c.xhtml")):
        (tmp_path / book_name).write_bytes(zipped({**book, part: many}))
    monkeypatch.setattr(extraction, limit, 4000)
    with pytest.raises(DataError, match="million tags; divide it"):
        extract(tmp_path / name)


def test_a_document_with_a_large_picture_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    word(tmp_path / "a.docx")
    with zipfile.ZipFile(tmp_path / "a.docx", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/media/picture.png", b"\x89PNG" + b"x" * 1_100_000)
    monkeypatch.setattr(extraction, "MAX_MARKUP_BYTES", 1_000_000)
    assert "El pan." in extract(tmp_path / "a.docx").text


def test_a_chapter_that_a_book_names_many_times_is_read_once(tmp_path: Path) -> None:
    again = BOOK.replace(b'<itemref idref="a"/>', b'<itemref idref="a"/>' * 10_000)
    parts = {
        "META-INF/container.xml": CONTAINER,
        "in/b.opf": again,
        "in/a b.xhtml": b"<p>Two</p>",
        "c.xhtml": b"<p>One",
    }
    (tmp_path / "a.epub").write_bytes(zipped(parts))
    assert extract(tmp_path / "a.epub").text == "One\n\nTwo"


def test_a_cell_is_read_once_however_many_columns_and_rows_it_spans(tmp_path: Path) -> None:
    document = docx.Document()
    table = document.add_table(2, 3)
    table.cell(0, 0).merge(table.cell(1, 1)).text = "wide"
    table.cell(0, 2).text, table.cell(1, 2).text = "one", "two"
    table.cell(0, 0)._tc.get_or_add_tcPr().get_or_add_gridSpan().val = 100_000_000
    document.save(str(tmp_path / "a.docx"))
    assert extract(tmp_path / "a.docx").text.split() == ["wide", "one", "two"]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("An iden-\ntifier of a do\xad\nMAIN", "An identifier of a doMAIN"),
        ("A well-\nknown fact, as well-known as AES-\nkeys and 2-\nfold", None),
        ("über-\nraschend, deux-\nfois- \nmille", "überraschend, deuxfoismille"),
        ("a - b -\nc", None),
        ("e\ufb03cient \ufb01re", "efficient fire"),
    ],
)
def test_words_that_a_line_divides_are_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str, text: str | None
):
    (tmp_path / "a.pdf").write_bytes(pdf("x"))
    monkeypatch.setattr("pypdf.PageObject.extract_text", lambda _: lines)
    assert extract(tmp_path / "a.pdf").text == (text or lines)


def test_a_page_that_a_pdf_names_many_times_comes_to_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "MAX_TEXT_BYTES", 1_000_000)
    many = pdf("word " * 1000).replace(b"/Kids[3 0 R]", b"/Kids[" + b"3 0 R " * 300 + b"]")
    (tmp_path / "a.pdf").write_bytes(many)
    with pytest.raises(DataError, match="more than 1 million characters"):
        extract(tmp_path / "a.pdf")


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<table><tr><th>Tag<th>Ort</tr><tr><td>Mo</td><td>Museo</td></tr></table>", "Tag Ort\n\nMo Museo"),
        ("<details><summary>Mehr</summary>Inhalt</details>", "Mehr\n\nInhalt"),
        ("<p>Farbe<select><option>rot<option>blau</select><button>Los</button>!", "Farbe rot blau Los !"),
        ("<p>a<b>b</b><span>c</span>&shy;d", "abcd"),
        ("<p><ruby>\u6f22<rp>(</rp><rt>\u304b\u3093</rt><rp>)</rp></ruby>\u5b57", "\u6f22\u5b57"),
    ],
)
def test_what_stands_apart_on_a_page_is_parted_and_readings_part_no_word(tmp_path: Path, page: str, text: str):
    (tmp_path / "a.html").write_text(page, encoding="utf-8")
    assert extract(tmp_path / "a.html").text == text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p hidden>No</p><p hidden='until-found'>Yes</p> and<span hidden>no</span> so", "Yes\n\nand so"),
        ("<div style='color: red; DISPLAY : none'>No<p>no</div><p style='visibility:hidden'>no<p style='x'>Yes", "Yes"),
        ("<template><p>No</template><noscript>no</noscript><video src=x>no</video><p>Yes", "Yes"),
        ("<button aria-controls='a b'>More</button><p id=b hidden>Yes", "More\n\nYes"),
        ("<div role=tabpanel hidden>Yes</div><div role=tabpanel style='display:none'>Yes", "Yes\n\nYes"),
        ("<h2>Bread<a aria-hidden=true href='#a'>#</a></h2><i aria-hidden='true'>menu</i><p>Yes", "Bread\n\nYes"),
        ("<div aria-hidden=true><p>Yes</div><p aria-hidden=false>too", "Yes\n\ntoo"),
        ("<body style='display:none'><p>Yes", "Yes"),
        ("<span aria-hidden=true>No<i>no</i><span aria-hidden=true>no</span></span>Yes", "Yes"),
        (
            "<p>So <span style='display:none'><math><semantics><mi>E</mi><annotation>{E}</annotation></semantics>"
            "</math></span><img alt='E'> and <math><mi>m</mi></math><span aria-hidden=true><span>m</span></span>.",
            "So E and m.",
        ),
    ],
)
def test_what_a_page_does_not_show_is_no_text_but_what_may_be_opened_is(tmp_path: Path, page: str, text: str):
    (tmp_path / "a.html").write_text(page, encoding="utf-8")
    assert extract(tmp_path / "a.html").text == text
