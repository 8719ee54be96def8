// node node.mjs BUNDLE < texts: one text a line in, one JSON vector a line out.

import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import * as ort from "onnxruntime-node";
import { Encoder } from "./encoder.mjs";

const [bundle] = process.argv.slice(2);
if (!bundle || !existsSync(join(bundle, "model.onnx"))) {
  console.error("usage: node node.mjs BUNDLE < texts, where BUNDLE is a bundle's folder; `kdserve models` prints them");
  process.exit(2);
}
process.stdout.on("error", () => process.exit()); // a reader that has had enough: node.mjs … | head
const encoder = await Encoder.load(ort, (name) => readFile(join(bundle, name)));
for await (const line of createInterface({ input: process.stdin })) {
  const [vector] = await encoder.encodeDocument([line]);
  console.log(JSON.stringify(Array.from(vector)));
}
