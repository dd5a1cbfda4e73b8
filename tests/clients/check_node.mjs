// OpenAI's client of Node gets the answers of the library: node tests/clients/check_node.mjs ADDRESS WORK
// Whole, streamed, all at once, JSON by a schema, and an error. It ends in an AssertionError where one differs.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import OpenAI from 'openai';

const [address, work] = process.argv.slice(2);
const table = JSON.parse(readFileSync(`${work}/answers.json`));
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: 'none', maxRetries: 0 });
const { model } = table;

async function check(question) {
  const { temperature, seed, max_tokens } = question;
  const settings = { model, temperature, seed, max_tokens };
  const messages = [{ role: 'user', content: question.text }];
  const chat = await client.chat.completions.create({ ...settings, messages });
  assert.equal(chat.choices[0].message.content, question.chat);
  let text = '';
  for await (const chunk of await client.chat.completions.create({ ...settings, messages, stream: true }))
    text += chunk.choices[0]?.delta?.content ?? '';
  assert.equal(text, question.chat);
  const completion = await client.completions.create({ ...settings, prompt: question.text });
  assert.equal(completion.choices[0].text, question.completion);
  const response_format = { type: 'json_schema', json_schema: { name: 'animal', schema: table.schema } };
  const form = await client.chat.completions.create({ ...settings, max_tokens: 100, messages, response_format });
  assert.equal(form.choices[0].message.content, question.json);
}

await Promise.all(table.questions.map(check));
for await (const listed of client.models.list()) assert.equal(listed.id, model);
await assert.rejects(client.completions.create({ model, prompt: 'a', temperature: 9 }), (error) => {
  assert.equal(error.status, 400);
  assert.equal(error.param, 'temperature');
  return error instanceof OpenAI.BadRequestError;
});
const aborted = await client.completions.create({ model, prompt: 'a', max_tokens: 100000, stream: true });
for await (const _ of aborted) break; // the client leaves, and frees its place
console.log(`openai for Node: ${table.questions.length} questions, the answers of the library`);
