// node openai.mjs URL < texts.json: the vectors of some texts, once as asked for by default and once as numbers.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "no-key-is-asked-for" });
const input = JSON.parse(readFileSync(0, "utf-8"));
const model = "kdserve-static";
const replies = [
  await client.embeddings.create({ model, input }),
  await client.embeddings.create({ model, input, encoding_format: "float" }),
];
console.log(JSON.stringify(replies.map((reply) => reply.data.map((item) => Array.from(item.embedding)))));
