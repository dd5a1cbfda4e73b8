/**
 * Graphs for WebAssembly, where GroupQueryAttention is slow over several tokens: those attend by ONNX's Attention.
 *
 * A prompt of 256 tokens takes less than half the time so (docs/javascript.md). One token stays with GroupQueryAttention,
 * which reads the state in place; ONNX's operator takes the keys of the past and the new ones apart.
 */

import * as onnx from './onnx_graph.js';

/** @typedef {import('./onnx_graph.js').Node} Node */
/** @typedef {ReturnType<typeof import('./onnx_graph.js').readModel>} Model */

const OPSET = 24; // TensorScatter's
const [COS, SIN, BIAS] = [7, 8, 10]; // places among the inputs of GroupQueryAttention
const READ = ['do_rotary', 'kv_num_heads', 'num_heads', 'scale']; // attributes
const TOTAL = 'total_sequence_length'; // an input of the graph
const [TOKENS, SEVERAL, PAST] = ['prompt.tokens', 'prompt.several', 'prompt.past'];
const [ZERO, ONE, SLOTS, BY_HEAD, WIDTHS] = ['zero', 'one', 'slots', 'by_head', 'widths'].map(
  (each) => `prompt.${each}`,
);

/** A graph whose prompts attend so. @param {Uint8Array} bytes of the graph @param {string} file its name */
export function withPromptAttention(bytes, file) {
  const model = onnx.readModel(bytes, file);
  const attends = model.nodes.filter(isRead);
  if (!attends.length) return bytes;
  const nodes = model.nodes.map((each) => (attends.includes(each) ? eitherWay(each) : each.bytes));
  return onnx.writeModel(
    onnx.withOpset(model, OPSET),
    [...counts(attends[0], model), ...nodes],
    model.initializers.map((each) => each.bytes),
  );
}

/**
 * Whether a node attends in float32 for all tokens of a call, unlike those of a draft, to all keys of a state that it goes
 * on writing. Where it turns queries and keys, it turns all of their numbers, as in every export. @param {Node} each
 */
function isRead(each) {
  const others = each.inputs.filter((name, place) => name && place > 6 && ![COS, SIN, BIAS].includes(place));
  const isPlain = [...onnx.attributesOf(each).keys()].every((name) => READ.includes(name));
  return each.opType === 'GroupQueryAttention' && each.inputs[6] === TOTAL && !others.length && isPlain;
}

/** Numbers of a key. @param {Node} attention @param {Model} model */
function channelsOf(attention, model) {
  return Number(onnx.inputShapes(model).get(attention.inputs[3])?.[3]);
}

/** The numbers that all layers read. @param {Node} attention one of them @param {Model} model */
function counts(attention, model) {
  const constant = (/** @type {string} */ name, /** @type {number[]} */ values) =>
    onnx.node('Constant', [], [name], '', {}, [onnx.integersAttribute('value_ints', values)]);
  const { num_heads: heads, kv_num_heads: kvHeads } = attention.integers;
  const channels = channelsOf(attention, model);
  return [
    constant(ZERO, [0]),
    constant(ONE, [1]),
    constant(SLOTS, [2]),
    constant(BY_HEAD, [0, 0, kvHeads, channels]),
    constant(
      WIDTHS,
      [heads, kvHeads, kvHeads].map((count) => count * channels),
    ),
    onnx.node('Shape', ['input_ids'], [TOKENS], '', { start: 1, end: 2 }),
    onnx.node('Greater', [TOKENS, ONE], [SEVERAL], ''),
    onnx.node('Cast', [TOTAL], [`${PAST}.total`], '', { to: onnx.INT64 }),
    onnx.node('Sub', [`${PAST}.total`, TOKENS], [PAST], ''),
  ];
}

/** One node in place of an attention: it chooses by the number of tokens. @param {Node} attention */
function eitherWay(attention) {
  const { inputs, outputs } = attention;
  const [one, several] = ['one', 'several'].map((ending) => outputs.map((name) => `${name}.${ending}`));
  const attributes = [...onnx.attributesOf(attention).values()];
  const single = onnx.node('GroupQueryAttention', inputs, one, 'com.microsoft', {}, attributes);
  /** @param {string} name @param {Uint8Array[]} nodes @param {string[]} names */
  const branch = (name, nodes, names) =>
    onnx.graphAttribute(
      name,
      nodes,
      names.map((each) => [each, onnx.FLOAT32]),
    );
  return onnx.node('If', [SEVERAL], outputs, '', {}, [
    branch('then_branch', attending(attention, several), several),
    branch('else_branch', [single], one),
  ]);
}

/** The nodes that several tokens take. @param {Node} attention @param {string[]} outputs */
function attending(attention, [output, ...presents]) {
  const { inputs, integers } = attention;
  const { num_heads: q_num_heads, kv_num_heads } = integers;
  const scale = onnx.attributesOf(attention).get('scale');
  const { nodes, names } = rotated(attention, ...apart(attention, output));
  const pasts = inputs.slice(3, 5);
  const kept = presents.map((name) => `${name}.past`);
  return [
    ...nodes,
    ...pasts.map((past, i) => onnx.node('Slice', [past, ZERO, PAST, SLOTS], [kept[i]], '')),
    onnx.node(
      'Attention',
      [...names, inputs[BIAS] ?? '', ...kept],
      [output, ...presents.map((name) => `${name}.all`)],
      '',
      { is_causal: 1, q_num_heads, kv_num_heads },
      scale ? [scale] : [],
    ),
    ...names.slice(1).flatMap((rows, i) => written(rows, pasts[i], presents[i])),
  ];
}

/**
 * Queries, keys and values: the nodes that part them where they are one input, and their names.
 * @param {Node} attention @param {string} output @returns {[Uint8Array[], string[]]}
 */
function apart({ inputs }, output) {
  if (inputs[1]) return [[], inputs.slice(0, 3)];
  const names = ['q', 'k', 'v'].map((each) => `${output}.${each}`);
  return [[onnx.node('Split', [inputs[0], WIDTHS], names, '', { axis: 2 })], names];
}

/**
 * The same, with queries and keys turned by their positions where the attention does that.
 * @param {Node} attention @param {Uint8Array[]} nodes @param {string[]} names
 */
function rotated({ inputs, integers }, nodes, [q, k, v]) {
  if (!integers.do_rotary) return { nodes, names: [q, k, v] };
  const turned = [q, k].map((name) => `${name}.rotated`);
  const rotary = [integers.num_heads, integers.kv_num_heads].map((num_heads, i) =>
    onnx.node('RotaryEmbedding', [[q, k][i], PAST, inputs[COS], inputs[SIN]], [turned[i]], 'com.microsoft', {
      num_heads,
    }),
  );
  return { nodes: [...nodes, ...rotary], names: [...turned, v] };
}

/** New rows of all heads behind a state's last. @param {string} rows @param {string} past @param {string} present */
function written(rows, past, present) {
  const [parted, byHead] = [`${present}.parted`, `${present}.by_head`];
  return [
    onnx.node('Reshape', [rows, BY_HEAD], [parted], ''),
    onnx.node('Transpose', [parted], [byHead], '', {}, [onnx.integersAttribute('perm', [0, 2, 1, 3])]),
    onnx.node('TensorScatter', [past, byHead, PAST], [present], ''),
  ];
}
