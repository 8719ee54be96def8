// A kdserve bundle in JavaScript: the same vectors as kdserve.runtime.Encoder, in Node and in the browser.

import { Tokenizer } from "@huggingface/tokenizers";

const STEPS = [[32, 4], [64, 8], [128, 16], [512, 32]];
// Of a long text no more is looked at: half of what kdserve/runtime/tokens.py does, as the library here overflows the
// stack on a word of some 120,000 characters.
const CHARACTERS_PER_TOKEN = 128;

// The padded length of a text: the next step of a fixed ladder, as in kdserve/runtime/batches.py.
export function canonicalLength(numTokens) {
  const [, step] = STEPS.find(([limit]) => numTokens <= limit) ?? [Infinity, 64];
  return Math.max(step, Math.ceil(numTokens / step) * step);
}

export class Encoder {
  // ort: onnxruntime-node or onnxruntime-web. read(name): the bytes of one of the bundle's files, as a Uint8Array.
  static async load(ort, read) {
    const json = async (name) => JSON.parse(new TextDecoder().decode(await read(name)));
    const tokenizer = await json("tokenizer.json");
    const { prompts } = await json("config_sentence_transformers.json");
    return new Encoder(ort, await ort.InferenceSession.create(await read("model.onnx")), tokenizer, prompts);
  }

  constructor(ort, session, tokenizer, prompts) {
    Object.assign(this, { ort, session, prompts });
    this.maxTokens = tokenizer.truncation.max_length;
    this.padId = tokenizer.padding?.pad_id ?? 0;
    const single = tokenizer.post_processor?.single ?? [{ Sequence: {} }];
    this.numAfter = single.length - 1 - single.findIndex((step) => "Sequence" in step);
    this.unknownId = tokenizer.model.unk_id;
    this.byteIds = byteFallback(tokenizer.model);
    const normalizer = lowerEachLetter(tokenizer.normalizer);
    this.tokenizer = new Tokenizer({ ...tokenizer, normalizer, pre_tokenizer: isolateMarks(tokenizer.pre_tokenizer) }, {});
  }

  encodeQuery(texts) {
    return this.#encode(texts, this.prompts.query);
  }

  encodeDocument(texts) {
    return this.#encode(texts, this.prompts.document);
  }

  // One Float32Array of unit length for each text.
  async #encode(texts, prompt) {
    const vectors = [];
    for (const text of requireTexts(texts)) {
      const read = firstCharacters(prompt + text, this.maxTokens * CHARACTERS_PER_TOKEN);
      vectors.push(await this.#embed(this.#cut(this.#tokenize(read))));
    }
    return vectors;
  }

  // The tokenizers library for JavaScript leaves a Unigram model's byte fallback out: an unknown piece becomes its bytes.
  #tokenize(text) {
    const { ids, tokens } = this.tokenizer.encode(text);
    if (!this.byteIds) return ids;
    return ids.flatMap((id, i) =>
      id === this.unknownId ? Array.from(new TextEncoder().encode(tokens[i]), (byte) => this.byteIds[byte]) : id,
    );
  }

  #cut(ids) {
    if (ids.length <= this.maxTokens) return ids;
    const after = ids.slice(ids.length - this.numAfter);
    return [...ids.slice(0, this.maxTokens - this.numAfter), ...after];
  }

  async #embed(ids) {
    const width = canonicalLength(ids.length);
    const padded = BigInt64Array.from({ length: width }, (_, i) => BigInt(ids[i] ?? this.padId));
    const mask = BigInt64Array.from({ length: width }, (_, i) => (i < ids.length ? 1n : 0n));
    const feeds = {
      input_ids: new this.ort.Tensor("int64", padded, [1, width]),
      attention_mask: new this.ort.Tensor("int64", mask, [1, width]),
    };
    const { sentence_embedding } = await this.session.run(feeds, ["sentence_embedding"]);
    return Float32Array.from(sentence_embedding.data);
  }
}

// What Python refuses: anything else would be embedded as the word that it is written with, or as another character.
function requireTexts(texts) {
  if (typeof texts === "string") throw new TypeError("expected a list of texts, got one string; put it into a list");
  const listed = Array.from(texts);
  for (const [n, text] of listed.entries()) {
    if (typeof text !== "string") throw new TypeError(`text ${n} is ${typeof text}, not string`);
    if (/\p{Surrogate}/u.test(text)) throw new TypeError(`text ${n} holds half a surrogate pair; cut it between characters`);
  }
  return listed;
}

function firstCharacters(text, most) {
  return text.length <= most ? text : Array.from(text.slice(0, 2 * most)).slice(0, most).join("");
}

// JavaScript writes a capital sigma at the end of a word as ς, the original every one as σ.
function lowerEachLetter(step) {
  if (step?.type === "Sequence") return { ...step, normalizers: step.normalizers.map(lowerEachLetter) };
  const lowers = step?.type === "Lowercase" || (step?.type === "BertNormalizer" && step.lowercase);
  const sigma = { type: "Replace", pattern: { String: "Σ" }, content: "σ" };
  return lowers ? { type: "Sequence", normalizers: [sigma, step] } : step;
}

// The library for JavaScript keeps runs of punctuation together, where the original isolates each mark, and knows only
// the digits 0 to 9.
function isolateMarks(step) {
  if (step?.type === "Sequence") return { ...step, pretokenizers: step.pretokenizers.map(isolateMarks) };
  const mark = {
    Punctuation: step?.behavior === "Isolated" && "[\\p{P}\\u0021-\\u002F\\u003A-\\u0040\\u005B-\\u0060\\u007B-\\u007E]",
    Digits: step?.individual_digits && "\\p{N}",
  }[step?.type];
  return mark ? { type: "Split", pattern: { Regex: mark }, behavior: "Isolated", invert: false } : step;
}

// The ids of the pieces <0x00> to <0xFF>, or null where the model has no fallback to bytes.
function byteFallback(model) {
  if (model.type !== "Unigram" || !model.byte_fallback) return null;
  const ids = new Map(model.vocab.map(([piece], id) => [piece, id]));
  const name = (byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
  const bytes = Array.from({ length: 256 }, (_, byte) => ids.get(name(byte)));
  return bytes.includes(undefined) ? null : bytes;
}

// Unit vectors: their inner product is the cosine.
export function score(left, right) {
  return left.reduce((sum, value, i) => sum + value * right[i], 0);
}
