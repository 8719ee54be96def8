"""The text of Word files, as it is read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from kdserve.search.documents.extraction import extract
from kdserve.search.documents.word import text_of_word

docx = pytest.importorskip("docx", reason="needs the extra documents")
etree = pytest.importorskip("lxml.etree", reason="needs the extra documents")

SPACES = " ".join(
    f'xmlns:{prefix}="http://schemas.openxmlformats.org/{name}"'
    for prefix, name in (
        ("w", "wordprocessingml/2006/main"),
        ("m", "officeDocument/2006/math"),
        ("mc", "markup-compatibility/2006"),
    )
)
BOX = "<w:txbxContent><w:p><w:r><w:t>box</w:t></w:r></w:p></w:txbxContent>"


UNHIDDEN = '<w:vanish w:val="0"/>'


def run(text: str, settings: str = "") -> str:
    return f"<w:r><w:rPr>{settings}</w:rPr><w:t>{text}</w:t></w:r>"


def row(*cells: str) -> str:
    return f"<w:tr>{''.join(f'<w:tc><w:tcPr/>{cell}</w:tc>' for cell in cells)}</w:tr>"


ONE, TWO, THREE = (f"<w:p>{run(word)}</w:p>" for word in ("one", "two", "three"))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            f"<w:p>{run('a')}<w:ins>{run('b')}</w:ins><w:del>{run('x')}</w:del><w:moveFrom>{run('x')}</w:moveFrom></w:p>",
            "ab",
        ),
        (f"<w:p><w:hyperlink>{run('a')}</w:hyperlink><w:smartTag>{run('b')}</w:smartTag></w:p>", "ab"),
        (
            f"<w:sdt><w:sdtPr><w:tab/></w:sdtPr><w:sdtContent>{ONE}<w:sdt>{TWO}</w:sdt></w:sdtContent></w:sdt>",
            "one\n\ntwo",
        ),
        (f"<w:tbl>{row(ONE + TWO, '<w:p/>', THREE)}{row(THREE)}</w:tbl>{ONE}", "one\ntwo\t\tthree\n\nthree\n\none"),
        (f"<w:tbl>{row(ONE, f'<w:tbl>{row(TWO, THREE)}</w:tbl><w:p/>')}</w:tbl>", "one\ttwo\tthree"),
        (f"{ONE}<w:tbl><w:tr/>{row(TWO)}</w:tbl>", "one\n\ntwo"),
        (
            f"<w:p>{run('a')}<mc:AlternateContent><mc:Choice>{BOX}</mc:Choice><mc:Fallback>{BOX}</mc:Fallback>"
            "</mc:AlternateContent></w:p>",
            "a\n\nbox",
        ),
        (f"<w:p>{run('a', '<w:vanish/>')}{run('b', UNHIDDEN)}</w:p>", "b"),
        (
            "<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/></w:r></w:p>",
            "a\tb",
        ),
        ("<w:p><m:oMath><m:r><m:t>E=m</m:t></m:r></m:oMath><w:r><w:instrText>PAGE</w:instrText></w:r></w:p>", "E=m"),
        (f"<w:p><w:ruby><w:rt>{run('x')}</w:rt><w:rubyBase>{run('a')}</w:rubyBase></w:ruby></w:p>", "a"),
    ],
)
def test_what_a_reader_sees_is_the_text(body: str, text: str) -> None:
    assert text_of_word(etree.fromstring(f"<w:body {SPACES}>{body}</w:body>")) == text


def test_notes_stand_behind_the_text(tmp_path: Path) -> None:
    document, out = docx.Document(), io.BytesIO()
    document.add_paragraph("Bread")
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
    line = f'<w:footnote w:type="separator">{ONE}</w:footnote>'
    notes = f"<w:footnotes {SPACES}>{line}<w:footnote>{TWO}</w:footnote></w:footnotes>"
    part = docx.opc.part.Part(docx.opc.packuri.PackURI("/word/footnotes.xml"), "application/xml", notes.encode())
    document.part.relate_to(part, kind)
    document.save(out)
    (tmp_path / "a.docx").write_bytes(out.getvalue())
    assert extract(tmp_path / "a.docx").text == "Bread\n\ntwo"
