"""Node and the browser give Python's vectors: make edge.

KDSERVE_NODE_MODULES names the node_modules folder of `npm install` in examples/edge. The browser test needs Chromium
too.
"""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from kdserve.runtime import Encoder
from kdserve.runtime.normalizer import with_present_normalizer
from kdserve.samples import documents, parallel

EDGE = Path(__file__).parents[2] / "examples" / "edge"
BUNDLES = Path(__file__).parents[1] / "runtime" / "bundles"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUIETLY = (  # headless, and speaking to nobody but the test's own server
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
REPORT = """
<script type="module">
  const send = (record) => fetch("/report", { method: "POST", body: JSON.stringify(record) });
  window.addEventListener("error", (event) => send({ error: event.message }));
  window.addEventListener("unhandledrejection", (event) => send({ error: String(event.reason) }));
  window.addEventListener("kdserve-ready", () => send({ vectors: window.kdserve.vectors.map((v) => Array.from(v)) }));
</script>
"""


@pytest.fixture
def node_modules() -> Path:
    folder = os.environ.get("KDSERVE_NODE_MODULES")
    if not folder or not shutil.which("node"):
        pytest.skip("needs Node, and KDSERVE_NODE_MODULES, the node_modules folder of examples/edge: make edge")
    return Path(folder)


@pytest.mark.parametrize("name", ["static", "transformer"])
def test_node_gives_pythons_vectors(name: str, node_modules: Path, tmp_path: Path) -> None:
    for script in ("encoder.mjs", "node.mjs", "package.json"):
        shutil.copy(EDGE / script, tmp_path)
    (tmp_path / "node_modules").symlink_to(node_modules)
    texts = [text for sentences in parallel().values() for text in sentences[:20]]
    texts += ["", "long words " * 60, "«Ja», sagte „er“ (?!) ... 3,5 ½ € ۲۰۲۶."]
    texts += [
        "\u200fi\u00adn\u200e \ufeffa\u200bbox\x07",
        "می\u200cخواهم\u200c شَدّ",
        "שָׁלוֹם",
        "👩\u200d👧 ❤\ufe0f क्\u200dष w\u200dx",
        "ΟΔΥΣΣΕΥΣ ΚΑΙ ΣΙΣΥΦΟΣ",
        "列车晚点了" * 100_000,
    ]
    bundle = shutil.copytree(BUNDLES / name, tmp_path / "bundle")
    spec = with_present_normalizer(json.loads((bundle / "tokenizer.json").read_text(encoding="utf-8")))
    (bundle / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    command = ["node", "node.mjs", str(bundle)]
    lines = "".join(f"{text}\n" for text in texts)
    run = subprocess.run(command, input=lines, capture_output=True, text=True, check=True, cwd=tmp_path)
    vectors = np.array([json.loads(line) for line in run.stdout.splitlines()])
    expected = Encoder.load(BUNDLES / name).encode_document(texts)
    np.testing.assert_allclose(vectors, expected, atol=1e-4)


def test_javascript_refuses_what_is_no_list_of_texts(node_modules: Path, tmp_path: Path) -> None:
    shutil.copy(EDGE / "encoder.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(node_modules)
    script = """
import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-node";
import { Encoder } from "./encoder.mjs";
const encoder = await Encoder.load(ort, (name) => readFile(`${process.argv[2]}/${name}`));
for (const given of ["one string", ["a", 3], ["a", undefined], ["🙂 bread".slice(1)]])
  console.log(await encoder.encodeDocument(given).then(() => "embedded", String));
"""
    (tmp_path / "script.mjs").write_text(script, encoding="utf-8")
    command = ["node", "script.mjs", str(BUNDLES / "static")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.splitlines() == [
        "TypeError: expected a list of texts, got one string; put it into a list",
        "TypeError: text 1 is number, not string",
        "TypeError: text 1 is undefined, not string",
        "TypeError: text 0 holds half a surrogate pair; cut it between characters",
    ]


def test_the_page_gives_pythons_vectors_in_a_browser(bundles: Path, node_modules: Path, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    site = tmp_path / "site"
    assemble_page(bundles / "transformer", node_modules, site)
    page = site / "index.html"
    page.write_text(page.read_text(encoding="utf-8").replace("<h1>", f"{REPORT}<h1>"), encoding="utf-8")
    with serve(site) as (address, report):
        command = [CHROMIUM, *QUIETLY, f"--user-data-dir={tmp_path / 'profile'}", address]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert report.wait(timeout=600), "the page reported nothing"
        finally:
            browser.terminate()
            browser.wait()
    assert "error" not in report.record, report.record
    expected = Encoder.load(bundles / "transformer").encode_document([document.text for document in documents()])
    assert np.sum(np.array(report.record["vectors"]) * expected, axis=1).min() >= 0.9999


def assemble_page(bundle: Path, node_modules: Path, out: Path) -> None:
    spec = importlib.util.spec_from_file_location("assemble", EDGE / "web" / "assemble.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.assemble(str(bundle), node_modules, out)


class Report(threading.Event):
    """What the page sends, once it has come."""

    record: dict[str, object]


class Handler(http.server.SimpleHTTPRequestHandler):
    """A static server that also takes the page's report."""

    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def __init__(self, report: Report, *arguments: object, directory: str) -> None:
        self.report = report
        super().__init__(*arguments, directory=directory)

    def do_POST(self) -> None:
        self.report.record = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.report.set()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def serve(site: Path) -> Iterator[tuple[str, Report]]:
    report = Report()
    handler = functools.partial(Handler, report, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", report
        finally:
            server.shutdown()
            thread.join()
