/** Protocol buffers as far as ONNX files need them: a message as its fields, and back. */

/**
 * One field: bytes for strings, messages and packed numbers, a bigint for numbers.
 * @typedef {{number: number, wire: number, value: Uint8Array | bigint}} Field
 */

const VARINT = 0;
const FIXED_64 = 1;
const BYTES = 2;
const FIXED_32 = 5;
const decoder = new TextDecoder();
const encoder = new TextEncoder();

/** @param {Uint8Array} bytes @returns {Field[]} the fields in their order; RangeError where it is no message */
export function parse(bytes) {
  const fields = [];
  const reader = { bytes, at: 0 };
  while (reader.at < bytes.length) {
    const key = Number(readVarint(reader));
    const [number, wire] = [Math.floor(key / 8), key % 8];
    if (wire === VARINT) fields.push({ number, wire, value: readVarint(reader) });
    else if (wire === BYTES) fields.push({ number, wire, value: take(reader, Number(readVarint(reader))) });
    else if (wire === FIXED_64 || wire === FIXED_32)
      fields.push({ number, wire, value: take(reader, wire === FIXED_64 ? 8 : 4) });
    else throw new RangeError(`wire type ${wire}`);
  }
  return fields;
}

/** @param {readonly Field[]} fields */
export function serialize(fields) {
  /** @type {Uint8Array[]} */
  const parts = [];
  for (const { number, wire, value } of fields) {
    parts.push(varint(BigInt(number * 8 + wire)));
    if (typeof value === 'bigint') parts.push(varint(value));
    else if (wire === BYTES) parts.push(varint(BigInt(value.length)), value);
    else parts.push(value);
  }
  return joined(parts);
}

/** @param {number} number @param {string | Uint8Array | readonly Field[]} value @returns {Field} */
export function field(number, value) {
  if (typeof value === 'string') return { number, wire: BYTES, value: encoder.encode(value) };
  return { number, wire: BYTES, value: value instanceof Uint8Array ? value : serialize(value) };
}

/** @param {number} number @param {number} value a whole one @returns {Field} */
export function numberField(number, value) {
  return { number, wire: VARINT, value: BigInt.asUintN(64, BigInt(value)) };
}

/** The messages of a repeated field. @param {readonly Field[]} fields @param {number} number @returns {Uint8Array[]} */
export function all(fields, number) {
  return fields.flatMap((each) => (each.number === number && each.value instanceof Uint8Array ? [each.value] : []));
}

/** @param {readonly Field[]} fields @param {number} number */
export function texts(fields, number) {
  return all(fields, number).map((bytes) => decoder.decode(bytes));
}

/** @param {readonly Field[]} fields @param {number} number */
export function text(fields, number) {
  return texts(fields, number)[0] ?? '';
}

/** @param {readonly Field[]} fields @param {number} number @returns {number[]} packed or not */
export function numbers(fields, number) {
  return fields
    .filter((each) => each.number === number)
    .flatMap(({ value }) => {
      if (typeof value === 'bigint') return [Number(value)];
      const reader = { bytes: value, at: 0 };
      const found = [];
      while (reader.at < value.length) found.push(Number(readVarint(reader)));
      return found;
    });
}

/** @param {{bytes: Uint8Array, at: number}} reader */
function readVarint(reader) {
  let value = 0n;
  for (let shift = 0n; ; shift += 7n) {
    const byte = take(reader, 1)[0];
    value |= BigInt(byte & 127) << shift;
    if (byte < 128) return value;
    if (shift > 63n) throw new RangeError('a number of more than 64 bits');
  }
}

/** @param {{bytes: Uint8Array, at: number}} reader @param {number} count */
function take(reader, count) {
  const end = reader.at + count;
  if (end > reader.bytes.length) throw new RangeError('the message ends early');
  const taken = reader.bytes.subarray(reader.at, end);
  reader.at = end;
  return taken;
}

/** @param {bigint} value */
function varint(value) {
  const bytes = [];
  for (; value > 127n; value >>= 7n) bytes.push(Number(value & 127n) | 128);
  return Uint8Array.from([...bytes, Number(value)]);
}

/** @param {readonly Uint8Array[]} parts */
export function joined(parts) {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
