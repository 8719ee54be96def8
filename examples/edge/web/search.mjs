// The page: embed the documents once, then each query as it is typed.

import * as ort from "onnxruntime-web";
import { Encoder, score } from "./encoder.mjs";

const NUM_HITS = 5;

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.numThreads = 1;

const read = async (name) => {
  const response = await fetch(`./bundle/${name}`);
  if (!response.ok) throw new Error(`${name}: ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
};
const [encoder, documents] = await Promise.all([
  Encoder.load(ort, read),
  fetch("./documents.json").then((response) => response.json()),
]);
const vectors = await encoder.encodeDocument(documents.map((document) => document.text));

const input = document.getElementById("query");
const hits = document.getElementById("hits");
input.disabled = false;
input.placeholder = `Ask in any language (${documents.length} documents)`;
input.addEventListener("input", async () => {
  const asked = input.value;
  const [query] = await encoder.encodeQuery([asked]);
  if (asked !== input.value) return; // a newer query is on its way
  const ranked = documents
    .map((found, i) => ({ ...found, score: score(query, vectors[i]) }))
    .sort((a, b) => b.score - a.score)
    .slice(0, NUM_HITS);
  hits.replaceChildren(...ranked.map(show));
});

function show({ text, lang, score }) {
  const item = document.createElement("li");
  const note = document.createElement("small");
  note.textContent = ` ${lang} ${score.toFixed(3)}`;
  item.append(text, note);
  return item;
}

// What the test looks at.
window.kdserve = { documents, vectors };
window.dispatchEvent(new Event("kdserve-ready"));
