// node examples/node/chat.mjs FOLDER "What is water?"    (once: npm install --prefix javascript --ignore-scripts)
import { load } from "../../javascript/src/index.js";

const [folder, question] = process.argv.slice(2);
const model = await load(folder);
const stream = model.chat([{ role: "user", content: question }], {
  stream: true,
  maxNewTokens: 100,
});
for await (const piece of stream) process.stdout.write(piece);

const { completionTokens, decodeTokensPerS } = stream.result;
console.log(
  `\n${completionTokens} tokens, ${decodeTokensPerS.toFixed(0)} tokens/s`,
);
await model.dispose();
