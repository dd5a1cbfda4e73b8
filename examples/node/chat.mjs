// node examples/node/chat.mjs FOLDER "What is water?"    (once: npm install --prefix javascript --ignore-scripts)
import { DogeError, load } from "../../javascript/src/index.js";

async function chat(folder, question = "What is water?") {
  const model = await load(folder);
  const messages = [{ role: "user", content: question }];
  const stream = model.chat(messages, { stream: true, maxNewTokens: 100 });
  for await (const piece of stream) process.stdout.write(piece);

  const { completionTokens, decodeTokensPerS } = stream.result;
  console.log(
    `\n${completionTokens} tokens, ${decodeTokensPerS.toFixed(0)} tokens/s`,
  );
  await model.dispose();
}

await chat(...process.argv.slice(2)).catch((error) => {
  if (!(error instanceof DogeError)) throw error;
  console.error(`Error: ${error.message}`); // one sentence
  process.exitCode = 1;
});
