/**
 * Adapter files of onnxruntime, flatbuffers of named tensors. Source: onnxruntime/lora/adapter_format/adapter_schema.fbs.
 *
 * onnxruntime's packages for JavaScript read none. The library `flatbuffers` gives zeros for what lies beyond a file that
 * was cut, and a DataView refuses to.
 */

const IDENTIFIER = 'TORT'; // behind the offset of the root table
const FORMAT_VERSION = 1;
const ADAPTER = { formatVersion: 0, modelVersion: 2, parameters: 3 }; // the places of fields in their tables
const PARAMETER = { name: 0, dims: 1, dataType: 2, rawData: 3 };
const [POSITION, DIM] = [4, 8]; // bytes of an element

/** dataType: onnx.proto's number. @typedef {{dims: readonly number[], dataType: number, bytes: Uint8Array}} Parameter */

/**
 * The number of the base, and tensors by their names; RangeError or TypeError where the bytes are no such file, or cut.
 * @param {Uint8Array} bytes
 */
export function readAdapterFile(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (textOf(bytes.subarray(POSITION, POSITION + IDENTIFIER.length)) !== IDENTIFIER)
    throw new RangeError(`it does not begin as such a file`);
  const root = new Table(view, view.getUint32(0, true));
  const version = root.int32(ADAPTER.formatVersion);
  if (version !== FORMAT_VERSION) throw new RangeError(`its format is ${version}`);
  /** @type {Map<string, Parameter>} */
  const parameters = new Map();
  for (const table of root.tables(ADAPTER.parameters)) {
    const name = textOf(table.bytes(PARAMETER.name));
    if (parameters.has(name)) throw new RangeError(`it has ${name} twice`);
    const [dims, dataType] = [table.sizes(PARAMETER.dims), table.int32(PARAMETER.dataType)];
    parameters.set(name, { dims, dataType, bytes: table.bytes(PARAMETER.rawData) });
  }
  return { modelVersion: root.int32(ADAPTER.modelVersion), parameters };
}

/** A table of fields, each of which may be left out. A read beyond the file is a RangeError. */
class Table {
  /** @param {DataView} view of the file @param {number} at */
  constructor(view, at) {
    this.view = view;
    this.at = at;
    this.places = at - view.getInt32(at, true); // of the table of the fields' places
    this.end = view.getUint16(this.places, true);
  }

  /** Where a field lies, null where it is left out. @param {number} field */
  placeOf(field) {
    const entry = 4 + 2 * field; // behind two sizes
    const offset = entry < this.end ? this.view.getUint16(this.places + entry, true) : 0;
    return offset ? this.at + offset : null;
  }

  /** 0 where it is left out. @param {number} field */
  int32(field) {
    const at = this.placeOf(field);
    return at === null ? 0 : this.view.getInt32(at, true);
  }

  /** The first byte of a vector's elements and their number. @param {number} field @param {number} size of an element */
  vector(field, size) {
    const place = this.placeOf(field);
    if (place === null) return { at: 0, length: 0 };
    const start = place + this.view.getUint32(place, true);
    const [at, length] = [start + POSITION, this.view.getUint32(start, true)];
    if (at + length * size > this.view.byteLength) throw new RangeError('it ends early');
    return { at, length };
  }

  /** @param {number} field */
  bytes(field) {
    const { at, length } = this.vector(field, 1);
    return new Uint8Array(this.view.buffer, this.view.byteOffset + at, length);
  }

  /** Numbers of 64 bits that count something. @param {number} field */
  sizes(field) {
    const { at, length } = this.vector(field, DIM);
    const found = Array.from({ length }, (_, i) => Number(this.view.getBigInt64(at + DIM * i, true)));
    if (found.some((size) => size < 0)) throw new RangeError(`it has the shape ${found}`);
    return found;
  }

  /** @param {number} field */
  tables(field) {
    const { at, length } = this.vector(field, POSITION);
    const places = Array.from({ length }, (_, i) => at + POSITION * i);
    return places.map((place) => new Table(this.view, place + this.view.getUint32(place, true)));
  }
}

/** TypeError for bytes that are no UTF-8. @param {Uint8Array} bytes */
function textOf(bytes) {
  return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
}
